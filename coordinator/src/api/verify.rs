//! `VerifyTask`: a task of its own that compares what another one is about.
//!
//! It has the other one's specification and passwords, which are opened and sealed again: what is sealed for one task is of no
//! use to another. Its name is `<name>-verify-<n>`, with the first number that is free.

use pgconvoy_control::command::{Acknowledge, Command, CreateTask};
use pgconvoy_control::outcome::Outcome;
use pgconvoy_control::state::Asked;
use pgconvoy_proto::v1;
use pgconvoy_runtime::clock;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::{TaskSpec, limits};
use pgconvoy_shared::verify::{Purpose, VerifySettings};
use rand::Rng;

use super::error::ApiError;
use super::tasks::{Tasks, request_id, unexpected, unknown_task, unreadable};

impl Tasks {
    pub(super) async fn verify(
        &self,
        request: v1::VerifyTaskRequest,
    ) -> Result<(TaskId, bool), ApiError> {
        self.node.leader_for_reading().await?;
        let request_id = request_id(request.request_id)?;
        let known = self.node.replica.read(|state| state.task_of_request(&request_id).cloned());
        if let Some(task) = known {
            return Ok((task, true));
        }
        let settings = request.settings.map(VerifySettings::try_from).transpose();
        let settings = settings.map_err(|bad| unreadable("settings", &bad.to_string()))?;
        let of = self.find(&request.task)?;
        let found = self.node.replica.read(|state| {
            let asked = state.asked(&of)?;
            let name = free_name(&asked.spec.name, |name| state.has_name(name));
            Some((asked, name))
        });
        let (asked, name) = found.ok_or_else(|| unknown_task(&request.task))?;
        let id = TaskId::from_parts(clock::wall_clock_ms(), rand::rng().next_u64());
        let Asked { spec, source_password, destination_password } = asked;
        let command = Command::CreateTask(Box::new(CreateTask {
            source_password: self.seal_again(source_password, &of, &id, Side::Source)?,
            destination_password: self.seal_again(
                destination_password,
                &of,
                &id,
                Side::Destination,
            )?,
            request_id,
            id,
            spec: TaskSpec { name, ..TaskSpec::clone(&spec) },
            acknowledge: Acknowledge::default(),
            start: true,
            purpose: Purpose::Verify,
            verify: Some(settings.unwrap_or_default()),
        }));
        match self.node.propose(command).await? {
            Outcome::Created { task, repeated } => Ok((task, repeated)),
            other => Err(unexpected(&other)),
        }
    }

    fn seal_again(
        &self,
        sealed: Option<Sealed>,
        of: &TaskId,
        task: &TaskId,
        side: Side,
    ) -> Result<Option<Sealed>, ApiError> {
        let Some(sealed) = sealed else { return Ok(None) };
        let password = self.node.vault.unseal(&sealed, of, side)?;
        Ok(Some(self.node.vault.seal(&password, task, side)?))
    }
}

/// The name of the next task that compares what the task of this name is about. A long one is cut.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = |no: u32| {
        let ending = format!("-verify-{no}");
        let room = limits::NAME_MAX.saturating_sub(ending.len());
        let end = (0..=room.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
        format!("{}{ending}", &name[..end.unwrap_or(0)])
    };
    let free = (1..u32::MAX).map(numbered).find(|name| !taken(name));
    free.unwrap_or_else(|| numbered(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_number_is_taken_and_long_names_are_cut() {
        assert_eq!(free_name("shop", |name| name == "shop-verify-1"), "shop-verify-2");
        let long = free_name(&"n".repeat(limits::NAME_MAX), |_| false);
        assert_eq!(long.len(), limits::NAME_MAX);
        assert!(long.ends_with("n-verify-1"));
    }
}
