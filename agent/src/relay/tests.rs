//! Sessions through a partner, against real servers. That logins mean the same both ways is tested where logins are
//! (`pg/tests/login.rs`).

use std::path::Path;
use std::time::Duration;

use pgconvoy_flow::digest::{Answer, Focus, Found, HashKey, Question, Wanted};
use pgconvoy_integration_tests::net::Link;
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::wait;
use pgconvoy_runtime::certs;
use pgconvoy_runtime::tls::{Listener, TlsFiles};
use pgconvoy_shared::endpoint::{Endpoint, Side};
use pgconvoy_shared::verify::Sample;

use super::*;
use crate::listen;
use crate::pg::Access;
use crate::pg::tests::{access, endpoint};
use crate::pg::wire::Wire;

const LIMIT: Duration = Duration::from_secs(60);

/// Two agents of two sites, as far as their relays go.
pub(crate) struct TwoSites {
    pub(crate) owner: End,
    pub(crate) partner: End,
}

/// One of them. Ends with this value.
pub(crate) struct End {
    pub(crate) relay: Relay,
    address: String,
    cut_off: Option<DropGuard>,
    _tasks: Vec<Owned<()>>,
}

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    Partner,
    Owner,
    Nobody,
}

impl End {
    fn start(name: &str, site: &str, security: &Security, listens: bool) -> Self {
        let relay = Relay::new(name.parse().unwrap(), Some(site.to_owned()), security).unwrap();
        let mut tasks = vec![relay.serve()];
        let mut address = String::new();
        if listens {
            let any = "127.0.0.1:0".parse().unwrap();
            let listener = Listener::bind(any, security, false).unwrap();
            address = listener.local_addr().unwrap().to_string();
            let relay = relay.clone();
            tasks.push(tasks::owned("listener", async { listen(listener, relay).await.unwrap() }));
        }
        let cut_off = Some(relay.cut_off_at_the_end());
        Self { relay, address, cut_off, _tasks: tasks }
    }

    fn neighbour(&self) -> Neighbour {
        Neighbour {
            agent: self.relay.shared.me.clone(),
            site: self.relay.shared.site.clone().unwrap(),
            address: self.address.clone(),
        }
    }

    fn leave(&mut self) {
        self.cut_off = None;
    }
}

impl TwoSites {
    pub(crate) fn start(dialled: Dialled) -> Self {
        Self::with(dialled, [&Security::Plaintext; 2])
    }

    fn with(dialled: Dialled, security: [&Security; 2]) -> Self {
        let owner = End::start("owner", "here", security[0], dialled == Dialled::Owner);
        let partner = End::start("partner", "there", security[1], dialled == Dialled::Partner);
        let neighbours = Neighbours { partners: vec![partner.neighbour()], owners: Vec::new() };
        owner.relay.meet(neighbours);
        partner.relay.meet(Neighbours { partners: Vec::new(), owners: vec![owner.neighbour()] });
        Self { owner, partner }
    }

    /// The partner is found behind a link.
    async fn through_a_link(&self, latency: Duration, bytes_per_second: u64) -> Link {
        let target = self.partner.address.parse().unwrap();
        let link = Link::to(target, latency, bytes_per_second).await.unwrap();
        let address = link.address().to_string();
        let partner = Neighbour { address, ..self.partner.neighbour() };
        self.owner.relay.meet(Neighbours { partners: vec![partner], owners: Vec::new() });
        link
    }

    /// The same database by way of the partner.
    pub(crate) fn access(&self, endpoint: &Endpoint, name: &str) -> Access {
        let endpoint = Endpoint { site: Some("there".to_owned()), ..endpoint.clone() };
        access(Side::Source, &endpoint, name).by(self.owner.relay.way_to(&endpoint))
    }
}

/// Reads so many rows of 1 KiB; how many came.
async fn read_rows(access: &Access, rows: u32) -> Result<u64, PgError> {
    let mut wire = access.reader().await?;
    let sql = format!(
        "copy (select repeat(md5(i::text), 32) from generate_series(1, {rows}) i) to stdout"
    );
    let mut copy = wire.copy_out(&sql).await?;
    while copy.next().await?.is_some() {}
    let read = copy.frames().messages();
    wire.close().await;
    Ok(read)
}

async fn server() -> (Postgres, Endpoint) {
    let server = Postgres::start(Options::default()).await.unwrap();
    let endpoint = endpoint(&server, "postgres");
    (server, endpoint)
}

