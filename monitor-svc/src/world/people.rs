//! Those who are told. They hear of everything, and may refuse to listen for a while.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::Steps;
use crate::{
    clock::{Clock, Stamp},
    notify::{Channel, Waiting},
};

/// What the people heard. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct People {
    clock: Clock,
    heard: Arc<Mutex<Heard>>,
    steps: Steps,
}

#[derive(Debug, Default)]
struct Heard {
    notices: Vec<Value>,
    attempts: Vec<Stamp>,
    deaf_until: Option<Stamp>,
    deaf_to: Option<String>,
}

impl People {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            heard: Arc::default(),
            steps: Steps::default(),
        }
    }

    /// The same people, as another process reaches them.
    pub(crate) fn reached_by(&self, steps: Steps) -> Self {
        Self {
            steps,
            ..self.clone()
        }
    }

    /// They do not listen until then.
    pub(crate) fn deafen(&self, until: Stamp) {
        self.heard.lock().unwrap().deaf_until = Some(until);
    }

    /// They never listen to anything about this monitor.
    pub(crate) fn ignore(&self, monitor: &str) {
        self.heard.lock().unwrap().deaf_to = Some(monitor.to_owned());
    }

    /// When somebody tried to tell them something.
    pub(crate) fn attempts(&self) -> Vec<Stamp> {
        self.heard.lock().unwrap().attempts.clone()
    }

    /// What they heard, each notice once however often it came, in the order in which it came first.
    pub(crate) fn notices(&self) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        let mut once: Vec<Value> = Vec::new();
        for notice in &heard.notices {
            match once.iter().find(|known| known["id"] == notice["id"]) {
                Some(known) => assert_eq!(known, notice, "a repeat says the same"),
                None => once.push(notice.clone()),
            }
        }
        once
    }
}

impl Channel for People {
    async fn deliver(&self, notice: &Waiting) -> Result<(), String> {
        let step = self.steps.before().await;
        let told = {
            let mut heard = self.heard.lock().unwrap();
            heard.attempts.push(self.clock.now());
            let deaf = heard
                .deaf_until
                .is_some_and(|until| self.clock.now() < until);
            if deaf || heard.deaf_to.as_deref() == Some(notice.monitor.as_str()) {
                Err("nobody@pager.example does not listen".to_owned())
            } else {
                heard
                    .notices
                    .push(serde_json::from_str(&notice.body).unwrap());
                Ok(())
            }
        };
        self.steps.after(step).await;
        told
    }
}
