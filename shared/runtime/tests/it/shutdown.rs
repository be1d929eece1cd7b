use std::time::Duration;

use pgconvoy_runtime::shutdown::{Gate, Reason, Shutdown};

#[tokio::test]
async fn the_first_reason_to_stop_stays() {
    let shutdown = Shutdown::new();
    let part = shutdown.token();
    assert!(!shutdown.has_begun());
    shutdown.begin(Reason::Signal("SIGTERM"));
    shutdown.begin(Reason::Asked);
    shutdown.begun().await;
    part.cancelled().await;
    assert_eq!(shutdown.reason(), Some(&Reason::Signal("SIGTERM")));
}

#[tokio::test]
async fn a_gate_names_who_holds_it_and_lets_nobody_in_any_more() {
    let gate = Gate::new("the agent");
    let _copy = gate.enter("copy of public.orders").unwrap();
    let index = gate.enter("index public.orders_pkey").unwrap();
    drop(index);
    let held = gate.close_within(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(held.to_string(), "the agent still waits for copy of public.orders");
    let closed = gate.enter("late").unwrap_err();
    assert_eq!(closed.to_string(), "the agent is shutting down");
}

#[tokio::test]
async fn a_gate_closes_once_the_last_has_left() {
    let gate = Gate::new("the agent");
    let guards: Vec<_> = (0..3).map(|n| gate.enter(format!("unit {n}")).unwrap()).collect();
    let leave = async {
        for guard in guards {
            tokio::task::yield_now().await;
            drop(guard);
        }
    };
    let (closed, ()) = tokio::join!(gate.close_within(Duration::from_secs(60)), leave);
    closed.unwrap();
    assert_eq!(gate.holders(), Vec::<String>::new());
}
