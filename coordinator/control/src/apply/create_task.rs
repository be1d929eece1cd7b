//! `CreateTask`: a repeated request is answered like the first one.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgconvoy_shared::verify::Purpose;

use super::Context;
use crate::command::CreateTask;
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::EventKind;
use crate::state::record::{PrecheckReport, Stage, TaskRecord, TaskSnapshot, TaskStatus};

pub(super) fn create_task(cx: &mut Context<'_>, create: &CreateTask) -> Result<Outcome, Rejected> {
    if let Some(task) = cx.state.requests.get(&create.request_id) {
        return Ok(Outcome::Created { task: task.clone(), repeated: true });
    }
    if cx.state.tasks.contains_key(&create.id) {
        return Err(Rejected::IdTaken { task: create.id.clone() });
    }
    if let Some(task) = cx.state.names.get(&create.spec.name) {
        return Err(Rejected::NameTaken { name: create.spec.name.clone(), task: task.clone() });
    }
    cx.state.insert_task(TaskRecord {
        id: create.id.clone(),
        request_id: create.request_id.clone(),
        spec: Arc::new(create.spec.clone()),
        source_password: create.source_password.clone(),
        destination_password: create.destination_password.clone(),
        purpose: create.purpose,
        verify: create.verify,
        schema_compared: None,
        sequences_compared: None,
        status: TaskStatus::Created,
        stage: Stage::Precheck,
        cause: None,
        created: cx.at,
        started: None,
        ended: None,
        acknowledged: create.acknowledge.codes.clone(),
        acknowledge_all: create.acknowledge.all,
        precheck: PrecheckReport::default(),
        precheck_asked: false,
        snapshot: TaskSnapshot::default(),
        following: Default::default(),
        cutover: None,
        system_identifier: None,
        phase_times: Vec::new(),
        cleaned_up: false,
        outdated: BTreeSet::new(),
        audits_failed: 0,
        refilled: BTreeSet::new(),
        events: Default::default(),
        tables: Default::default(),
        units: Default::default(),
    });
    cx.with_task(&create.id, |clerk| {
        let name = &create.spec.name;
        clerk.tell(EventKind::TaskCreated, format!("task `{name}` was created"));
        if create.start || create.purpose != Purpose::Migrate {
            course::start(clerk);
        }
        Ok(Outcome::Created { task: create.id.clone(), repeated: false })
    })
}

#[cfg(test)]
mod tests {
    use crate::apply::story::{Story, create};
    use crate::outcome::Outcome;
    use crate::rejected::Rejected;

    #[test]
    fn a_repeated_request_is_answered_like_the_first() {
        let mut story = Story::new();
        let task = story.create(create("shop"));
        let mut again = create("shop");
        again.id = "anotherid0000".parse().expect("an id");
        assert_eq!(
            story.create_anyhow(again.clone()),
            Ok(Outcome::Created { task: task.clone(), repeated: true })
        );
        again.request_id = "another-request".parse().expect("a request id");
        assert_eq!(
            story.create_anyhow(again),
            Err(Rejected::NameTaken { name: "shop".into(), task })
        );
    }
}
