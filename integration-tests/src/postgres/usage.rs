//! What a server has used.

use std::time::Duration;

use anyhow::Context;

use super::Postgres;

/// Of `/proc/PID/stat`: a hundred to the second on every Linux that PostgreSQL runs on.
const TICK: Duration = Duration::from_millis(10);

impl Postgres {
    /// Processor time of the server so far: of its processes that run, and of those that ended.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let server = self.postmaster().as_ref().context("the server does not run")?.id();
        let mut ticks = 0;
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let is_process = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
            let Some(process) = is_process else { continue };
            // A process may end meanwhile; its time is its parent's then.
            let Ok(facts) = std::fs::read_to_string(path.join("stat")) else { continue };
            ticks += ticks_of(&facts, process, server).unwrap_or(0);
        }
        Ok(TICK * u32::try_from(ticks)?)
    }
}

/// Of the server with its ended children, or of one of its children; none for any other process.
fn ticks_of(facts: &str, process: u32, server: u32) -> Option<u64> {
    // The program's name is in parentheses, and may hold anything. After it: state, parent, …
    let (_, facts) = facts.rsplit_once(')')?;
    let fields: Vec<&str> = facts.split_whitespace().collect();
    let field = |no: usize| fields.get(no)?.parse::<u64>().ok();
    if process == server {
        return Some(field(11)? + field(12)? + field(13)? + field(14)?);
    }
    (field(1)? == u64::from(server)).then_some(field(11)? + field(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_of_the_server_and_of_its_children() {
        let facts = "7 (post) gres) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0";
        assert_eq!(ticks_of(facts, 7, 7), Some(100));
        assert_eq!(ticks_of(facts, 7, 1), Some(30));
        assert_eq!(ticks_of(facts, 7, 2), None);
    }
}
