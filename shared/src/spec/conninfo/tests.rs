use proptest::prelude::*;

use super::*;

fn endpoint(text: &str) -> Endpoint {
    Conninfo::parse(text).and_then(|read| read.endpoint(None)).expect(text)
}

fn plain() -> Endpoint {
    Endpoint {
        host: "db".into(),
        port: 5432,
        database: "shop".into(),
        user: "ann".into(),
        sslmode: SslMode::Prefer,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 0,
        settings: BTreeMap::new(),
        site: None,
    }
}

#[test]
fn both_forms_say_the_same() {
    for text in [
        "postgres://ann@db/shop",
        "postgresql://ann@db:5432/shop",
        "postgres://db/shop?user=ann",
        "postgres:///?host=db&dbname=shop&user=ann",
        "host=db dbname=shop user=ann",
        "user = 'ann' host=db\tport=5432 dbname='shop'",
    ] {
        assert_eq!(endpoint(text), plain(), "{text}");
    }
}

#[test]
fn parameters_have_libpqs_meaning() {
    let read = Conninfo::parse(
        "postgres://a%40b:p%3Aw%2F@h/d?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=c&sslkey=k\
         &connect_timeout=7&application_name=x&options=-c%20work_mem%3D64MB%20--my.x%3Da%5C%20b",
    )
    .unwrap();
    assert_eq!(read.password.as_ref().map(Secret::expose), Some("p:w/"));
    assert_eq!(read.notices.len(), 1);
    let settings = [("work_mem", "64MB"), ("my.x", "a b")];
    let expected = Endpoint {
        host: "h".into(),
        database: "d".into(),
        user: "a@b".into(),
        sslmode: SslMode::VerifyFull,
        sslrootcert: Some("/ca.pem".into()),
        sslcert: Some("c".into()),
        sslkey: Some("k".into()),
        connect_timeout_secs: 7,
        settings: settings.map(|(name, value)| (name.into(), value.into())).into(),
        site: Some("dc1".into()),
        ..plain()
    };
    assert_eq!(read.endpoint(Some("dc1".into())), Ok(expected));
}

#[test]
fn sockets_and_ipv6_are_hosts() {
    assert_eq!(endpoint("postgres://u@%2Frun%2Fpg:6000/d").host, "/run/pg");
    assert_eq!(endpoint("postgres://u@/d?host=/run/pg").host, "/run/pg");
    assert_eq!(endpoint("host=/run/pg user=u dbname=d").host, "/run/pg");
    let six = endpoint("postgres://u@[2001:db8::1]:5433/d");
    assert_eq!((six.host.as_str(), six.port), ("2001:db8::1", 5433));
    assert_eq!(endpoint("postgres://u@[::1]/d").host, "::1");
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    for (text, code, says) in [
        ("postgres://u@a,b/d", "not_supported_yet", "several hosts"),
        ("postgres://u@a:1,b:2/d", "not_supported_yet", "several hosts"),
        ("postgres://u@h/d?sslcrl=x", "not_supported_yet", "sslcrl"),
        ("postgres://u@h/d?channel_binding=require", "not_supported_yet", "channel_binding"),
        ("postgres://u@h/d?sslmod=require", "bad_url", "sslmod"),
        ("postgres://u@h/d?sslmode=on", "bad_url", "sslmode"),
        ("postgres://u@h/d?sslcert=c", "bad_url", "belong together"),
        ("postgres://u@h/d?options=-d%205", "bad_url", "options"),
        ("postgres://u@h/d?connect_timeout=soon", "bad_url", "connect_timeout"),
        ("postgres://u@h:0/d", "bad_url", "port"),
        ("postgres://u@h:70000/d", "bad_url", "port"),
        ("postgres://u@::1/d", "bad_url", "IPv6"),
        ("postgres://u@[::1/d", "bad_url", "IPv6"),
        ("postgres://u:a@b@h/d", "bad_url", "@"),
        ("postgres://u@h/d%2", "bad_url", "%"),
        ("postgres://u@h/d%00", "bad_url", "zero"),
        ("postgres://u@h/d?x", "bad_url", "no value"),
        ("mysql://u@h/d", "bad_url", "no PostgreSQL URL"),
        ("shop", "bad_url", "no PostgreSQL URL"),
        ("host=h dbname", "bad_url", "without ="),
        ("host='h", "bad_url", "quote"),
    ] {
        let error = Conninfo::parse(text).expect_err(text);
        assert_eq!(error.code, code, "{text}");
        assert!(error.message.contains(says), "{text}: {error}");
        assert!(!error.remedy.is_empty(), "{text}");
    }
}

#[test]
fn what_is_missing_is_not_guessed() {
    for (text, missing) in [
        ("postgres://u@/d", "host"),
        ("postgres://h/d", "user"),
        ("postgres://u@h", "database"),
        ("postgres://u@h/", "database"),
    ] {
        let error = Conninfo::parse(text).unwrap().endpoint(None).expect_err(text);
        assert!(error.message.contains(missing), "{text}: {error}");
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "(postgres://)?[\\PC]{0,40}") {
        let _either = Conninfo::parse(&text);
    }

    #[test]
    fn any_part_can_be_percent_encoded(
        user in "\\PC{1,10}", password in "\\PC{1,10}", database in "\\PC{1,10}",
    ) {
        let text = format!(
            "postgres://{}:{}@db/{}", encoded(&user), encoded(&password), encoded(&database));
        let read = Conninfo::parse(&text).unwrap();
        prop_assert_eq!(read.password.as_ref().map(Secret::expose), Some(password.as_str()));
        let expected = Endpoint { user, database, ..plain() };
        prop_assert_eq!(read.endpoint(None), Ok(expected));
    }

    #[test]
    fn no_message_repeats_a_password(rest in "[@:/?#%&=,' a-z]{0,20}") {
        for text in [format!("postgres://u:geheim{rest}"), format!("password=geheim {rest}")] {
            if let Err(error) = Conninfo::parse(&text) {
                prop_assert!(!error.to_string().contains("geheim"), "{}", error);
            }
        }
    }
}
