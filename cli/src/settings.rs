//! A process's settings: flags first, then the environment (which clap reads), then the file of `-c`.
//!
//! The file is YAML with the flags' names as keys. A key that is no flag is refused, with its line.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::CommandFactory;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::yaml::{self, Node, Value};

use crate::command::Cli;
use crate::connect::TlsFlags;
use crate::exit::Exit;
use crate::problem::Problem;

/// What a configuration file says.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    path: PathBuf,
    entries: Vec<(String, Node)>,
}

impl Settings {
    /// Reads the file, if there is one, for a subcommand.
    pub(crate) fn read(path: Option<&Path>, subcommand: &str) -> Result<Self, Problem> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            Problem::usage("file_unreadable", message, "see whether the path is right")
        })?;
        Self::parse(path, &text, &flags_of(subcommand))
    }

    fn parse(path: &Path, text: &str, known: &[String]) -> Result<Self, Problem> {
        let at = |line: usize| format!("{}, line {line}", path.display());
        let root = yaml::parse(text).map_err(|error| {
            let place = at(error.line);
            bad("bad_yaml", place, error.message, "correct the line")
        })?;
        let entries = match root.value {
            Value::Null => Vec::new(),
            Value::Map(entries) => entries,
            other => {
                let message = format!("{} stands where keys are expected", other.kind());
                return Err(bad("bad_yaml", at(root.line), message, "write `key: value` lines"));
            }
        };
        for (key, _) in &entries {
            if !known.contains(&key.name) {
                let message = format!("`{}` is not known", key.name);
                let remedy = format!("known here: {}", known.join(", "));
                return Err(bad("unknown_key", at(key.line), message, &remedy));
            }
        }
        let entries = entries.into_iter().map(|(key, node)| (key.name, node)).collect();
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The flag's value, else the file's.
    pub(crate) fn pick<T: FromStr<Err: Display>>(
        &self,
        flag: Option<T>,
        key: &str,
    ) -> Result<Option<T>, Problem> {
        let node = self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node);
        let (None, Some(node)) = (&flag, node) else { return Ok(flag) };
        let wrong = |message: String| {
            let place = format!("{}, line {}", self.path.display(), node.line);
            bad("bad_value", place, format!("{key}: {message}"), "")
        };
        let Value::Text(text) = &node.value else {
            return Err(wrong(format!(
                "{} stands here, a single value is meant",
                node.value.kind()
            )));
        };
        text.parse().map(Some).map_err(|error: T::Err| wrong(format!("`{text}`: {error}")))
    }

    /// The flag's values, else the file's: a list, or values separated by commas.
    pub(crate) fn pick_list(&self, flag: Vec<String>, key: &str) -> Result<Vec<String>, Problem> {
        let node = self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node);
        let (true, Some(node)) = (flag.is_empty(), node) else { return Ok(flag) };
        let text = |node: &Node| match &node.value {
            Value::Text(text) => Ok(text.clone()),
            other => {
                let place = format!("{}, line {}", self.path.display(), node.line);
                Err(bad("bad_value", place, format!("{key}: {} stands here", other.kind()), ""))
            }
        };
        match &node.value {
            Value::List(items) => items.iter().map(text).collect(),
            _ => Ok(text(node)?.split(',').map(|part| part.trim().to_owned()).collect()),
        }
    }

    /// The certificates' flags, each else the file's.
    pub(crate) fn pick_tls(&self, flags: TlsFlags) -> Result<TlsFlags, Problem> {
        Ok(TlsFlags {
            tls_ca: self.pick(flags.tls_ca, "tls-ca")?,
            tls_cert: self.pick(flags.tls_cert, "tls-cert")?,
            tls_key: self.pick(flags.tls_key, "tls-key")?,
        })
    }

    /// The flag, else what the file says; false where neither does.
    pub(crate) fn pick_switch(&self, flag: bool, key: &str) -> Result<bool, Problem> {
        Ok(self.pick(flag.then_some(true), key)?.unwrap_or(false))
    }
}

/// What neither flag nor file nor environment said, and has no default.
pub(crate) fn required<T>(value: Option<T>, flag: &str) -> Result<T, Problem> {
    value.ok_or_else(|| {
        Problem::usage(
            "missing_key",
            format!("--{flag} is missing"),
            "give the flag, or the key in the file of -c",
        )
    })
}

fn bad(code: &'static str, place: String, message: String, remedy: &str) -> Problem {
    Problem::new(Exit::Usage, Failure::definite(code, message).about(place).remedy(remedy))
}

/// The long flags of a subcommand that make sense in a file.
fn flags_of(subcommand: &str) -> Vec<String> {
    let cli = Cli::command();
    let command = cli.find_subcommand(subcommand);
    let arguments = command.into_iter().flat_map(clap::Command::get_arguments);
    let longs = arguments.filter_map(|argument| argument.get_long());
    longs.filter(|long| !matches!(*long, "config" | "help")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let known = ["listen", "node-id", "coordinators", "insecure-plaintext"].map(str::to_owned);
        Settings::parse(Path::new("c.yaml"), text, &known)
            .map_err(|problem| problem.describe(crate::output::Format::Table).unwrap_or_default())
    }

    fn shown(problem: Problem) -> String {
        problem.describe(crate::output::Format::Table).unwrap_or_default()
    }

    #[test]
    fn flags_win_over_the_file() {
        let file =
            parse("node-id: 3\ncoordinators: [a:1, b:2]\ninsecure-plaintext: true\n").unwrap();
        assert_eq!(file.pick(Some(7_u64), "node-id").unwrap(), Some(7));
        assert_eq!(file.pick(None::<u64>, "node-id").unwrap(), Some(3));
        assert_eq!(file.pick(None::<u64>, "listen").unwrap(), None);
        assert_eq!(file.pick_list(vec![], "coordinators").unwrap(), ["a:1", "b:2"]);
        assert_eq!(file.pick_list(vec!["c:3".into()], "coordinators").unwrap(), ["c:3"]);
        assert!(file.pick_switch(false, "insecure-plaintext").unwrap());
        assert_eq!(
            parse("coordinators: a:1, b:2")
                .unwrap()
                .pick_list(vec![], "coordinators")
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn what_is_wrong_in_the_file_has_its_line() {
        let error = parse("node-id: 1\nlisten_on: x\n").unwrap_err();
        assert!(error.contains("c.yaml, line 2") && error.contains("unknown_key"), "{error}");
        let file = parse("\nnode-id: many\n").unwrap();
        let error = shown(file.pick(None::<u64>, "node-id").unwrap_err());
        assert!(error.contains("c.yaml, line 2") && error.contains("many"), "{error}");
        assert!(parse("- a\n").unwrap_err().contains("bad_yaml"));
    }

    #[test]
    fn the_known_keys_are_the_flags() {
        let flags = flags_of("coordinator");
        for key in ["node-id", "listen", "advertise", "http", "data-dir", "tls-ca"] {
            assert!(flags.contains(&key.to_owned()), "{key}: {flags:?}");
        }
        assert!(!flags.contains(&"config".to_owned()));
    }
}