async fn sessions_called(server: &Postgres, name: &str, wanted: i64) {
    let sql = format!("select count(*) from pg_stat_activity where application_name = '{name}'");
    let client = server.client("postgres").await.unwrap();
    wait::until(LIMIT, "sessions to begin or end", async || {
        let count: i64 =
            client.query_one(&sql, &[]).await.map_err(|error| error.to_string())?.get(0);
        if count == wanted { Ok(()) } else { Err(format!("{count} sessions called {name}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn rows_come_through_whoever_dialled() {
    let (server, endpoint) = server().await;
    for dialled in [Dialled::Partner, Dialled::Owner] {
        let sites = TwoSites::start(dialled);
        let access = sites.access(&endpoint, "relayed");
        for _ in 0..6 {
            assert_eq!(read_rows(&access, 10_000).await.unwrap(), 10_000, "{dialled:?}");
        }
        let session = access.session().await.unwrap();
        let row = session.query_one("select current_setting('application_name')", &[]).await;
        assert_eq!(row.unwrap().get::<_, String>(0), "relayed", "{dialled:?}");
        session.close().await;
        sessions_called(&server, "relayed", 0).await;
    }
}

#[tokio::test]
async fn agents_prove_by_certificate_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    certs::init(folder.path()).unwrap();
    let issued = |name: &str| {
        let hosts = ["127.0.0.1".to_owned()];
        certs::issue(
            folder.path(),
            pgconvoy_runtime::tls::Role::Agent,
            name,
            &hosts,
            folder.path(),
        )
        .unwrap();
        let file = |end: &str| folder.path().join(format!("{name}.{end}"));
        let ca = Path::new(folder.path()).join("ca.crt");
        Security::Mutual(TlsFiles { ca, cert: file("crt"), key: file("key") })
    };
    pgconvoy_runtime::install_crypto();
    let (owner, partner, other) = (issued("owner"), issued("partner"), issued("other"));
    let (_server, endpoint) = server().await;
    for dialled in [Dialled::Partner, Dialled::Owner] {
        let sites = TwoSites::with(dialled, [&owner, &partner]);
        let rows = read_rows(&sites.access(&endpoint, "tls"), 1000).await;
        assert_eq!(rows.unwrap(), 1000, "{dialled:?}");

        let sites = TwoSites::with(dialled, [&owner, &other]);
        let refused = read_rows(&sites.access(&endpoint, "tls"), 1000).await.unwrap_err();
        assert_eq!(refused.failure("").code, "no_partner", "{dialled:?}: {refused}");
    }
    let sites = TwoSites::with(Dialled::Partner, [&other, &partner]);
    let refused = read_rows(&sites.access(&endpoint, "tls"), 1000).await.unwrap_err();
    assert!(refused.to_string().contains("may not speak for agent owner"), "{refused}");
}

#[tokio::test]
async fn who_cannot_be_reached_and_what_cannot_be_reached_is_told() {
    let (server, endpoint) = server().await;
    let code = |error: &PgError| error.failure("").code;
    let sites = TwoSites::start(Dialled::Nobody);
    let refused = sites.access(&endpoint, "none").session().await.unwrap_err();
    assert_eq!(code(&refused), "no_partner");
    assert!(refused.to_string().contains("partner: it says no address"), "{refused}");

    let sites = TwoSites::start(Dialled::Partner);
    let port = endpoint.port;
    drop(server);
    let refused = sites.access(&endpoint, "none").session().await.unwrap_err();
    assert_eq!(code(&refused), "unreachable_host");
    assert!(refused.to_string().contains("from agent partner"), "{refused}");
    assert!(refused.to_string().contains(&port.to_string()), "{refused}");

    sites.owner.relay.meet(Neighbours::default());
    let refused = sites.access(&endpoint, "none").session().await.unwrap_err();
    assert!(refused.to_string().contains("none is known"), "{refused}");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let (_server, endpoint) = server().await;
    let sites = TwoSites::start(Dialled::Partner);
    sites.partner.relay.meet(Neighbours::default());
    let refused = sites.access(&endpoint, "stranger").session().await.unwrap_err();
    assert!(refused.to_string().contains("has nothing to do with partner"), "{refused}");

    // Nor does a neighbour that asks for a database of another site.
    let sites = TwoSites::start(Dialled::Partner);
    let asks = Endpoint { site: Some("elsewhere".to_owned()), ..endpoint };
    let opened = sites.owner.relay.open("there", &asks, Attempt::Plain, Patience::Short).await;
    let refused = opened.expect_err("a partner opens sessions of its own site only");
    let failure = refused.failure("");
    assert_eq!(failure.code, "not_of_this_site");
    assert_eq!(failure.class, FailureClass::Transient, "the owner will be told who is of it now");
}

#[tokio::test]
async fn a_session_ends_with_either_end() {
    let (server, endpoint) = server().await;
    for dialled in [Dialled::Partner, Dialled::Owner] {
        let mut sites = TwoSites::start(dialled);
        let access = sites.access(&endpoint, "cut off");
        // Dropped in the middle of rows that nobody reads.
        let mut wire = access.reader().await.unwrap();
        let endless = "copy (select repeat('x', 1000), generate_series(1, 1000000000)) to stdout";
        wire.copy_out(endless).await.unwrap();
        sessions_called(&server, "cut off", 1).await;
        drop(wire);
        sessions_called(&server, "cut off", 0).await;

        let mut wire = access.reader().await.unwrap();
        let mut copy = wire.copy_out(endless).await.unwrap();
        copy.next().await.unwrap().expect("rows");
        sites.partner.leave();
        let error = loop {
            match copy.next().await {
                Ok(rows) => assert!(rows.is_some(), "a session that is cut off does not end well"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.failure("").code, "connection_lost", "{dialled:?}: {error}");
        sessions_called(&server, "cut off", 0).await;
    }
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_else() {
    let (_server, endpoint) = server().await;
    let sites = TwoSites::start(Dialled::Partner);
    let access = sites.access(&endpoint, "stalled");
    // More than there are connections, each with more rows under way than its window holds.
    let mut stalled = Vec::new();
    for _ in 0..lines::CONNECTIONS * 2 {
        let mut wire = access.reader().await.unwrap();
        let endless = "copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout";
        wire.copy_out(endless).await.unwrap();
        stalled.push(wire);
    }
    for _ in 0..lines::CONNECTIONS {
        assert_eq!(read_rows(&access, 30_000).await.unwrap(), 30_000);
    }
}

/// 20 ms there and back, 50 Mbit/s. How many bytes cross it is what is asked: time is for benchmarks.
#[tokio::test]
async fn rows_that_wait_for_a_narrow_link_are_compressed() {
    let (_server, endpoint) = server().await;
    let sites = TwoSites::start(Dialled::Partner);
    let narrow = sites.through_a_link(Duration::from_millis(10), 6_250_000).await;
    let rows = read_rows(&sites.access(&endpoint, "narrow"), 50_000).await.unwrap();
    let carried = narrow.carried();
    assert_eq!(rows, 50_000);
    assert!(carried < 50_000 * 1024 / 2, "{carried} of 51 MB went over the link");
}

#[tokio::test]
async fn of_several_partners_one_that_fails_is_passed_over() {
    let (_server, endpoint) = server().await;
    let good = TwoSites::start(Dialled::Partner);
    let mut partners = good.owner.relay.shared.neighbours.borrow().partners.clone();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    partners.push(Neighbour { agent: "dead".parse().unwrap(), site: "there".to_owned(), address });
    good.owner.relay.meet(Neighbours { partners, owners: Vec::new() });
    for _ in 0..4 {
        assert_eq!(read_rows(&good.access(&endpoint, "passed"), 10).await.unwrap(), 10);
    }
}

/// An owner that waits for a partner, which does not know of it yet.
fn an_owner_that_waits() -> (End, End) {
    let owner = End::start("owner", "here", &Security::Plaintext, true);
    let partner = End::start("partner", "there", &Security::Plaintext, false);
    let partners = vec![partner.neighbour()];
    owner.relay.meet(Neighbours { partners, owners: Vec::new() });
    (owner, partner)
}

/// As where a partner's machine died: its calls are open for as long as nobody asks.
#[tokio::test]
async fn a_partner_that_begins_anew_takes_back_what_it_offered_before() {
    let (_server, endpoint) = server().await;
    let (owner, partner) = an_owner_that_waits();
    let former = Relay::new(partner.neighbour().agent, None, &Security::Plaintext).unwrap();
    let channel = former.shared.channel_to(&owner.neighbour()).unwrap();
    let mut stale = Vec::new();
    for _ in 0..lines::CONNECTIONS {
        stale.push(partner::offer(&former, channel.clone()).await.unwrap());
    }
    partner.relay.meet(Neighbours { partners: Vec::new(), owners: vec![owner.neighbour()] });
    for mut ends in stale {
        let heard = tokio::time::timeout(LIMIT, ends.next()).await;
        assert!(matches!(heard, Ok(Ok(None) | Err(_))), "{heard:?}");
    }
    let sites = TwoSites { owner, partner };
    assert_eq!(read_rows(&sites.access(&endpoint, "anew"), 10).await.unwrap(), 10);
}

#[tokio::test]
async fn an_offer_that_the_partner_ended_is_passed_over() {
    let (_server, endpoint) = server().await;
    let (owner, partner) = an_owner_that_waits();
    let channel = partner.relay.shared.channel_to(&owner.neighbour()).unwrap();
    let mut ended = Vec::new();
    for _ in 1..lines::CONNECTIONS {
        let Ends { incoming, outgoing } =
            partner::offer(&partner.relay, channel.clone()).await.unwrap();
        drop(outgoing);
        ended.push(incoming);
    }
    // On the same connection: once it is there, so are the ends of the others.
    let (relay, name) = (partner.relay.clone(), owner.neighbour().agent);
    let mut last = partner::offer(&relay, channel).await.unwrap();
    let sites = TwoSites { owner, partner };
    let access = sites.access(&endpoint, "passed over");
    let served = async {
        let Ok(Some(Frame::Open(open))) = last.next().await else { panic!("no request") };
        partner::serve(relay, name, open, last).await;
    };
    let reads = async { assert_eq!(read_rows(&access, 10).await.unwrap(), 10) };
    tokio::join!(reads, served);
}

fn question(wanted: Wanted, focus: Focus) -> Question {
    let mut secret = Box::new([0; HashKey::BYTES]);
    secret[7] = 4;
    Question { secret: HashKey(secret), key_columns: 1, sample: Sample::ALL, focus, wanted }
}

async fn ask(wire: &mut Wire, sql: &str, asked: Question) -> Result<Answer, PgError> {
    wire.ask(sql, asked, |_, _| {}).await
}

#[tokio::test]
async fn rows_that_are_asked_about_stay_where_they_are() {
    let (server, endpoint) = server().await;
    let fill = "create table public.t as select i, repeat(md5(i::text), 8) v from generate_series(1, 60000) i";
    server.sql("postgres", fill).await.unwrap();
    let sites = TwoSites::start(Dialled::Partner);
    let link = sites.through_a_link(Duration::ZERO, 1 << 30).await;
    let mut there = sites.access(&endpoint, "asks").reader().await.unwrap();
    let mut here = access(Side::Source, &endpoint, "asks").reader().await.unwrap();
    let all = "copy public.t to stdout";

    let before = link.carried();
    let (mut rows, mut bytes) = (0, 0);
    let whole = || question(Wanted::Digest, Focus::all());
    let told = |more_rows, more_bytes| {
        rows += more_rows;
        bytes += more_bytes;
    };
    let far = there.ask(all, whole(), told).await.unwrap();
    let sent = link.carried() - before;
    assert_eq!(far, ask(&mut here, all, whole()).await.unwrap());
    assert_eq!((rows, bytes), (far.rows, far.bytes));
    assert!(sent * 25 < far.bytes, "{sent} bytes were sent for {} bytes of rows", far.bytes);

    // A few rows, one by one.
    let before = link.carried();
    let some = || question(Wanted::Rows, Focus::all().narrowed(&[3, 14, 15_926]));
    let far = ask(&mut there, all, some()).await.unwrap();
    let sent = link.carried() - before;
    assert_eq!(far, ask(&mut here, all, some()).await.unwrap());
    let Found::Rows(kept) = far.found else { panic!("rows were asked for") };
    assert!(!kept.is_empty() && sent < 10_000, "{} rows in {sent} bytes", kept.len());

    // Rows by other buckets than those of an earlier digest.
    let fewer = || question(Wanted::Digest, Focus::all().narrowed(&[1, 2, 3]));
    let far = ask(&mut there, all, fewer()).await.unwrap();
    assert_eq!(far, ask(&mut here, all, fewer()).await.unwrap());

    // An error in the middle leaves the session as it was.
    let fails = "copy (select i / (50000 - i) from public.t) to stdout";
    let error = ask(&mut there, fails, whole()).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("22012"), "{error}");
    assert_eq!(there.value("select 'still here'").await.unwrap(), "still here");
    let mut copy = there.copy_out("copy (select 1) to stdout").await.unwrap();
    assert!(copy.next().await.unwrap().is_some(), "rows that nobody asked about are passed on");
    assert!(copy.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_question_ends_with_the_partner() {
    let (server, endpoint) = server().await;
    let mut sites = TwoSites::start(Dialled::Owner);
    let mut wire = sites.access(&endpoint, "asks").reader().await.unwrap();
    let endless = "copy (select generate_series(1, 1000000000)) to stdout";
    let (reads, mut read) = tokio::sync::mpsc::unbounded_channel();
    let told = move |rows, _| reads.send(rows).unwrap();
    let asking = wire.ask(endless, question(Wanted::Digest, Focus::all()), told);
    let leaving = async {
        assert!(read.recv().await.unwrap() > 0);
        sites.partner.leave();
    };
    let (answer, ()) = tokio::join!(asking, leaving);
    assert_eq!(answer.unwrap_err().failure("").code, "connection_lost");
    sessions_called(&server, "asks", 0).await;
}
