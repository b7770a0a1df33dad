//! The order of a cycle, step by step, without a line.

use super::*;

const PLAN: Plan = Plan {
    dial_attempts: 3,
    dial_pause: Duration::from_secs(10),
    asks: true,
    quiet: Duration::from_secs(10),
    receive_at_most: Duration::from_secs(3600),
    bounce_wait: Duration::from_secs(3),
};

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_line_that_does_not_come_up_is_dialled_three_times_and_is_missing() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    for attempt in 0..3 {
        let now = after(start, attempt * 10);
        assert_eq!(order.next(now), Action::Dial);
        order.dial_failed("busy".into(), now);
        assert_eq!(order.next(now), Action::TakeDown);
        order.taken_down();
    }
    assert_eq!(order.next(after(start, 30)), Action::End);
    assert_eq!(how(&order), (Outcome::LineMissing, "busy".into()));
}

#[test]
fn a_redial_that_helps_leaves_the_cycle_complete() {
    let start = Instant::now();
    let mut order = Order::new(
        Plan {
            asks: false,
            ..PLAN
        },
        start,
    );
    order.dial_failed("busy".into(), start);
    assert_eq!(order.next(start), Action::TakeDown);
    order.taken_down();
    assert_eq!(
        order.next(start),
        Action::Pause {
            until: after(start, 10)
        }
    );
    assert_eq!(order.next(after(start, 10)), Action::Dial);
    order.dialled();
    assert!(forwards(order.next(start)));
    order.forwarded(0, start);
    assert_eq!(order.next(start), Action::HangUp);
    order.hung_up();
    assert_eq!(order.next(start), Action::End);
    assert_eq!(how(&order), (Outcome::Complete, String::new()));
}

fn forwards(action: Action) -> bool {
    matches!(action, Action::Forward { .. })
}

/// A round of requests that began just now.
fn ask(
    order: &mut Order,
    announced: Announced,
    failures: Vec<String>,
    answered: bool,
    now: Instant,
) {
    let before = order.inflow.messages;
    order.asked(announced, failures, answered, now, before);
}

fn how(order: &Order) -> (Outcome, String) {
    let ending = order.ending();
    (ending.outcome, ending.error)
}

/// On the line, with `sent` messages forwarded at the start.
fn on_line(start: Instant, sent: u32) -> Order {
    let mut order = Order::new(PLAN, start);
    order.dialled();
    assert!(forwards(order.next(start)));
    order.forwarded(sent, start);
    assert_eq!(order.next(start), Action::Ask);
    order
}

fn inflow(messages: u32, open: u32, last: Instant) -> Inflow {
    Inflow {
        messages,
        open,
        last,
    }
}

#[test]
fn without_a_number_receiving_ends_after_quiet_and_the_provider_is_asked_again_for_bounces() {
    let start = Instant::now();
    let mut order = on_line(start, 2);
    ask(&mut order, Announced::Unknown, Vec::new(), true, start);
    assert_eq!(
        order.next(start),
        Action::Receive {
            until: after(start, 10)
        }
    );
    order.arrived(inflow(1, 0, after(start, 4)));
    assert_eq!(
        order.next(after(start, 4)),
        Action::Receive {
            until: after(start, 14)
        }
    );
    // The first request came right behind the mail, before any bounce of it.
    assert_eq!(order.next(after(start, 14)), Action::Ask);
    ask(
        &mut order,
        Announced::Nothing,
        Vec::new(),
        true,
        after(start, 14),
    );
    assert_eq!(order.next(after(start, 14)), Action::HangUp);
}

#[test]
fn with_a_number_receiving_ends_when_they_are_there() {
    let start = Instant::now();
    let mut order = on_line(start, 0);
    ask(&mut order, Announced::Messages(2), Vec::new(), true, start);
    order.arrived(inflow(1, 0, after(start, 1)));
    assert_eq!(
        order.next(after(start, 1)),
        Action::Receive {
            until: after(start, 11)
        }
    );
    order.arrived(inflow(1, 1, after(start, 2)));
    assert!(
        matches!(order.next(after(start, 60)), Action::Receive { .. }),
        "a transaction is under way"
    );
    order.arrived(inflow(2, 0, after(start, 61)));
    assert_eq!(order.next(after(start, 61)), Action::HangUp);
}

