//! A specification in the making: from a task file, from flags, or from both (flags win).

use std::collections::{BTreeMap, BTreeSet};

use super::conninfo::Conninfo;
use super::problem::{SpecProblem, SpecProblems};
use super::{
    CopySettings, IncrementalSettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings,
    TaskSpec, limits,
};
use crate::endpoint::{Endpoint, Side};
use crate::secret::Secret;
use crate::unit::SnapshotMode;

/// Where a password is to be had. Files and variables are read by the client, when it creates the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordRef {
    /// The first line of a file; a relative path is seen from the task file.
    File(String),
    /// An environment variable.
    Env(String),
    /// Here.
    Value(Secret),
}

/// All that was said so far, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Draft {
    pub name: Option<String>,
    pub types: Option<BTreeSet<MigrationType>>,
    pub objects: ObjectRules,
    pub schema: SchemaSettings,
    pub jobs: Option<u32>,
    pub index_jobs: Option<u32>,
    pub shard_size_bytes: Option<u64>,
    pub snapshot: Option<SnapshotMode>,
    pub retry_connection_ms: Option<u64>,
    pub retry_other_ms: Option<u64>,
    pub incremental: IncrementalSettings,
    pub(super) source: EndpointDraft,
    pub(super) destination: EndpointDraft,
    pub(super) problems: Vec<SpecProblem>,
    /// Line of each key in the task file.
    pub(super) lines: BTreeMap<String, usize>,
}

/// One of the two databases, so far.
#[derive(Debug, Default)]
pub(super) struct EndpointDraft {
    pub(super) conninfo: Option<Conninfo>,
    /// A URL was given, though it may have been wrong.
    pub(super) url_given: bool,
    pub(super) password: Option<PasswordRef>,
    pub(super) site: Option<String>,
}

/// A valid specification, and what the client still has to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    pub spec: TaskSpec,
    pub source_password: Option<PasswordRef>,
    pub destination_password: Option<PasswordRef>,
    /// What was said and makes no difference, for people.
    pub notices: Vec<String>,
}

impl Draft {
    /// Takes a URL; `key` names where it came from. It replaces an earlier one, and the password if it has one.
    pub fn url(&mut self, side: Side, key: &str, text: &str) {
        self.url_beside_password(side, key, text);
        let at = self.side_mut(side);
        if at.conninfo.as_ref().is_some_and(|conninfo| conninfo.password.is_some()) {
            at.password = None;
        }
    }

    /// Takes a URL, and leaves the password that stands beside it.
    pub(super) fn url_beside_password(&mut self, side: Side, key: &str, text: &str) {
        let at = self.side_mut(side);
        at.url_given = true;
        match Conninfo::parse(text) {
            Ok(conninfo) => at.conninfo = Some(conninfo),
            Err(bad) => {
                let line = self.lines.get(key).copied();
                self.problems.push(bad.of(key).on_line(line));
            }
        }
    }

