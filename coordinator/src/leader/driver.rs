//! The leader's loop: looks at the state and at the agents, proposes what has to be done, and tells
//! agents what the log says.
//!
//! It takes no input. Whatever wakes it only says "look now", and it looks again at each tick, so a
//! lost hint costs a moment and nothing else. One plan is proposed and applied before the next one
//! is made: it never grants the same unit twice.

use std::sync::Arc;
use std::time::Duration;

use pgconvoy_control::command::Command;
use pgconvoy_control::outcome::Outcome;
use pgconvoy_control::schedule::{self, Observed};
use pgconvoy_runtime::clock;
use pgconvoy_shared::time::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::Leader;
use crate::proposer::{Answered, ProposeError};

/// How late a back-off may end, and an agent be found lost.
const TICK: Duration = Duration::from_millis(250);

/// All agents' orders are compared with the state at every so many ticks, hinted at or not.
const TICKS_BETWEEN_COMPARISONS: u32 = 4;

/// Whether it makes sense to look again before the next tick.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    WhenHinted,
    AtTick,
}

/// Drives until the office ends.
pub(super) async fn run(leader: Arc<Leader>) {
    let mut applied = leader.node.replica.applied();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticked = 0u32;
    let mut look = Look::WhenHinted;
    loop {
        let hinted = look == Look::WhenHinted;
        let tick = tokio::select! {
            biased;
            // 1. The end of the office ends the driver wherever it waits.
            () = leader.ended.cancelled() => return,
            // 2. Before the hints, so that a busy log does not keep time from passing.
            _ = ticks.tick() => true,
            // 3. Something was applied, or an agent came.
            changed = applied.changed(), if hinted => {
                if changed.is_err() {
                    return;
                }
                false
            }
            () = leader.wake.notified(), if hinted => false,
        };
        applied.mark_unchanged();
        let everybody = tick && ticked.is_multiple_of(TICKS_BETWEEN_COMPARISONS);
        ticked = ticked.wrapping_add(u32::from(tick));
        let step = async {
            if tick {
                lose_the_silent(&leader).await?;
            }
            give_orders(&leader, everybody).await?;
            let look = grant(&leader).await?;
            give_orders(&leader, false).await?;
            Ok::<_, ProposeError>(look)
        };
        let stepped = tokio::select! {
            biased;
            () = leader.ended.cancelled() => return,
            stepped = step => stepped,
        };
        look = stepped.unwrap_or_else(|error| {
            // The office is about to end, or the next tick tries again.
            debug!("a step of the leader failed: {error}");
            Look::AtTick
        });
    }
}

/// Releases what agents hold that were not heard of for a lease time.
async fn lose_the_silent(leader: &Leader) -> Result<(), ProposeError> {
    let mut losing = Vec::new();
    for (agent, command) in leader.condemn() {
        let held = leader.node.replica.read(|state| state.lease_count(&agent));
        warn!("agent {agent} was not heard of for a lease time; it held {held} units");
        leader.node.metrics.agents_lost.inc();
        leader.node.metrics.leases_lost.inc_by(held.into());
        losing.push((agent, leader.node.proposer.queue(command).await));
    }
    let mut failed = None;
    for (agent, queued) in losing {
        let outcome = match queued {
            Ok(pending) => pending.outcome().await,
            Err(error) => Err(error),
        };
        // Decided, or to be proposed again at the next tick, which condemns it anew.
        leader.sessions.pardon(&agent);
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err(rejected)) => debug!("agent {agent} is not lost after all: {rejected}"),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Tells agents what is new to them.
async fn give_orders(leader: &Leader, everybody: bool) -> Result<(), ProposeError> {
    let touched = leader.node.replica.take_touched();
    let sessions = if everybody {
        leader.sessions.registered()
    } else {
        touched.iter().filter_map(|agent| leader.sessions.get(agent)).collect()
    };
    for session in sessions.iter().filter(|session| session.is_registered()) {
        leader.report(session.give_orders(leader)).await?;
    }
    Ok(())
}

/// Grants what can be granted now.
async fn grant(leader: &Leader) -> Result<Look, ProposeError> {
    let mut look = Look::WhenHinted;
    for command in plan(leader) {
        let answered = leader.node.proposer.queue(command).await?.outcome().await?;
        if !helped(&answered) {
            // A command that was queued before it, such as a cancel, made the plan pointless. Should the two
            // disagree for good, which would be a bug, it is not one to spin on.
            info!("nothing of what was planned was granted: {answered:?}");
            look = Look::AtTick;
        }
    }
    Ok(look)
}

fn plan(leader: &Leader) -> Vec<Command> {
    let liveness = leader.liveness();
    let observed = Observed { liveness: &liveness, now_ms: leader.now_ms() };
    let now = Timestamp(clock::wall_clock_ms());
    leader.node.replica.read(|state| schedule::plan(state, &observed, now)).commands
}

fn helped(answered: &Answered) -> bool {
    match answered {
        Ok(Outcome::Granted(grants)) => grants.iter().any(Result::is_ok),
        Ok(_) => true,
        Err(_) => false,
    }
}