#[test]
fn an_announced_message_that_does_not_come_is_not_waited_for_for_ever() {
    let start = Instant::now();
    let mut order = on_line(start, 0);
    ask(&mut order, Announced::Messages(2), Vec::new(), true, start);
    assert_eq!(order.next(after(start, 10)), Action::HangUp);
}

#[test]
fn mail_that_arrives_while_receiving_is_forwarded_and_the_provider_asked_again() {
    let start = Instant::now();
    let mut order = on_line(start, 0);
    ask(&mut order, Announced::Unknown, Vec::new(), true, start);
    order.mail_waits();
    assert!(forwards(order.next(after(start, 1))));
    order.forwarded(1, after(start, 2));
    assert_eq!(
        order.next(after(start, 2)),
        Action::Receive {
            until: after(start, 10)
        }
    );
    assert_eq!(order.next(after(start, 10)), Action::Ask);
}

#[test]
fn after_an_answer_of_nothing_the_bounce_is_waited_for_before_asking_again() {
    let start = Instant::now();
    let mut order = on_line(start, 1);
    ask(&mut order, Announced::Nothing, Vec::new(), true, start);
    assert_eq!(
        order.next(start),
        Action::Receive {
            until: after(start, 3)
        }
    );
    assert_eq!(order.next(after(start, 3)), Action::Ask);
}

#[test]
fn a_smart_host_that_refuses_does_not_keep_the_provider_from_being_asked() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.dialled();
    for _ in 0..2 {
        assert!(forwards(order.next(start)));
        order.forward_failed(0, false, "554 go away".into(), false, start);
    }
    assert_eq!(order.next(start), Action::Ask);
    ask(&mut order, Announced::Nothing, Vec::new(), true, start);
    assert_eq!(order.next(start), Action::HangUp);
    order.hung_up();
    assert_eq!(how(&order), (Outcome::Incomplete, "554 go away".into()));
}

#[test]
fn a_host_that_takes_one_message_per_session_gets_as_many_sessions_as_it_needs() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.dialled();
    for _ in 0..100 {
        assert!(forwards(order.next(start)));
        order.forward_failed(1, true, "421 one is enough".into(), false, start);
    }
    assert!(forwards(order.next(start)));
    order.forwarded(1, start);
    ask(
        &mut order,
        Announced::Nothing,
        Vec::new(),
        true,
        after(start, 9),
    );
    assert_eq!(order.next(after(start, 9)), Action::HangUp);
    order.hung_up();
    assert_eq!(how(&order), (Outcome::Complete, String::new()));
}

#[test]
fn mail_that_a_failure_put_off_does_not_make_the_cycle_complete() {
    let start = Instant::now();
    let mut order = Order::new(
        Plan {
            asks: false,
            ..PLAN
        },
        start,
    );
    order.dialled();
    order.forward_failed(0, false, "connection refused".into(), false, start);
    assert!(forwards(order.next(start)));
    order.forwarded(0, start);
    assert_eq!(order.next(start), Action::HangUp);
    order.hung_up();
    assert_eq!(
        how(&order),
        (Outcome::Incomplete, "connection refused".into())
    );
}

#[test]
fn a_line_that_is_lost_before_anything_was_answered_was_missing() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.dialled();
    for _ in 0..2 {
        assert!(forwards(order.next(start)));
        order.forward_failed(0, false, "connect timed out".into(), true, start);
    }
    ask(
        &mut order,
        Announced::Nothing,
        vec!["connect timed out".into()],
        false,
        start,
    );
    order.hung_up();
    assert_eq!(
        how(&order),
        (Outcome::LineMissing, "connect timed out".into())
    );
}

