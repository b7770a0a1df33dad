//! How a connection is closed by the side that spoke last: octets that are unread when it closes become a reset, which can
//! destroy what was said last on its way.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// So long the other side may still send, and so many octets.
const LIMITS: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);

/// Says that nothing more comes, and reads until the other side closes too; for 2 s and 1 MiB at most.
pub async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = timeout(LIMITS.0, async {
        let mut octets = [0; 512];
        let mut rest = LIMITS.1;
        stream.shutdown().await?;
        while rest > 0 {
            match stream.read(&mut octets).await? {
                0 => break,
                count => rest = rest.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_was_said_last_arrives_although_much_is_unread() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[b'x'; 200_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 1000]).await.unwrap();
        stream.write_all(b"421 enough\r\n").await.unwrap();
        close(stream).await;
        assert_eq!(client.await.unwrap(), "421 enough\r\n");
    }
}
