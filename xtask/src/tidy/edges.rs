//! Which crate may use which: the borders of ARCHITECTURE.md, and crates that nobody may use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Finding;

/// Our crates, each with those of ours that it may use.
const EDGES: &[(&str, &[&str])] = &[
    ("pgconvoy-shared", &[]),
    ("pgconvoy-proto", &["pgconvoy-shared"]),
    ("pgconvoy-runtime", &["pgconvoy-shared"]),
    ("pgconvoy-control", &["pgconvoy-shared"]),
    ("pgconvoy-flow", &["pgconvoy-shared"]),
    (
        "pgconvoy-coordinator",
        &["pgconvoy-control", "pgconvoy-proto", "pgconvoy-runtime", "pgconvoy-shared"],
    ),
    ("pgconvoy-agent", &["pgconvoy-flow", "pgconvoy-proto", "pgconvoy-runtime", "pgconvoy-shared"]),
    (
        "pgconvoy",
        &[
            "pgconvoy-agent",
            "pgconvoy-coordinator",
            "pgconvoy-proto",
            "pgconvoy-runtime",
            "pgconvoy-shared",
        ],
    ),
    ("pgconvoy-integration-tests", &["pgconvoy-proto", "pgconvoy-runtime", "pgconvoy-shared"]),
    ("xtask", &[]),
];

/// The tests of these crates may use the harness, for real servers.
const HARNESS: &str = "pgconvoy-integration-tests";
const TESTED_WITH_SERVERS: &[&str] = &["pgconvoy-agent", "pgconvoy-coordinator", "pgconvoy"];

/// Crates without I/O: what must not be in their tree, at any depth.
const PURE: &[&str] = &["pgconvoy-shared", "pgconvoy-control", "pgconvoy-flow"];
const IMPURE: &[&str] =
    &["tokio", "tonic", "mio", "sled", "openraft", "tokio-postgres", "hyper", "rustls"];

/// Crates that only one of ours may see.
const KEPT_IN: &[(&str, &str)] =
    &[("sled", "pgconvoy-coordinator"), ("openraft", "pgconvoy-coordinator")];

/// Crates that may not be in the tree at all.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", "two TLS providers in one tree make rustls panic; ring is ours"),
    ("aws-lc-sys", "two TLS providers in one tree make rustls panic; ring is ours"),
    ("openssl", "rustls only"),
    ("openssl-sys", "rustls only"),
    ("native-tls", "rustls only"),
    ("async-std", "tokio only"),
    ("serde_yaml", "no longer kept; serde-saphyr is ours"),
];

/// `metadata`: what `cargo metadata` answers, with the resolved tree.
pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names: BTreeMap<&str, &str> = list(metadata, "packages")
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    for name in names.values() {
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| banned == name) {
            findings.push(Finding::of_file("Cargo.lock", format!("{name} is banned: {reason}")));
        }
    }
    let members: BTreeSet<&str> = list(metadata, "workspace_members")
        .filter_map(|id| names.get(id.as_str()?).copied())
        .collect();
    for package in list(metadata, "packages") {
        let Some(name) = package["name"].as_str().filter(|name| members.contains(name)) else {
            continue;
        };
        for dependency in list(package, "dependencies") {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if let Some(reason) = refused(name, used, for_tests, &members) {
                findings.push(Finding::of_file(&format!("{name}/Cargo.toml"), reason));
            }
        }
    }
    let tree = Tree::of(metadata, &names);
    for pure in PURE {
        let impure = tree.below(pure).into_iter().filter(|name| IMPURE.contains(name));
        findings.extend(impure.map(|name| {
            Finding::of_file(
                &format!("{pure}/Cargo.toml"),
                format!("a pure crate, yet {name} is in its tree"),
            )
        }));
    }
    findings
}