#[test]
fn a_stop_hangs_up_whatever_was_next() {
    let start = Instant::now();
    let mut order = on_line(start, 1);
    order.stop();
    assert_eq!(order.next(start), Action::HangUp);
    order.hung_up();
    assert_eq!(order.next(start), Action::End);
    assert_eq!(order.ending().outcome, Outcome::Interrupted);
}

#[test]
fn a_stop_while_dialling_takes_down_what_was_dialled() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.stop();
    order.dial_failed("the relay is stopping".into(), start);
    assert_eq!(order.next(start), Action::TakeDown);
    order.taken_down();
    assert_eq!(order.next(start), Action::End);
    assert_eq!(order.ending().outcome, Outcome::Interrupted);
}

#[test]
fn mail_that_never_stops_coming_does_not_keep_the_line_up_by_asking() {
    let start = Instant::now();
    let mut order = on_line(start, 1);
    let (mut now, mut asks) = (start, 0);
    ask(&mut order, Announced::Nothing, Vec::new(), true, now);
    for _ in 0..1000 {
        match order.next(now) {
            Action::Receive { until } => now = until,
            Action::Ask => {
                asks += 1;
                ask(&mut order, Announced::Nothing, Vec::new(), true, now);
                order.mail_waits();
            }
            Action::Forward { .. } => order.forwarded(1, now),
            Action::HangUp => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((order.next(now), asks), (Action::HangUp, ASKS - 1));
}

#[test]
fn a_trickle_of_mail_does_not_put_off_the_request_nor_keep_the_line_up() {
    let start = Instant::now();
    let mut order = on_line(start, 1);
    ask(&mut order, Announced::Nothing, Vec::new(), true, start);
    let (mut now, mut asks, mut forwards) = (start, 0, 0);
    loop {
        match order.next(now) {
            Action::Receive { until } => {
                now = until.min(now + Duration::from_millis(400));
                if now < until {
                    order.mail_waits();
                }
            }
            Action::Forward { .. } => {
                forwards += 1;
                order.forwarded(1, now);
            }
            Action::Ask => {
                asks += 1;
                ask(&mut order, Announced::Nothing, Vec::new(), true, now);
            }
            Action::HangUp => break,
            other => panic!("{other:?}"),
        }
        assert!(forwards < 10_000, "the line stays up for ever");
    }
    assert_eq!(asks, ASKS - 1);
    assert!(now - start < Duration::from_secs(4 * u64::from(ASKS)));
}

#[test]
fn a_long_stretch_of_forwarding_gives_the_providers_their_turn() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.dialled();
    order.stretched(100, start);
    assert_eq!(order.next(start), Action::Ask);
    ask(&mut order, Announced::Nothing, Vec::new(), true, start);
    assert!(forwards(order.next(start)));
}

#[test]
fn a_provider_that_refuses_to_release_does_not_hold_up_what_goes_out() {
    let start = Instant::now();
    let mut order = on_line(start, 1);
    ask(
        &mut order,
        Announced::Refused,
        vec!["459 no".into()],
        true,
        start,
    );
    assert_eq!(order.next(start), Action::HangUp);
    order.hung_up();
    assert_eq!(order.ending().outcome, Outcome::Incomplete);
    assert!(!order.ending().pause);
}

#[test]
fn the_first_forwarding_asks_beside_and_what_it_sent_is_asked_for_again() {
    let start = Instant::now();
    let mut order = Order::new(PLAN, start);
    order.dialled();
    assert_eq!(order.next(start), Action::Forward { and_ask: true });
    // Two came between the request and its answer, one of them announced late.
    order.arrived(Inflow {
        messages: 2,
        open: 0,
        last: start,
    });
    order.asked(Announced::Messages(2), Vec::new(), true, start, 0);
    order.forwarded(5, after(start, 1));
    assert_eq!(
        order.next(after(start, 1)),
        Action::Receive {
            until: after(start, 4)
        },
        "what was announced is there, and a bounce may come"
    );
    assert_eq!(order.next(after(start, 4)), Action::Ask);
    order.mail_waits();
    assert_eq!(
        order.next(after(start, 4)),
        Action::Forward { and_ask: false }
    );
}
