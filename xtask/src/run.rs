//! Starting a program, saying so, and stopping at the first that fails.

use std::process::Command;

use anyhow::{Context, ensure};

/// A program to start.
pub(crate) struct Step(Command);

/// cargo, the one that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Step {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    Step(command)
}

/// The folder of the workspace.
pub(crate) fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_owned()
}

impl Step {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Step {
        self.0.env(name, value);
        self
    }

    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let shown = shown(&self.0);
        eprintln!("── {shown}");
        let status = self.0.status().with_context(|| format!("start {shown}"))?;
        ensure!(status.success(), "`{shown}` ended with {status}");
        Ok(())
    }

    /// It must fail, and say these words.
    pub(crate) fn fails_with(mut self, words: &str) -> anyhow::Result<()> {
        let shown = shown(&self.0);
        eprintln!("── {shown}");
        let output = self.0.output().with_context(|| format!("start {shown}"))?;
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        ensure!(!output.status.success(), "`{shown}` passed");
        ensure!(
            told.contains(words),
            "`{shown}` failed for another reason than `{words}`:\n{told}"
        );
        Ok(())
    }

    /// What it writes to standard output.
    pub(crate) fn output(mut self) -> anyhow::Result<Vec<u8>> {
        let shown = shown(&self.0);
        let output = self.0.output().with_context(|| format!("start {shown}"))?;
        ensure!(
            output.status.success(),
            "`{shown}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }
}

fn shown(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once("cargo".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
