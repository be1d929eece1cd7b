//! `NoteExport`: one more agent's keeper session exports the task's snapshot, which lives as long as any keeper (law S13).

use pgconvoy_shared::unit::Export;

use super::Context;
use crate::command::NoteExport;
use crate::outcome::Outcome;
use crate::rejected::Rejected;

pub(super) fn note_export(cx: &mut Context<'_>, note: &NoteExport) -> Result<Outcome, Rejected> {
    let agent = note.agent.clone();
    if !cx.state.agents.is_present(&agent, note.incarnation) {
        return Err(Rejected::NotPresent { agent, incarnation: note.incarnation });
    }
    cx.with_task(&note.task, |clerk| {
        let refusal = Rejected::OtherRound { task: note.task.clone(), round: note.round };
        let shared = clerk.record().snapshot.shared.as_mut().filter(|s| s.round == note.round);
        // With no keeper left the snapshot is given up, and the next round is on its way.
        let Some(shared) = shared.filter(|shared| !shared.exports.is_empty()) else {
            return Err(refusal);
        };
        let export = Export { agent, id: note.export_id.clone() };
        let changed = !shared.exports.contains(&export);
        if changed {
            shared.exports.retain(|known| known.agent != export.agent);
            shared.exports.push(export);
        }
        Ok(Outcome::Noted { changed })
    })
}
