//! `DrainAgent`, `UndrainAgent`: an agent finishes what it runs and gets nothing new; also in later lives, until undrained.

use pgconvoy_shared::ids::AgentId;

use super::Context;
use crate::outcome::{Effect, Outcome};
use crate::rejected::Rejected;

pub(super) fn drain_agent(
    cx: &mut Context<'_>,
    id: &AgentId,
    draining: bool,
) -> Result<Outcome, Rejected> {
    let Some(agent) = cx.state.agents.get(id) else {
        return Err(Rejected::UnknownAgent { agent: id.clone() });
    };
    let changed = agent.draining != draining;
    cx.state.agents.change(id, |agent| agent.draining = draining);
    if changed && draining {
        cx.effects.push(Effect::Drain { agent: id.clone() });
    }
    Ok(Outcome::Agent { changed })
}
