//! The two sides of a connection.

use std::{sync::Arc, time::Duration};

use linkmail_service::tls::{
    ClientSettings, ClientTls, MaybeTls, Mode, ReloadingIdentity, Roots, ServerFiles, ServerTls,
    TlsError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    join,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Ended = (
    Result<MaybeTls<DuplexStream>, TlsError>,
    Result<MaybeTls<DuplexStream>, TlsError>,
);

pub(crate) fn server(files: ServerFiles) -> ServerTls {
    ServerTls::new(Arc::new(ReloadingIdentity::load(files).unwrap())).unwrap()
}

pub(crate) fn trusting(authority: &super::authority::Authority) -> ClientSettings {
    ClientSettings {
        roots: Some(Roots::File(authority.roots())),
        ..ClientSettings::new(Mode::Require)
    }
}

pub(crate) fn client(settings: &ClientSettings) -> ClientTls {
    ClientTls::new(settings).unwrap()
}

/// The client's end and the server's. A client under TLS 1.3 is done before the server has looked at its certificate, and
/// gets tickets later: a word in each direction settles both.
pub(crate) async fn meet(client: &ClientTls, server: &ServerTls, host: &str) -> Ended {
    let (near, far) = duplex(1 << 16);
    let ended = join!(
        client.connect(near, host, PATIENCE),
        server.accept(far, PATIENCE)
    );
    settle(ended).await
}

async fn settle(ended: Ended) -> Ended {
    match ended {
        (Ok(mut near), Ok(mut far)) => {
            talk(&mut near, &mut far).await;
            (Ok(near), Ok(far))
        }
        ended => ended,
    }
}

pub(crate) async fn talk(near: &mut MaybeTls<DuplexStream>, far: &mut MaybeTls<DuplexStream>) {
    let mut octets = [0; 4];
    far.write_all(b"220 ").await.unwrap();
    far.flush().await.unwrap();
    near.read_exact(&mut octets).await.unwrap();
    assert_eq!(&octets, b"220 ");
    near.write_all(b"QUIT").await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut octets).await.unwrap();
    assert_eq!(&octets, b"QUIT");
}