fn refused(name: &str, used: &str, for_tests: bool, members: &BTreeSet<&str>) -> Option<String> {
    if let Some((_, home)) = KEPT_IN.iter().find(|(kept, _)| *kept == used) {
        return (*home != name).then(|| format!("{used} is seen in {home} only"));
    }
    if !members.contains(used) {
        return None;
    }
    if for_tests && used == HARNESS && TESTED_WITH_SERVERS.contains(&name) {
        return None;
    }
    match EDGES.iter().find(|(from, _)| *from == name) {
        None => {
            Some(format!("{name} is not on the map: add it to ARCHITECTURE.md and to cargo x tidy"))
        }
        Some((_, to)) if to.contains(&used) => None,
        Some(_) => Some(format!("{name} may not use {used}")),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

/// What is built into what; without what only tests or build scripts use.
struct Tree<'a> {
    names: &'a BTreeMap<&'a str, &'a str>,
    uses: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Tree<'a> {
    fn of(metadata: &'a Value, names: &'a BTreeMap<&'a str, &'a str>) -> Self {
        let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in list(&metadata["resolve"], "nodes") {
            let built_in = list(node, "deps").filter(|dependency| {
                list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null())
            });
            let ids = built_in.filter_map(|dependency| dependency["pkg"].as_str()).collect();
            uses.insert(node["id"].as_str().unwrap_or_default(), ids);
        }
        Tree { names, uses }
    }

    fn below(&self, name: &str) -> BTreeSet<&'a str> {
        let mut open: Vec<&str> =
            self.names.iter().filter(|(_, each)| **each == name).map(|(id, _)| *id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.uses.get(id).into_iter().flatten());
            }
        }
        seen.into_iter().filter_map(|id| self.names.get(id).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A crate that is used, and the kind of use: `None` is an ordinary one.
    type Use<'a> = (&'a str, Option<&'a str>);

    /// A workspace of crates, each with what it uses.
    fn workspace(crates: &[(&str, &[Use<'_>])]) -> Value {
        let ours: Vec<&str> = crates.iter().map(|(name, _)| *name).collect();
        let used = crates.iter().flat_map(|(_, uses)| uses.iter().map(|(name, _)| *name));
        let foreign: BTreeSet<&str> = used.filter(|name| !ours.contains(name)).collect();
        let package = |name: &str, uses: &[Use<'_>]| {
            let uses: Vec<Value> =
                uses.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
            json!({ "id": name, "name": name, "dependencies": uses })
        };
        let node = |name: &str, uses: &[Use<'_>]| {
            let deps: Vec<Value> = uses
                .iter()
                .map(|(name, kind)| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] }))
                .collect();
            json!({ "id": name, "deps": deps })
        };
        let packages: Vec<Value> = crates
            .iter()
            .map(|(name, uses)| package(name, uses))
            .chain(foreign.iter().map(|name| package(name, &[])))
            .collect();
        let nodes: Vec<Value> = crates.iter().map(|(name, uses)| node(name, uses)).collect();
        json!({ "packages": packages, "workspace_members": ours, "resolve": { "nodes": nodes } })
    }

    fn texts(workspace: &Value) -> Vec<String> {
        check(workspace).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn the_edges_of_the_map_are_fine() {
        let tidy = workspace(&[
            ("pgconvoy-shared", &[("serde", None)]),
            ("pgconvoy-control", &[("pgconvoy-shared", None), ("tokio", Some("dev"))]),
            ("pgconvoy-integration-tests", &[("pgconvoy-shared", None)]),
            (
                "pgconvoy-agent",
                &[("pgconvoy-shared", None), ("pgconvoy-integration-tests", Some("dev"))],
            ),
        ]);
        assert_eq!(texts(&tidy), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_is_not_on_the_map_is_refused() {
        let untidy = workspace(&[
            ("pgconvoy-agent", &[("pgconvoy-coordinator", None)]),
            ("pgconvoy-coordinator", &[("pgconvoy-new", None)]),
            ("pgconvoy-new", &[("pgconvoy-agent", None)]),
        ]);
        assert_eq!(texts(&untidy).len(), 3);
    }

    #[test]
    fn the_harness_is_for_tests_only() {
        let untidy = workspace(&[
            ("pgconvoy-agent", &[("pgconvoy-integration-tests", None)]),
            ("pgconvoy-integration-tests", &[]),
        ]);
        assert_eq!(texts(&untidy), ["pgconvoy-agent may not use pgconvoy-integration-tests"]);
    }

    #[test]
    fn a_pure_crate_has_no_io_at_any_depth() {
        let untidy = workspace(&[
            ("pgconvoy-flow", &[("pgconvoy-shared", None)]),
            ("pgconvoy-shared", &[("tokio", None)]),
        ]);
        assert_eq!(texts(&untidy).len(), 2);
    }

    #[test]
    fn a_banned_crate_and_a_kept_one_are_found() {
        let untidy = workspace(&[("pgconvoy-agent", &[("openssl", None), ("sled", None)])]);
        let texts = texts(&untidy);
        assert!(texts.iter().any(|text| text.contains("openssl is banned")), "{texts:?}");
        assert!(
            texts.iter().any(|text| text.contains("sled is seen in pgconvoy-coordinator only")),
            "{texts:?}"
        );
    }
}
