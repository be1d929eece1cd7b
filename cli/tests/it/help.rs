//! `--help` of every command, as it stands in `golden/`. `PGCONVOY_BLESS=1` writes it anew.

use std::fs;
use std::path::Path;

use crate::run::pgconvoy;

const COMMANDS: &[&str] = &[
    "",
    "agent",
    "agents",
    "agents drain",
    "agents list",
    "agents undrain",
    "certs",
    "certs init",
    "certs issue",
    "cluster",
    "cluster add-node",
    "cluster init",
    "cluster remove-node",
    "cluster status",
    "cluster transfer-leader",
    "completions",
    "coordinator",
    "errors",
    "migrate",
    "precheck",
    "task",
    "task cancel",
    "task create",
    "task cutover",
    "task delete",
    "task events",
    "task explain",
    "task list",
    "task pause",
    "task precheck",
    "task resume",
    "task resync",
    "task show",
    "task start",
    "task verify",
    "task watch",
    "verify",
];

#[test]
fn each_command_explains_itself() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let bless = std::env::var_os("PGCONVOY_BLESS").is_some();
    let mut different = Vec::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let ran = pgconvoy(&words);
        assert_eq!(ran.exit, 0, "{command}: {}", ran.stderr);
        let leaf = !matches!(*command, "agents" | "certs" | "cluster" | "task");
        assert!(!leaf || ran.stdout.contains("Example"), "`{command} --help` has no example");
        let text = ran.stdout.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
        let name = if command.is_empty() { "pgconvoy".into() } else { command.replace(' ', "-") };
        let path = folder.join(format!("{name}.txt"));
        if bless {
            fs::write(&path, &text).expect("the folder is there");
        }
        if fs::read_to_string(&path).unwrap_or_default() != text {
            different.push(format!("`{command} --help` differs from {}:\n{text}", path.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// A command that is added gets its golden file.
#[test]
fn no_command_is_forgotten() {
    for group in COMMANDS.iter().filter(|command| !command.contains(' ')) {
        let words: Vec<&str> = group.split_whitespace().chain(["--help"]).collect();
        let help = pgconvoy(&words).stdout;
        let Some((_, rest)) = help.split_once("Commands:\n") else { continue };
        for line in rest.lines().take_while(|line| !line.is_empty()) {
            let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else {
                continue;
            };
            let name = name.split_whitespace().next().unwrap_or_default();
            let full = format!("{group} {name}");
            assert!(name == "help" || COMMANDS.contains(&full.trim()), "{full}");
        }
    }
}
