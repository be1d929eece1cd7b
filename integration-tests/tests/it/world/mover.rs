//! A role of its own at both ends, whose password changes while others' stay.

use std::path::PathBuf;

use super::{DATABASE, Pair};

const FIRST: &str = "first-otter";

/// The role, with what a task file says of it. Its password stands in a file.
pub(crate) struct Mover<'a> {
    pair: &'a Pair,
}

impl Mover<'_> {
    /// Makes the role.
    pub(crate) async fn of(pair: &Pair) -> Mover<'_> {
        let mover = Mover { pair };
        mover.say("create role mover superuser login", FIRST).await;
        mover
    }

    /// At both ends, and in the file.
    pub(crate) async fn change_password(&self, password: &str) {
        self.say("alter role mover", password).await;
    }

    async fn say(&self, statement: &str, password: &str) {
        let sql = format!("{statement} password '{password}'");
        for server in [&self.pair.source, &self.pair.destination] {
            server.sql(DATABASE, &sql).await.unwrap();
        }
        self.pair.write("mover.password", &format!("{password}\n"));
    }

    /// A task file with both ends in it, under this role; `rest` follows.
    pub(crate) fn task_file(&self, name: &str, rest: &str) -> PathBuf {
        let end = |port: u16| {
            let url = format!("postgres://mover@127.0.0.1:{port}/{DATABASE}");
            format!("{{ url: \"{url}\", password: {{ file: mover.password }} }}")
        };
        let source = end(self.pair.source.port());
        let destination = end(self.pair.destination.port());
        let text = format!("name: {name}\nsource: {source}\ndestination: {destination}\n{rest}\n");
        self.pair.write(&format!("{name}.yaml"), &text)
    }
}
