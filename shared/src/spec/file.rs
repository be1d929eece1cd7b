//! The task file.
//!
//! Every key has a meaning or is refused: one that is unknown, and one whose meaning is not built yet, with its line
//! and what would be right. A setting that is taken in and ignored would be a promise broken in silence.

use super::draft::{Draft, EndpointDraft, PasswordRef};
use super::problem::SpecProblem;
use super::reader::{Fields, Reader, path};
use crate::endpoint::Side;
use crate::secret::Secret;
use crate::unit::SnapshotMode;
use crate::yaml::{self, Node, Value};

const KEYS: &[&str] = &[
    "name",
    "source",
    "destination",
    "types",
    "objects",
    "schema",
    "name_case",
    "on_conflict",
    "copy",
    "incremental",
    "throttle",
    "retry",
    "alerts",
];

/// Reads a task file. What is wrong is told by [`Draft::finish`], together with what is missing.
#[must_use]
pub fn read(text: &str) -> Draft {
    let mut draft = Draft::default();
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let remedy =
                "correct the line; in YAML, a text with `: `, ` #` or a leading `*` needs quotes";
            draft.problem(
                SpecProblem::new("bad_yaml", "", error.message, remedy).on_line(Some(error.line)),
            );
            // What the rest would say is unknown, so nothing in it is missing.
            draft.name = Some("unread".into());
            draft.source.url_given = true;
            draft.destination.url_given = true;
            return draft;
        }
    };
    let mut reader = Reader::default();
    let fields = reader.fields("", &root, KEYS);
    draft.name = fields
        .get("name")
        .and_then(|node| reader.text("name", node, "write a name, such as shop"))
        .map(str::to_owned);
    let source = read_endpoint(&mut reader, Side::Source, &fields);
    let destination = read_endpoint(&mut reader, Side::Destination, &fields);
    let types = read_types(&mut reader, &fields);
    read_objects(&mut reader, &fields, &mut draft);
    read_schema(&mut reader, &fields, &mut draft);
    read_copy(&mut reader, &fields, &mut draft);
    read_retry(&mut reader, &fields, &mut draft);
    read_incremental(&mut reader, &fields, &mut draft);
    refuse_what_is_not_built(&mut reader, &fields);

    draft.problems = reader.problems;
    draft.lines = reader.lines;
    for (side, read) in [(Side::Source, source), (Side::Destination, destination)] {
        let (url, rest) = read;
        match side {
            Side::Source => draft.source = rest,
            Side::Destination => draft.destination = rest,
        }
        if let Some(url) = url {
            draft.url_beside_password(side, &format!("{side}.url"), url);
        }
    }
    if let Some(types) = types {
        draft.types("types", types);
    }
    draft
}

fn read_endpoint<'n>(
    reader: &mut Reader,
    side: Side,
    fields: &Fields<'n>,
) -> (Option<&'n str>, EndpointDraft) {
    let mut draft = EndpointDraft::default();
    let at = side.to_string();
    let Some(node) = fields.get(at.as_str()) else { return (None, draft) };
    let fields = reader.fields(&at, node, &["url", "password", "site"]);
    let url = fields.get("url").and_then(|node| {
        draft.url_given = true;
        reader.text(&path(&at, "url"), node, "write postgres://USER@HOST:PORT/DATABASE")
    });
    draft.password =
        fields.get("password").and_then(|node| read_password(reader, &path(&at, "password"), node));
    draft.site = fields
        .get("site")
        .and_then(|node| reader.text(&path(&at, "site"), node, "write the name of a site"))
        .map(str::to_owned);
    (url, draft)
}

fn read_password(reader: &mut Reader, at: &str, node: &Node) -> Option<PasswordRef> {
    let remedy = "write { file: PATH }, { env: NAME } or { value: \"…\" }";
    let given = match &node.value {
        Value::Map(_) => reader.fields(at, node, &["file", "env", "value"]),
        _ => Fields::new(),
    };
    let mut given = given.into_iter();
    let (Some((kind, value)), None) = (given.next(), given.next()) else {
        let message = "this does not say where the password is to be had";
        reader.note(node, SpecProblem::bad_value(at, message, remedy));
        return None;
    };
    let text = reader.text(&path(at, kind), value, remedy)?;
    Some(match kind {
        "file" => PasswordRef::File(text.into()),
        "env" => PasswordRef::Env(text.into()),
        _ => PasswordRef::Value(Secret::new(text)),
    })
}

fn read_types<'n>(reader: &mut Reader, fields: &Fields<'n>) -> Option<Vec<&'n str>> {
    let remedy = "write a list, such as [schema, full]";
    let node = fields.get("types")?;
    let items = reader.list("types", node, remedy);
    Some(items.iter().filter_map(|item| reader.text("types", item, remedy)).collect())
}

