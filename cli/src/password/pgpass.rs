//! libpq's password file: `host:port:database:user:password` lines, `*` for any, `\` before a literal `:` or `\`.

use pgconvoy_shared::endpoint::Endpoint;

/// The password of the first line that matches.
pub(super) fn find(text: &str, endpoint: &Endpoint) -> Option<String> {
    let port = endpoint.port.to_string();
    // A socket's folder is written as it is, or, where it is libpq's default one, as localhost.
    let localhost = endpoint.host.starts_with('/').then_some("localhost");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| {
        let [host, rest @ ..] = fields.as_slice() else { return None };
        let [at_port, database, user, password] = rest else { return None };
        let any_or = |field: &str, value: &str| field == "*" || field == value;
        let matches = (any_or(host, &endpoint.host) || Some(host.as_str()) == localhost)
            && any_or(at_port, &port)
            && any_or(database, &endpoint.database)
            && any_or(user, &endpoint.user);
        (matches && !password.is_empty()).then(|| password.clone())
    })
}

/// The five fields; what follows the fourth colon is the password, escapes included.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let last = fields.len() == 5;
        match char {
            ':' if !last => fields.push(String::new()),
            char => {
                let literal = if char == '\\' { chars.next() } else { Some(char) };
                if let Some(field) = fields.last_mut() {
                    field.extend(literal);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::spec::Conninfo;

    use super::*;

    const FILE: &str = r"# comment:*:*:*:no
db:5432:shop:ann:first
db:*:*:ann:a\:b\\c
*:6000:*:*:port
localhost:*:*:*:socket
broken line
";

    fn password(url: &str) -> Option<String> {
        let endpoint = Conninfo::parse(url).and_then(|read| read.endpoint(None)).unwrap();
        find(FILE, &endpoint)
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        assert_eq!(password("postgres://ann@db/shop").as_deref(), Some("first"));
        assert_eq!(password("postgres://ann@db/other").as_deref(), Some(r"a:b\c"));
        assert_eq!(password("postgres://bob@x:6000/d").as_deref(), Some("port"));
        assert_eq!(password("postgres://bob@/d?host=/run/pg").as_deref(), Some("socket"));
        assert_eq!(password("postgres://bob@db/shop"), None);
    }
}
