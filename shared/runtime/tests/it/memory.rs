use pgconvoy_runtime::memory::Hub;
use pgconvoy_runtime::tls::Peer;

use crate::world::{Served, ask};

#[tokio::test]
async fn those_in_one_process_speak_without_a_port() {
    let hub = Hub::new();
    let channel = hub.channel();
    let error = ask(&channel).await.unwrap_err();
    assert!(error.contains("nobody accepts here"), "{error}");

    let served = Served::on(hub.incoming());
    ask(&channel).await.unwrap();
    assert_eq!(served.peers(), [Peer { address: None, identity: None, local: true }]);
}

#[tokio::test]
async fn a_later_server_takes_over() {
    let hub = Hub::new();
    let channel = hub.channel();
    let first = Served::on(hub.incoming());
    ask(&channel).await.unwrap();
    let second = Served::on(hub.incoming());
    first.end().await;
    // A call that meets the broken connection may fail; the one after it must not.
    if let Err(broken) = ask(&channel).await {
        ask(&channel).await.unwrap_or_else(|error| panic!("{broken}, and then {error}"));
    }
    assert_eq!(second.peers().len(), 1);
}