fn read_objects(reader: &mut Reader, fields: &Fields<'_>, draft: &mut Draft) {
    let Some(node) = fields.get("objects") else { return };
    let known = ["include", "exclude", "rename", "columns", "where"];
    let fields = reader.fields("objects", node, &known);
    for (key, patterns) in
        [("include", &mut draft.objects.include), ("exclude", &mut draft.objects.exclude)]
    {
        let remedy = "write a list of patterns, such as [\"public.*\", \"sales.orders\"]";
        let at = path("objects", key);
        if let Some(node) = fields.get(key) {
            let items = reader.list(&at, node, remedy);
            let texts = items.iter().filter_map(|item| reader.text(&at, item, remedy));
            *patterns = texts.map(str::to_owned).collect();
        }
    }
    reader.not_yet("objects.rename", fields.get("rename"), "renaming");
    reader.not_yet("objects.columns", fields.get("columns"), "choosing columns");
    reader.not_yet("objects.where", fields.get("where"), "choosing rows");
}

fn read_schema(reader: &mut Reader, fields: &Fields<'_>, draft: &mut Draft) {
    let Some(node) = fields.get("schema") else { return };
    let fields = reader.fields("schema", node, &["roles", "database_settings", "tablespaces"]);
    let settings = &mut draft.schema;
    for (key, setting) in [
        ("roles", &mut settings.roles),
        ("database_settings", &mut settings.database_settings),
        ("tablespaces", &mut settings.tablespaces),
    ] {
        let choices = [("true", true), ("false", false)];
        if let Some(node) = fields.get(key) {
            *setting = reader.choice(&path("schema", key), node, &choices).unwrap_or_default();
        }
    }
}

fn read_copy(reader: &mut Reader, fields: &Fields<'_>, draft: &mut Draft) {
    let Some(node) = fields.get("copy") else { return };
    let known = ["jobs", "shard_size", "index_jobs", "snapshot"];
    let fields = reader.fields("copy", node, &known);
    draft.jobs = fields.get("jobs").and_then(|node| reader.number("copy.jobs", node));
    draft.index_jobs =
        fields.get("index_jobs").and_then(|node| reader.number("copy.index_jobs", node));
    draft.shard_size_bytes =
        fields.get("shard_size").and_then(|node| reader.size("copy.shard_size", node));
    let modes = [("task", SnapshotMode::Task), ("shard", SnapshotMode::Shard)];
    draft.snapshot =
        fields.get("snapshot").and_then(|node| reader.choice("copy.snapshot", node, &modes));
}

fn read_retry(reader: &mut Reader, fields: &Fields<'_>, draft: &mut Draft) {
    let Some(node) = fields.get("retry") else { return };
    let fields = reader.fields("retry", node, &["connection", "other"]);
    draft.retry_connection_ms =
        fields.get("connection").and_then(|node| reader.duration("retry.connection", node));
    draft.retry_other_ms =
        fields.get("other").and_then(|node| reader.duration("retry.other", node));
}

fn read_incremental(reader: &mut Reader, fields: &Fields<'_>, draft: &mut Draft) {
    let Some(node) = fields.get("incremental") else { return };
    let fields = reader.fields("incremental", node, &["replica_identity"]);
    let choices = [("require", false), ("set_full", true)];
    draft.incremental.set_replica_identity = fields
        .get("replica_identity")
        .and_then(|node| reader.choice("incremental.replica_identity", node, &choices))
        .unwrap_or_default();
}

fn refuse_what_is_not_built(reader: &mut Reader, fields: &Fields<'_>) {
    for (at, built, not_built) in
        [("name_case", "preserve", &["lower", "upper"][..]), ("on_conflict", "fail", &["keep"][..])]
    {
        let Some(node) = fields.get(at) else { continue };
        let choices: Vec<(&str, bool)> =
            not_built.iter().map(|word| (*word, false)).chain([(built, true)]).collect();
        if reader.choice(at, node, &choices) == Some(false) {
            reader.note(node, SpecProblem::not_yet(at, "anything but `".to_owned() + built + "`"));
        }
    }
    reader.not_yet("alerts", fields.get("alerts"), "alerting");
    read_throttle(reader, fields);
}

/// No limit, which is all that this version can do, may be said.
fn read_throttle(reader: &mut Reader, fields: &Fields<'_>) {
    let Some(node) = fields.get("throttle") else { return };
    let parts = reader.fields("throttle", node, &["full", "incremental"]);
    for (part, node) in parts {
        let at = path("throttle", part);
        let rates = ["queries_per_second", "rows_per_second", "bytes_per_second"];
        let known = if part == "full" { &rates[..] } else { &rates[1..] };
        for (rate, node) in reader.fields(&at, node, known) {
            if reader.text(&path(&at, rate), node, "write a number").is_some_and(|text| text != "0")
            {
                reader.note(
                    node,
                    SpecProblem::not_yet(path(&at, rate), "a limit other than 0 (none)"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
