//! How many messages are being submitted at once.
//!
//! A call waits for its turn before its request is read, so that what is held in memory is bounded by the number of turns
//! and not by that of the callers. Who waits may give up by a deadline of their own; who has a turn must use it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::Semaphore;
use tonic::{
    Code,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::errors::error;

/// So many submissions are under way at once; one that waits is next.
const AT_ONCE: usize = 4;
/// A submission must be sent and stored within this time of its turn.
const TURN: Duration = Duration::from_secs(120);
/// The methods, behind the name of their service.
const METHODS: [&str; 2] = ["/SubmitMessage", "/ImportMessage"];

/// A service whose submissions take turns. Its other methods are called at once.
#[derive(Clone)]
pub(super) struct Submissions<S> {
    service: S,
    turns: Arc<Semaphore>,
}

impl<S> Submissions<S> {
    pub(super) fn new(service: S) -> Self {
        Self {
            service,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl<S: NamedService> NamedService for Submissions<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Submissions<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        if !METHODS.iter().any(|method| path.ends_with(method)) {
            return Box::pin(self.service.call(request));
        }
        // The service that was found ready is the one to call; its copy is asked next time.
        let copy = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, copy);
        let turns = Arc::clone(&self.turns);
        Box::pin(async move {
            // Never closed, so that this cannot fail.
            let _turn = turns.acquire_owned().await.ok();
            tokio::time::timeout(TURN, service.call(request))
                .await
                .unwrap_or_else(|_| {
                    let message = format!("the message was not there and stored within {TURN:?}");
                    Ok(error(Code::DeadlineExceeded, "TOO_SLOW", message, &[]).into_http())
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn request(method: &str) -> http::Request<()> {
        http::Request::builder().uri(method).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn submissions_take_turns_a_turn_ends_and_other_methods_wait_for_nobody() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let mut service = Submissions::new(tower::service_fn(move |_: http::Request<()>| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<http::Response<Body>, Infallible>>()
        }));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..=AT_ONCE {
            calls.spawn(service.call(request("/linkmail.relay.v1.MessageService/SubmitMessage")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), AT_ONCE);
        calls.spawn(service.call(request("/linkmail.relay.v1.MessageService/GetMessage")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), AT_ONCE + 1);

        let answer = calls.join_next().await.unwrap().unwrap().unwrap();
        let status = tonic::Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), AT_ONCE + 2);
    }
}
