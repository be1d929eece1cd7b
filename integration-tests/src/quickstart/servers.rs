//! The two ends: throw-away servers, a shop at one, an empty database at the other.

use std::path::Path;

use anyhow::Context;
use futures::try_join;
use indicatif::{HumanBytes, HumanCount};

use super::screen::Screen;
use super::sites::Sites;
use crate::oracle::{self, End};
use crate::postgres::{Options, Postgres, SUPERUSER};
use crate::shop;

/// The database at both ends.
const DATABASE: &str = "shop";

pub(super) struct Servers {
    pub(super) source: Postgres,
    pub(super) destination: Postgres,
}

impl Servers {
    pub(super) async fn start(screen: &Screen, sites: &Sites) -> anyhow::Result<Servers> {
        let step = screen.begin("servers", "starting two throw-away PostgreSQL servers");
        // The sizes of a small machine, and a log of changes that seldom asks for a checkpoint.
        let options = || {
            Options::default()
                .setting("shared_buffers", "128MB")
                .setting("maintenance_work_mem", "128MB")
                .setting("max_wal_size", "2GB")
        };
        let [source, destination] = sites.place([options(), options()]);
        let (source, destination) =
            try_join!(Postgres::start(source), Postgres::start(destination))?;
        step.done(&format!(
            "PostgreSQL {}: source on port {}, destination on port {}",
            source.major().number(),
            source.port(),
            destination.port()
        ));
        Ok(Servers { source, destination })
    }

    /// Makes the shop at the source.
    pub(super) async fn fill(&self, screen: &Screen, scale: f64) -> anyhow::Result<()> {
        let step = screen.begin("shop", "making a shop at the source: about a minute at scale 1");
        shop::build(&self.source, DATABASE, scale).await?;
        self.destination.create_database(DATABASE).await?;
        let size = "select pg_database_size(current_database())";
        let size = self.source.value(DATABASE, size).await?.context("a database has a size")?;
        step.done(&format!("scale {scale}: {} at the source", HumanBytes(size.parse()?)));
        Ok(())
    }

    /// A superuser's session at the destination.
    pub(super) async fn witness(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.destination.client(DATABASE).await
    }

    /// Compares both ends with plain SQL and pg_dump; fails, and names what differs, unless they are the same.
    pub(super) async fn compare(&self, screen: &Screen) -> anyhow::Result<()> {
        let step = screen
            .begin("compare", "reading every row of both ends by SQL, and both schemas by pg_dump");
        let [source, destination] =
            [&self.source, &self.destination].map(|server| End::new(server, DATABASE));
        let compared = oracle::compare(source, destination).await?.refuse()?;
        step.done(&format!(
            "{} tables, {} rows, {} sequences, {} lines of schema: no difference",
            compared.tables,
            HumanCount(compared.rows),
            compared.sequences,
            HumanCount(compared.schema_lines.try_into()?)
        ));
        Ok(())
    }

    /// An end's URL for whoever looks around, from outside its network.
    pub(super) fn way_in(server: &Postgres) -> String {
        let (socket, port) = (server.socket(), server.port());
        format!("postgres://{SUPERUSER}@/{DATABASE}?host={}&port={port}", socket.display())
    }

    /// An end's URL, without a password.
    pub(super) fn url(server: &Postgres) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{DATABASE}", server.port())
    }

    pub(super) fn keep_logs(&self, folder: &Path) -> anyhow::Result<()> {
        for (name, server) in [("source", &self.source), ("destination", &self.destination)] {
            std::fs::write(folder.join(format!("{name}.log")), server.log())?;
        }
        Ok(())
    }
}