    /// Whether somebody said where this database is.
    #[must_use]
    pub fn has_url(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source.url_given,
            Side::Destination => self.destination.url_given,
        }
    }

    /// Takes what is asked for, in words; `key` names where it came from.
    pub fn types<'t>(&mut self, key: &str, words: impl IntoIterator<Item = &'t str>) {
        let mut types = BTreeSet::new();
        for word in words {
            match migration_type(word) {
                Ok(kind) => drop(types.insert(kind)),
                Err(problem) => {
                    let line = self.lines.get(key).copied();
                    self.problems.push(SpecProblem { key: key.into(), ..problem }.on_line(line));
                }
            }
        }
        self.types = Some(types);
    }

    /// Names the task after its source database, where nobody named it.
    pub fn name_after_source(&mut self) {
        let database = self.source.conninfo.as_ref().and_then(Conninfo::database);
        if let (None, Some(database)) = (&self.name, database) {
            self.name = Some(task_name(database));
        }
    }

    /// Notes something that the caller found wrong.
    pub fn problem(&mut self, problem: SpecProblem) {
        self.problems.push(problem);
    }

    /// The specification with all that was left out filled in, on a machine of this many cores; or everything that is
    /// wrong with it.
    pub fn finish(mut self, cores: u32) -> Result<Submission, SpecProblems> {
        let mut problems = std::mem::take(&mut self.problems);
        let mut notices = Vec::new();
        let mut ends = [Side::Source, Side::Destination].map(|side| {
            let draft = std::mem::take(self.side_mut(side));
            draft.finish(side, &mut problems, &mut notices)
        });
        if self.name.is_none() {
            let remedy = "give the task a name, such as `name: shop`";
            problems.push(SpecProblem::new("missing_key", "name", "the name is missing", remedy));
        }
        let [source, destination] = &mut ends;
        if let (Some(name), Some(source), Some(destination)) =
            (self.name.take(), source.take(), destination.take())
        {
            let jobs = self.jobs.unwrap_or_else(|| limits::jobs_for(cores));
            let spec = TaskSpec {
                name,
                source: source.0,
                destination: destination.0,
                types: self.types.take().unwrap_or_else(MigrationType::usual),
                objects: std::mem::take(&mut self.objects),
                schema: self.schema,
                copy: CopySettings {
                    jobs,
                    shard_size_bytes: self
                        .shard_size_bytes
                        .unwrap_or_else(|| limits::shard_size_bytes_for(jobs)),
                    index_jobs: self.index_jobs.unwrap_or(jobs),
                    snapshot: self.snapshot.unwrap_or(SnapshotMode::Task),
                },
                retry: RetryWindows {
                    connection_ms: self
                        .retry_connection_ms
                        .unwrap_or(limits::RETRY_CONNECTION_MS_DEFAULT),
                    other_ms: self.retry_other_ms.unwrap_or(limits::RETRY_OTHER_MS_DEFAULT),
                },
                incremental: self.incremental,
            };
            // An empty list of types whose words were wrong is told once, by those words.
            let known = problems.iter().any(|problem| problem.key == "types");
            if let Err(found) = spec.check() {
                problems.extend(found.iter().filter(|p| !(known && p.key == "types")).cloned());
            }
            if problems.is_empty() {
                return Ok(Submission {
                    spec,
                    source_password: source.1,
                    destination_password: destination.1,
                    notices,
                });
            }
        }
        let lines = &self.lines;
        let located = problems.into_iter().map(|problem| {
            let line = lines.get(&problem.key).copied();
            problem.on_line(line)
        });
        let mut problems: Vec<SpecProblem> = located.collect();
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Err(SpecProblems::of(problems))
    }

    fn side_mut(&mut self, side: Side) -> &mut EndpointDraft {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }
}

impl EndpointDraft {
    fn finish(
        self,
        side: Side,
        problems: &mut Vec<SpecProblem>,
        notices: &mut Vec<String>,
    ) -> Option<(Endpoint, Option<PasswordRef>)> {
        let key = format!("{side}.url");
        let Some(mut conninfo) = self.conninfo else {
            if !self.url_given {
                let message = format!("the {side} is missing");
                let remedy = "write postgres://USER@HOST:PORT/DATABASE";
                problems.push(SpecProblem::new("missing_key", key, message, remedy));
            }
            return None;
        };
        notices.extend(conninfo.notices.drain(..).map(|notice| format!("{key}: {notice}")));
        let in_url = conninfo.password.take().map(PasswordRef::Value);
        if in_url.is_some() && self.password.is_some() {
            problems.push(SpecProblem::bad_value(
                format!("{side}.password"),
                "the password is given twice, here and in the URL",
                "take it out of the URL",
            ));
        }
        match conninfo.endpoint(self.site) {
            Ok(endpoint) => Some((endpoint, self.password.or(in_url))),
            Err(bad) => {
                problems.push(bad.of(key));
                None
            }
        }
    }
}

impl MigrationType {
    /// Both, which is what is meant where nothing is said.
    #[must_use]
    pub fn usual() -> BTreeSet<Self> {
        BTreeSet::from([Self::Schema, Self::Full])
    }
}

/// A name of a task that resembles the text.
fn task_name(text: &str) -> String {
    let fine = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    let name: String = text.chars().map(|char| if fine(char) { char } else { '-' }).collect();
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let name = if begins { name } else { format!("task{name}") };
    name.chars().take(limits::NAME_MAX).collect()
}

fn migration_type(word: &str) -> Result<MigrationType, SpecProblem> {
    match word {
        "schema" => Ok(MigrationType::Schema),
        "full" => Ok(MigrationType::Full),
        "incremental" => Ok(MigrationType::Incremental),
        _ => Err(SpecProblem::bad_value(
            "types",
            format!("`{}` is no part of a migration", word.chars().take(40).collect::<String>()),
            "write schema, full, incremental, or some of them",
        )),
    }
}
