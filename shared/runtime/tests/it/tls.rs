use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use pgconvoy_runtime::tls::{Dialer, Identity, Listener, Peer, Role, Security, TlsError, TlsFiles};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::{Authority, LIMIT, Served, ask, replace};

const LOOPBACK: &str = "127.0.0.1:0";

/// A served port, and where it is.
fn serve(security: &Security) -> (Served, SocketAddr) {
    let listener = Listener::bind(LOOPBACK.parse().unwrap(), security, false).unwrap();
    let address = listener.local_addr().expect("a port");
    (Served::on(listener.incoming()), address)
}

fn coordinator(authority: &Authority) -> TlsFiles {
    authority.issue(Role::Coordinator, "node-1", &["localhost", "127.0.0.1"])
}

async fn ask_as(security: &Security, address: &str) -> Result<(), String> {
    ask(&Dialer::new(security).unwrap().channel(address).unwrap()).await
}

/// Dials as no process of ours would: with any certificate, or none. With TLS 1.3 the handshake is
/// done before the listener has judged the certificate: the first read tells.
async fn dial_by_hand(
    authority: &Authority,
    address: SocketAddr,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

#[tokio::test]
async fn both_ends_prove_who_they_are_and_services_see_it() {
    let authority = Authority::new();
    let (served, address) = serve(&Security::Mutual(coordinator(&authority)));
    let agent = authority.mutual(Role::Agent, "a-1", &[]);
    for form in [address.to_string(), format!("https://localhost:{}", address.port())] {
        ask_as(&agent, &form).await.unwrap();
    }
    for peer in served.peers() {
        assert_eq!(peer.identity, Some(Identity { role: Role::Agent, name: "a-1".into() }));
        assert!(peer.address.is_some() && !peer.local, "{peer:?}");
    }
    assert_eq!(served.peers().len(), 2);
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let (served, address) = serve(&Security::Mutual(coordinator(&authority)));
    let mut tls = dial_by_hand(&authority, address, None).await;
    let error = tls.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn a_peer_of_a_foreign_authority_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (served, address) = serve(&Security::Mutual(coordinator(&ours)));
    let mut foreign = theirs.issue(Role::Agent, "a-1", &[]);
    // It trusts us, so that it is we who refuse.
    foreign.ca = ours.file("ca.crt");
    ask_as(&Security::Mutual(foreign), &address.to_string()).await.unwrap_err();
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn a_listener_of_a_foreign_authority_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut foreign = coordinator(&theirs);
    foreign.ca = ours.file("ca.crt");
    let (served, address) = serve(&Security::Mutual(foreign));
    let agent = ours.mutual(Role::Agent, "a-1", &[]);
    let error = ask_as(&agent, &address.to_string()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn a_listener_whose_certificate_does_not_name_the_host_is_refused() {
    let authority = Authority::new();
    let elsewhere = authority.mutual(Role::Coordinator, "node-1", &["db.example"]);
    let (served, address) = serve(&elsewhere);
    let agent = authority.mutual(Role::Agent, "a-1", &[]);
    let error = ask_as(&agent, &address.to_string()).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn a_certificate_that_does_not_say_who_its_holder_is_is_refused() {
    let authority = Authority::new();
    let (served, address) = serve(&Security::Mutual(coordinator(&authority)));
    let ca_key = KeyPair::from_pem(&fs::read_to_string(authority.file("ca.key")).unwrap()).unwrap();
    let ca_cert = fs::read_to_string(authority.file("ca.crt")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca_cert, ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let nobody = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let nobody = nobody.signed_by(&key, &issuer).unwrap();
    let files = TlsFiles {
        ca: authority.file("ca.crt"),
        cert: authority.file("nobody.crt"),
        key: authority.file("nobody.key"),
    };
    fs::write(&files.cert, nobody.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    // Its own process is told at the start …
    let refused = Dialer::new(&Security::Mutual(files.clone())).unwrap_err();
    assert!(matches!(refused, TlsError::Identity { .. }), "{refused}");
    // … and a process that is not ours is refused by the listener.
    let shown = (nobody.der().clone(), key.serialize_der().try_into().unwrap());
    let mut tls = dial_by_hand(&authority, address, Some(shown)).await;
    let ended = tokio::time::timeout(LIMIT, tls.read(&mut [0])).await.expect("closed at once");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn plain_text_does_not_get_through_a_tls_port() {
    let authority = Authority::new();
    let (served, address) = serve(&Security::Mutual(coordinator(&authority)));
    ask_as(&Security::Plaintext, &address.to_string()).await.unwrap_err();
    assert_eq!(served.peers(), []);
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_waiting() {
    let authority = Authority::new();
    let (_served, address) = serve(&Security::Mutual(coordinator(&authority)));
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let agent = authority.mutual(Role::Agent, "a-1", &[]);
    let address = address.to_string();
    // Well below the time a handshake may take.
    let answered = tokio::time::timeout(Duration::from_secs(3), ask_as(&agent, &address)).await;
    answered.expect("an answer while the others are silent").unwrap();
}

#[tokio::test]
async fn a_listener_and_a_dialler_follow_their_files() {
    let (old, new) = (Authority::new(), Authority::new());
    let ours = coordinator(&old);
    let (_served, address) = serve(&Security::Mutual(ours.clone()));
    let address = address.to_string();
    let client = old.issue(Role::Agent, "a-1", &[]);
    let dialer = Dialer::new(&Security::Mutual(client.clone())).unwrap();
    let ask_anew = async || ask(&dialer.channel(&address).unwrap()).await;
    ask_anew().await.unwrap();

    // The client changes over to the new authority before the listener has heard of it. Between
    // its two files it holds a certificate that is not its key's, and goes on with the old pair.
    let renewed = new.issue(Role::Agent, "a-1", &[]);
    replace(&client.cert, &fs::read(&renewed.cert).unwrap());
    ask_anew().await.unwrap();
    replace(&client.key, &fs::read(&renewed.key).unwrap());
    ask_anew().await.unwrap_err();

    // Now the listener trusts both.
    let mut both = fs::read(&ours.ca).unwrap();
    both.extend(fs::read(new.file("ca.crt")).unwrap());
    replace(&ours.ca, &both);
    ask_anew().await.unwrap();
}

#[tokio::test]
async fn plain_text_off_loopback_has_to_be_asked_for() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = Listener::bind(everywhere, &Security::Plaintext, false).unwrap_err();
    assert!(matches!(refused, TlsError::PlaintextOffLoopback { .. }), "{refused}");
    let asked_for = Listener::bind(everywhere, &Security::Plaintext, true).unwrap();
    let port = asked_for.local_addr().unwrap().port();
    let served = Served::on(asked_for.incoming());
    ask_as(&Security::Plaintext, &format!("127.0.0.1:{port}")).await.unwrap();
    let [Peer { address: Some(_), identity: None, local: false }] = served.peers()[..] else {
        panic!("{:?}", served.peers());
    };
}

#[tokio::test]
async fn an_address_must_fit_the_security() {
    let authority = Authority::new();
    let secured = Dialer::new(&authority.mutual(Role::Client, "me", &[])).unwrap();
    let refused = secured.channel("http://localhost:1").unwrap_err();
    assert!(matches!(refused, TlsError::PlaintextNotWanted { .. }), "{refused}");
    let plain = Dialer::new(&Security::Plaintext).unwrap();
    let refused = plain.channel("https://localhost:1").unwrap_err();
    assert!(matches!(refused, TlsError::CertificateMissing { .. }), "{refused}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let (one, other) = (Authority::new(), Authority::new());
    let good = coordinator(&one);
    let refused = |files: TlsFiles| Dialer::new(&Security::Mutual(files)).unwrap_err();

    let missing = one.file("missing.crt");
    let error = refused(TlsFiles { cert: missing.clone(), ..good.clone() });
    assert!(matches!(&error, TlsError::Read { path, .. } if *path == missing), "{error}");

    let error = refused(TlsFiles { cert: good.key.clone(), ..good.clone() });
    assert!(matches!(&error, TlsError::NoCertificate { path } if *path == good.key), "{error}");

    let error = refused(TlsFiles { key: coordinator(&other).key, ..good.clone() });
    assert!(matches!(&error, TlsError::Pair { .. }), "{error}");
}

#[tokio::test]
async fn an_unreachable_address_is_named() {
    let listener = Listener::bind(LOOPBACK.parse().unwrap(), &Security::Plaintext, false).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = ask_as(&Security::Plaintext, &address).await.unwrap_err();
    assert!(error.contains(&format!("cannot connect to {address}")), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_for_this_user_and_goes_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let address = format!("unix:{}", path.display());
    // What an earlier process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let served = Served::on(Listener::unix(&path).unwrap().incoming());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    ask_as(&Security::Plaintext, &address).await.unwrap();
    assert_eq!(served.peers(), [Peer { address: None, identity: None, local: true }]);

    let second = Listener::unix(&path).unwrap_err();
    assert!(matches!(second, TlsError::InUse { .. }), "{second}");
    served.end().await;
    assert!(!path.exists());
}

#[test]
fn a_certificate_of_another_role_or_name_is_refused_before_anybody_is_dialled() {
    let authority = Authority::new();
    let security = authority.mutual(Role::Agent, "a-1", &[]);
    security.require(Role::Agent, Some("a-1")).unwrap();
    security.require(Role::Agent, None).unwrap();
    for (role, name) in [(Role::Coordinator, None), (Role::Agent, Some("a-2"))] {
        let refused = security.require(role, name);
        assert!(matches!(refused, Err(TlsError::OtherIdentity { .. })), "{refused:?}");
    }
    Security::Plaintext.require(Role::Coordinator, None).unwrap();
}
