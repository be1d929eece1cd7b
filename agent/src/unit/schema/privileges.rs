//! Who owns objects and who may do what with them, as far as two ends can be compared in it.
//!
//! Roles belong to a server. Where the destination lacks one that the source names, or does not let the role that migrates
//! give objects to it, its objects belong to somebody else and its grants are other ones, as the precheck foretold: that is
//! told once for the role, and is no difference. Nor is what that role itself may do at the destination: it had to be
//! allowed to work there. Who granted something is not compared.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::without_owner;
use super::text::{statements, tokens};
use super::toc::TocEntry;

/// By object: `OWNER OF TABLE public.orders` → role.
type Owners = BTreeMap<String, String>;
/// By object: `ACL public.TABLE orders` → one statement for each role.
type Grants = BTreeMap<String, BTreeSet<String>>;

/// What one end says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Privileges {
    owners: Owners,
    grants: Grants,
}

/// The roles of the destination's server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) known: BTreeSet<String>,
    /// Those that the role of ours may give objects to.
    pub(super) assignable: BTreeSet<String>,
    /// The role of ours.
    pub(super) own: String,
}

/// What a role that cannot be compared is named by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) owned: u32,
    pub(super) grants: u32,
}

/// Whether all that an entry says is who may do what.
pub(super) fn is_grant(entry: &TocEntry) -> bool {
    matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL")
}

impl Privileges {
    /// Takes in what an entry says of them; `title` is what the object is called.
    pub(super) fn add(&mut self, title: &str, entry: &TocEntry) {
        if is_grant(entry) {
            let grants = self.grants.entry(title.to_owned()).or_default();
            let of_roles = statements(&entry.statement).into_iter().filter(|statement| {
                let grantor = ["SET SESSION AUTHORIZATION", "RESET SESSION AUTHORIZATION"];
                !grantor.iter().any(|begin| statement.starts_with(begin))
            });
            grants.extend(of_roles.map(|statement| format!("{statement};")));
        } else if without_owner(&entry.statement).len() < entry.statement.len() {
            self.owners.insert(format!("OWNER OF {title}"), entry.owner.clone());
        }
    }

    /// Leaves what can be compared at a destination with these roles: as texts by object, for the source (self) and the
    /// destination. And the roles of the source that could not be given what they have there.
    pub(super) fn comparable(
        self,
        mut theirs: Self,
        roles: &Roles,
    ) -> ([BTreeMap<String, String>; 2], BTreeMap<String, Named>) {
        let mut left_out: BTreeMap<String, Named> = BTreeMap::new();
        let Self { mut owners, mut grants } = self;
        // An object that one end lacks is told as that.
        owners.retain(|object, _| theirs.owners.contains_key(object));
        theirs.owners.retain(|object, _| owners.contains_key(object));
        owners.retain(|object, role| {
            let comparable = roles.assignable.contains(role);
            if !comparable {
                left_out.entry(role.clone()).or_default().owned += 1;
                theirs.owners.remove(object);
            }
            comparable
        });
        // What the owner of an object may do is written as what differs from an owner's defaults.
        let not_owning: BTreeSet<String> = left_out.keys().cloned().collect();
        let comparable = |role: &String| roles.known.contains(role) && !not_owning.contains(role);
        for statements in grants.values_mut() {
            statements.retain(|statement| {
                let mut others = roles_named(statement);
                others.retain(|role| !comparable(role));
                for role in &others {
                    left_out.entry(role.clone()).or_default().grants += 1;
                }
                others.is_empty()
            });
        }
        for (object, statements) in &mut theirs.grants {
            let ours = grants.get(object);
            statements.retain(|statement| {
                let named = roles_named(statement);
                let mine = named.contains(&roles.own)
                    && !statement.starts_with("ALTER DEFAULT PRIVILEGES")
                    && !ours.is_some_and(|of| of.contains(statement));
                named.iter().all(comparable) && !mine
            });
        }
        theirs.grants.retain(|_, statements| !statements.is_empty());
        grants.retain(|_, statements| !statements.is_empty());
        let texts = |owners: Owners, grants: Grants| {
            let grants = grants.into_iter().map(|(object, statements)| {
                (object, statements.into_iter().collect::<Vec<_>>().join("\n"))
            });
            owners.into_iter().chain(grants).collect()
        };
        ([texts(owners, grants), texts(theirs.owners, theirs.grants)], left_out)
    }
}

