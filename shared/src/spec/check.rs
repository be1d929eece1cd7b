//! What makes a specification valid, wherever it came from.

use super::conninfo::is_setting_name;
use super::problem::{SpecProblem, SpecProblems};
use super::{MigrationType, TaskSpec, limits};
use crate::endpoint::{Endpoint, Side};

impl TaskSpec {
    /// Everything that is wrong with it. What was accepted once may be refused by a later version, so this is asked
    /// when a task is created and never again.
    pub fn check(&self) -> Result<(), SpecProblems> {
        let mut problems = Vec::new();
        check_name(&self.name, &mut problems);
        check_endpoint(Side::Source, &self.source, &mut problems);
        check_endpoint(Side::Destination, &self.destination, &mut problems);
        if same_database(&self.source, &self.destination) {
            problems.push(SpecProblem::new(
                "same_database",
                "destination.url",
                "source and destination are the same database",
                "name another database as destination",
            ));
        }
        if self.types.is_empty() {
            problems.push(SpecProblem::bad_value(
                "types",
                "nothing is asked for",
                "write [schema, full]",
            ));
        }
        let whole = [MigrationType::Schema, MigrationType::Full];
        if self.is_incremental() && !whole.iter().all(|kind| self.types.contains(kind)) {
            let what = "`incremental` without `schema` and `full`";
            problems.push(SpecProblem::not_yet("types", what));
        }
        let asked = [
            ("schema.roles", self.schema.roles),
            ("schema.database_settings", self.schema.database_settings),
            ("schema.tablespaces", self.schema.tablespaces),
        ];
        let with_schema = self.types.contains(&MigrationType::Schema) || self.types.is_empty();
        for (key, _) in asked.into_iter().filter(|(_, asked)| *asked && !with_schema) {
            problems.push(SpecProblem::bad_value(
                key,
                "it comes with the schema, which is not asked for",
                "add schema to types, or leave this out",
            ));
        }
        self.objects.check(&mut problems);
        let patterns = self.objects.include.iter().chain(&self.objects.exclude);
        if patterns.map(|text| text.len()).sum::<usize>() > limits::OBJECTS_BYTES_MAX {
            problems.push(SpecProblem::bad_value(
                "objects",
                format!(
                    "the patterns are longer than {} bytes together",
                    limits::OBJECTS_BYTES_MAX
                ),
                "use wildcards",
            ));
        }
        self.check_copy(&mut problems);
        self.check_retry(&mut problems);
        SpecProblems::check(problems)
    }

    fn check_copy(&self, problems: &mut Vec<SpecProblem>) {
        for (key, jobs) in
            [("copy.jobs", self.copy.jobs), ("copy.index_jobs", self.copy.index_jobs)]
        {
            if !limits::JOBS.contains(&jobs) {
                problems.push(out_of_range(key, jobs, limits::JOBS.start(), limits::JOBS.end()));
            }
        }
        if !limits::SHARD_SIZE_BYTES.contains(&self.copy.shard_size_bytes) {
            let bytes = format!("{} bytes", self.copy.shard_size_bytes);
            problems.push(out_of_range("copy.shard_size", bytes, "1MiB", "1TiB"));
        }
    }

    fn check_retry(&self, problems: &mut Vec<SpecProblem>) {
        for (key, ms) in
            [("retry.connection", self.retry.connection_ms), ("retry.other", self.retry.other_ms)]
        {
            if !limits::RETRY_MS.contains(&ms) {
                problems.push(out_of_range(key, format!("{ms} ms"), "1s", "365d"));
            }
        }
    }
}

fn out_of_range(
    key: &str,
    value: impl std::fmt::Display,
    least: impl std::fmt::Display,
    most: impl std::fmt::Display,
) -> SpecProblem {
    SpecProblem::bad_value(
        key,
        format!("{value} is out of range"),
        format!("from {least} to {most}"),
    )
}

fn check_name(name: &str, problems: &mut Vec<SpecProblem>) {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins || name.len() > limits::NAME_MAX || !name.bytes().all(fine) {
        let shown: String = name.chars().take(80).collect();
        problems.push(SpecProblem::bad_value(
            "name",
            format!("`{shown}` is no name of a task"),
            "1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        ));
    }
}

fn check_endpoint(side: Side, endpoint: &Endpoint, problems: &mut Vec<SpecProblem>) {
    let url = format!("{side}.url");
    for (what, text) in
        [("host", &endpoint.host), ("database", &endpoint.database), ("user", &endpoint.user)]
    {
        if text.is_empty() || text.contains('\0') {
            problems.push(SpecProblem::new(
                "bad_url",
                &url,
                format!("the {what} is missing"),
                "write postgres://USER@HOST:PORT/DATABASE",
            ));
        }
    }
    let whole = [&endpoint.sslrootcert, &endpoint.sslcert, &endpoint.sslkey];
    let zero = |text: &String| text.contains('\0');
    if endpoint.port == 0
        || endpoint.sslcert.is_some() != endpoint.sslkey.is_some()
        || whole.into_iter().flatten().chain(endpoint.settings.values()).any(zero)
        || !endpoint.settings.keys().all(|name| is_setting_name(name))
    {
        problems.push(SpecProblem::new(
            "bad_url",
            &url,
            "port, certificate files or settings cannot be used",
            "a port from 1 to 65535, sslcert and sslkey together or not at all, settings as name=value",
        ));
    }
    let fine = |site: &String| {
        (1..=48).contains(&site.len())
            && site.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !endpoint.site.as_ref().is_none_or(fine) {
        problems.push(SpecProblem::bad_value(
            format!("{side}.site"),
            "this is no name of a site",
            "1 to 48 letters, digits, `-`, `_` and `.`",
        ));
    }
}

/// By name only; whether two names lead to one server is found out by the precheck, which can ask it. At two sites one name
/// may mean two servers.
fn same_database(a: &Endpoint, b: &Endpoint) -> bool {
    let two_sites = a.site.is_some() && b.site.is_some() && a.site != b.site;
    !two_sites
        && a.host.eq_ignore_ascii_case(&b.host)
        && a.port == b.port
        && a.database == b.database
}
