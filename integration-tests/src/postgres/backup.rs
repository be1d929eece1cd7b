//! A server's files as they were at one moment, to go back to.

use std::path::PathBuf;

use anyhow::Context;

use super::{Postgres, template};

/// Files of a server that had been stopped in good order. They go with the server they are of.
#[derive(Debug)]
pub struct Backup {
    data: PathBuf,
}

impl Postgres {
    /// Stops the server, copies its files and starts it again. One at a time: the next one takes the place of this one.
    pub async fn back_up(&self) -> anyhow::Result<Backup> {
        self.stop_fast()?;
        let data = self.home.path().join("backup");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        template::copy(&self.data(), &data, self.account.as_ref())?;
        self.start_again().await?;
        Ok(Backup { data })
    }

    /// Goes back to how a server was, this one or another. Port, settings and way in stay its own.
    pub async fn restore(&self, backup: &Backup) -> anyhow::Result<()> {
        self.put_back(backup)?;
        self.start_again().await
    }

    /// The same as a standby does that is promoted and had no more than this: what comes is on another timeline.
    pub async fn restore_promoted(&self, backup: &Backup) -> anyhow::Result<()> {
        self.put_back(backup)?;
        let standby = self.data().join("standby.signal");
        std::fs::write(&standby, "")?;
        if let Some(account) = &self.account {
            account.own(&standby)?;
        }
        self.start_again().await?;
        self.sql("postgres", "select pg_promote()").await
    }

    fn put_back(&self, backup: &Backup) -> anyhow::Result<()> {
        self.stop_fast()?;
        let settings = self.data().join("postgresql.conf");
        let own = std::fs::read(&settings)?;
        std::fs::remove_dir_all(self.data()).context("remove a server's files")?;
        template::copy(&backup.data, &self.data(), self.account.as_ref())?;
        Ok(std::fs::write(&settings, own)?)
    }
}