/// The roles that a grant, a revocation, or a default of them names.
fn roles_named(statement: &str) -> Vec<String> {
    let words = tokens(statement);
    let names_one = |before: &[&str]| matches!(before, [.., "TO" | "FROM"] | [.., "FOR", "ROLE"]);
    let named = words.iter().enumerate().filter(|(no, _)| names_one(&words[..*no]));
    named.map(|(_, word)| *word).filter(|word| *word != "PUBLIC").map(unquoted).collect()
}

fn unquoted(name: &str) -> String {
    let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    quoted.map_or_else(|| name.to_owned(), |name| name.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::schema::toc::CatalogRow;

    fn entry(kind: &str, owner: &str, statement: &str) -> TocEntry {
        TocEntry {
            id: 1,
            object: CatalogRow { class: 0, oid: 0 },
            needs: Vec::new(),
            kind: kind.to_owned(),
            schema: Some("public".to_owned()),
            name: "t".to_owned(),
            owner: owner.to_owned(),
            post_data: false,
            statement: statement.to_owned(),
        }
    }

    #[test]
    fn roles_are_found_in_every_form_of_a_grant() {
        let roles = |statement| roles_named(statement);
        assert_eq!(roles("GRANT SELECT(\"a TO b\") ON TABLE s.t TO \"A \"\"b\";"), ["A \"b"]);
        assert_eq!(roles("REVOKE ALL ON FUNCTION f(a integer) FROM PUBLIC;"), [""; 0]);
        let default = "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT ALL ON TABLES TO r WITH GRANT OPTION;";
        assert_eq!(roles(default), ["app", "r"]);
    }

    #[test]
    fn what_names_a_role_that_the_destination_lacks_is_left_out_at_both_ends() {
        let said = |owner: &str, grants: &str| {
            let mut said = Privileges::default();
            let table = format!("CREATE TABLE t ();\n\n\nALTER TABLE public.t OWNER TO {owner};");
            said.add("TABLE t", &entry("TABLE", owner, &table));
            said.add("ACL t", &entry("ACL", owner, grants));
            said
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let roles = |known: &[&str], assignable: &[&str]| Roles {
            known: set(known),
            assignable: set(assignable),
            own: "mover".to_owned(),
        };
        let grants = "SET SESSION AUTHORIZATION x;\nGRANT ALL ON TABLE t TO reader;\nRESET SESSION AUTHORIZATION;\n\
                      GRANT ALL ON TABLE t TO ghost;";
        let here = said("ghost", grants);
        let there = said("me", "GRANT ALL ON TABLE t TO reader;");
        let two = roles(&["me", "reader"], &["me"]);
        let ([ours, theirs], lacking) = here.clone().comparable(there, &two);
        assert_eq!(ours, theirs);
        assert_eq!(ours.len(), 1);
        assert_eq!(lacking, [("ghost".to_owned(), Named { owned: 1, grants: 1 })].into());

        let all = roles(&["ghost", "me", "reader"], &["ghost"]);
        let ([ours, theirs], lacking) =
            here.clone().comparable(said("me", "GRANT ALL ON TABLE t TO mover;"), &all);
        assert_eq!(ours["OWNER OF TABLE t"], "ghost");
        assert_eq!(theirs["OWNER OF TABLE t"], "me");
        assert!(ours["ACL t"].contains("TO ghost;") && !theirs.contains_key("ACL t"));
        assert!(lacking.is_empty());

        // Known, but nothing may be given to it.
        let there =
            said("mover", "GRANT ALL ON TABLE t TO reader;\nREVOKE ALL ON TABLE t FROM mover;");
        let ([ours, theirs], lacking) =
            here.comparable(there, &roles(&["ghost", "mover", "reader"], &["mover"]));
        assert_eq!(ours, theirs);
        assert_eq!(lacking, [("ghost".to_owned(), Named { owned: 1, grants: 1 })].into());
    }
}
