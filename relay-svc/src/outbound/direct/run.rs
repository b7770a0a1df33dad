//! One task for all domains: it looks which have mail that is due, and gives them their turns, so many at once.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    deliver::{Came, Direct},
    turns::Turns,
};
use crate::{names::NextHop, spool::SpoolError};

/// Signals are hints: it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The pauses when no name server answers, or the spool does not: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Each outcome that is recorded wakes us: two looks are so long apart.
const BREATH: Duration = Duration::from_millis(50);

/// Delivers to the exchangers of domains, so many domains at once, until cancelled; ends when the turns have ended.
pub async fn run(direct: Direct, at_once: usize, cancel: CancellationToken) {
    let mut woken = direct.forwarder.spool.watch_hop(NextHop::MX);
    let mut turns = Turns::default();
    let mut running = JoinSet::new();
    let (mut rest_until, mut pause) = (None::<Instant>, PAUSE.0);
    loop {
        woken.mark_unchanged();
        let now = Instant::now();
        let breath = now + BREATH;
        let rests = rest_until.filter(|until| *until > now);
        let mut wake = rests.unwrap_or(now + LOOK_AGAIN);
        if rests.is_none() {
            match look(&direct, &mut turns, at_once, running.len()).await {
                Ok((hops, at)) => {
                    wake = at.unwrap_or(wake).min(wake);
                    for hop in hops {
                        let (direct, cancel) = (direct.clone(), cancel.clone());
                        running.spawn(async move { (take(&direct, &hop, &cancel).await, hop) });
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    wake = now + pause;
                    rest_until = Some(wake);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(ended) = running.join_next() => {
                let Ok((came, hop)) = ended else {
                    // Its domain stays busy: a defect would only come again.
                    tracing::error!("a delivery ended by a defect of its own");
                    continue;
                };
                match came {
                    Came::ToItsEnd => {
                        turns.done(&hop);
                        pause = PAUSE.0;
                    }
                    Came::Cancelled => turns.done(&hop),
                    Came::Broke(why) => {
                        tracing::warn!(hop, why, "delivery paused");
                        turns.broke(&hop, Instant::now());
                    }
                    // It rests as one that broke, and is looked at again.
                    Came::Elsewhere => turns.broke(&hop, Instant::now()),
                    Came::NoNameServer(why) | Came::Spool(why) => {
                        turns.done(&hop);
                        let until = Instant::now() + pause;
                        // All turns that are under way may end so: that is one pause.
                        if rest_until.is_none_or(|rests| rests < Instant::now()) {
                            tracing::warn!(hop, why, "delivery to mail exchangers paused");
                            rest_until = Some(until);
                            pause = (pause * 2).min(PAUSE.1);
                        }
                    }
                }
            }
            _ = woken.changed() => sleep_until(breath).await,
            () = sleep_until(wake) => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Those whose turn begins now, and when to look again if nothing happens.
async fn look(
    direct: &Direct,
    turns: &mut Turns,
    at_once: usize,
    running: usize,
) -> Result<(Vec<String>, Option<Instant>), SpoolError> {
    let free = at_once.saturating_sub(running);
    if free == 0 {
        return Ok((Vec::new(), None));
    }
    let spool = &direct.forwarder.spool;
    let (now, tick) = (Instant::now(), spool.tick());
    // Those that are busy or rest stand among those that are due.
    let limit = LOOKED_AT.max(2 * at_once);
    let mut begun = turns.begin(spool.late_domains(), free, now);
    let mut next = turns.next_rested(now);
    let last = turns.last().to_owned();
    let starts = if last.is_empty() {
        vec![last]
    } else {
        vec![last, String::new()]
    };
    for mut after in starts {
        loop {
            let page = spool.due_hops(NextHop::MX, after, tick, limit).await?;
            let due = page.next_due.map(|due| now + due.since(tick));
            next = next.into_iter().chain(due).min();
            let Some(end) = page.hops.last().cloned() else {
                break;
            };
            let whole = page.hops.len() < limit;
            begun.extend(turns.begin(page.hops, free - begun.len(), now));
            if whole || begun.len() >= free {
                break;
            }
            after = end;
        }
        if begun.len() >= free {
            break;
        }
    }
    Ok((begun, next))
}

/// So many domains are looked at in one go.
const LOOKED_AT: usize = 200;

async fn take(direct: &Direct, hop: &str, cancel: &CancellationToken) -> Came {
    let Some(domain) = NextHop::parse_mx(hop) else {
        return Came::Broke("the spool names no domain".into());
    };
    let spool = &direct.forwarder.spool;
    let lease = match spool.claim(hop).await {
        Ok(Some(lease)) => lease,
        Ok(None) => return Came::Elsewhere,
        Err(error) => return error.into(),
    };
    let mut direct = direct.clone();
    direct.forwarder.spool = spool.under(&lease);
    if let Err(error) = direct
        .forwarder
        .judge_late(&NextHop::Mx(domain.clone()))
        .await
    {
        lease.give_back().await;
        return error.into();
    }
    let stop = cancel.child_token();
    let watched = async {
        lease.ends().cancelled().await;
        stop.cancel();
        std::future::pending::<Came>().await
    };
    let came = tokio::select! {
        came = direct.turn(&domain, &stop) => came,
        came = watched => came,
    };
    lease.give_back().await;
    came
}
