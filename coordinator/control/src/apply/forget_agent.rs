//! `ForgetAgent`: an agent that is gone for good leaves the list.

use pgconvoy_shared::ids::AgentId;

use super::Context;
use crate::outcome::Outcome;
use crate::rejected::Rejected;

pub(super) fn forget_agent(cx: &mut Context<'_>, id: &AgentId) -> Result<Outcome, Rejected> {
    match cx.state.agents.get(id) {
        None => Ok(Outcome::Agent { changed: false }),
        Some(agent) if agent.present => Err(Rejected::AgentPresent { agent: id.clone() }),
        Some(_) => {
            cx.state.agents.remove(id);
            Ok(Outcome::Agent { changed: true })
        }
    }
}
