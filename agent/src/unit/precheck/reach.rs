//! Which agents reach which database, found out by trying.
//!
//! The agent that runs the precheck asks each agent of a database's other site to connect to it, in each direction in which the
//! two agents find each other. One that fails is a warning while another one does; if none does, the session that is opened
//! next fails, and tells why.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::ids::AgentId;

use super::report::{Finding, Report};
use crate::pg::Way;
use crate::relay::{Direction, Seen};
use crate::unit::UnitContext;

/// How an agent found a database.
#[derive(Debug)]
pub(super) struct Reach {
    side: Side,
    seen: Vec<Seen>,
}

/// Looks at both databases; nothing where they are reached directly.
pub(super) async fn look(ctx: &UnitContext) -> Vec<Reach> {
    let mut looked = Vec::new();
    for (side, endpoint) in
        [(Side::Source, &ctx.spec.source), (Side::Destination, &ctx.spec.destination)]
    {
        if let Way::Relayed { relay, site } = ctx.means.relay.way_to(endpoint) {
            looked.push(Reach { side, seen: relay.look_around(&site, endpoint).await });
        }
    }
    looked
}

pub(super) fn judge(me: &AgentId, reaches: &[Reach], report: &mut Report) {
    for Reach { side, seen } in reaches {
        for Seen { agent, reached } in seen {
            match reached {
                Ok(directions) => report.add(
                    Finding::info("reached_through_agent", *side)
                        .object(agent)
                        .observed(in_words(me, agent, directions)),
                ),
                Err(why) => report.add(
                    Finding::warning("agent_does_not_reach", *side)
                        .object(agent)
                        .observed(why)
                        .required("every agent of a database's site reaches it, and is reached from the other site")
                        .remedy(
                            "open the way that is named, give the agent --listen and --advertise, or end it; others of \
                             its site are used meanwhile",
                        ),
                ),
            }
        }
    }
}

fn in_words(me: &AgentId, agent: &AgentId, directions: &[Direction]) -> String {
    let way = |direction: &Direction| match direction {
        Direction::Dialled => format!("agent {me} dials agent {agent}"),
        Direction::Dials => format!("agent {agent} dials agent {me}"),
    };
    let ways: Vec<_> = directions.iter().map(way).collect();
    format!("{}, which reaches the database", ways.join(", and "))
}
