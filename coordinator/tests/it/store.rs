//! The store alone: what it promises about disks, damage and directories.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use futures::FutureExt;
use pgconvoy_coordinator::store::durability::Durability;
use pgconvoy_coordinator::store::{
    ClusterId, Damage, Header, LogStore, Mark, OpenOptions, Opened, StoreError,
};
use pgconvoy_shared::ids::NodeId;

const NODE: NodeId = NodeId(7);

fn open(dir: &Path) -> (LogStore, Opened) {
    LogStore::open(dir, OpenOptions::new(NODE)).expect("the store opens")
}

fn refused(dir: &Path) -> StoreError {
    LogStore::open(dir, OpenOptions::new(NODE)).expect_err("the store must not open")
}

fn entry(index: u64) -> Vec<u8> {
    vec![(index % 251) as u8; 20 + (index as usize * 37) % 20_000]
}

async fn fill(store: &LogStore, range: std::ops::Range<u64>) {
    for index in range {
        store.append(index, vec![entry(index)]).await.expect("appends");
    }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, first) = open(dir.path());
    assert_eq!((first.header.node, first.header.cluster, first.vote), (NODE, None, None));
    fill(&store, 0..60).await;
    store.truncate(55).await.expect("truncates");
    fill(&store, 55..58).await;
    store.purge(&Mark { index: 9, bytes: b"nine".to_vec() }).await.expect("purges");
    let header = Header { cluster: Some(ClusterId([3; 16])), ..first.header.clone() };
    store.put_header(&header).await.expect("writes");
    store.put_committed(&Mark { index: 50, bytes: b"fifty".to_vec() });
    store.put_vote(b"a vote").await.expect("writes");
    let bytes = store.log_bytes();
    drop(store);
    first.closed.wait().await;

    let (store, again) = open(dir.path());
    assert_eq!(again.header, header);
    assert_eq!(again.vote.as_deref(), Some(&b"a vote"[..]));
    assert_eq!(again.committed, Some(Mark { index: 50, bytes: b"fifty".to_vec() }));
    assert_eq!(again.purged, Some(Mark { index: 9, bytes: b"nine".to_vec() }));
    assert_eq!((store.range(), store.log_bytes()), (10..58, bytes));
    let read = store.read(0..100, u64::MAX).expect("reads");
    assert_eq!(read, (10..58).map(|index| (index, entry(index))).collect::<Vec<_>>());
    let few = store.read(20..40, 5_000).expect("reads");
    assert!(!few.is_empty() && few.len() < 20, "cut by bytes: {}", few.len());
}

/// Lets the test decide when a sync ends, and how.
struct Held {
    entered: Sender<()>,
    release: Receiver<io::Result<()>>,
}

impl Durability for Held {
    fn make_durable(&mut self) -> io::Result<()> {
        self.entered.send(()).expect("the test listens");
        self.release.recv().expect("the test answers")
    }
}

fn open_held(dir: &Path) -> (LogStore, Receiver<()>, Sender<io::Result<()>>) {
    let (entered, syncs) = channel();
    let (end, release) = channel();
    end.send(Ok(())).expect("the header's sync");
    let options = OpenOptions::new(NODE).durability(|_| Box::new(Held { entered, release }));
    let (store, _) = LogStore::open(dir, options).expect("opens");
    syncs.recv().expect("the header was synced");
    (store, syncs, end)
}

#[tokio::test]
async fn nothing_is_acknowledged_while_its_sync_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, syncs, end) = open_held(dir.path());

    let mut append = std::pin::pin!(store.append(0, vec![entry(0), entry(1)]));
    assert!(append.as_mut().now_or_never().is_none());
    syncs.recv().expect("the append comes to its sync");
    assert!(append.as_mut().now_or_never().is_none(), "acknowledged before the sync ended");
    end.send(Ok(())).expect("the writer waits");
    append.await.expect("appends");

    let mut vote = std::pin::pin!(store.put_vote(b"me"));
    assert!(vote.as_mut().now_or_never().is_none());
    syncs.recv().expect("the vote comes to its sync");
    assert!(vote.as_mut().now_or_never().is_none(), "acknowledged before the sync ended");
    end.send(Ok(())).expect("the writer waits");
    vote.await.expect("saves");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, syncs, end) = open_held(dir.path());
    end.send(Err(io::Error::other("the disk is gone"))).expect("the writer will wait");
    let error = store.append(0, vec![entry(0)]).await.expect_err("must fail");
    assert!(format!("{error:?}").contains("the disk is gone"), "{error:?}");
    syncs.recv().expect("there was a sync");
    // No further sync is tried: a later one may succeed and prove nothing.
    let error = store.put_vote(b"me").await.expect_err("must fail too");
    assert!(format!("{error:?}").contains("the disk is gone"), "{error:?}");
    assert!(syncs.try_recv().is_err());
}

#[tokio::test]
async fn entries_that_leave_a_hole_or_are_too_large_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path());
    fill(&store, 0..3).await;
    let error = store.append(4, vec![entry(4)]).await.expect_err("a hole");
    assert!(matches!(error.cause(), StoreError::NotNext { index: 4, last: Some(2) }));
    let error = store.append(3, vec![vec![0; 300_000]]).await.expect_err("too large");
    assert!(matches!(error.cause(), StoreError::TooLarge { .. }));
    fill(&store, 3..5).await;
    assert_eq!(store.range(), 0..5);
}

#[tokio::test]
async fn a_directory_has_one_user_and_one_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, opened) = open(dir.path());
    assert!(matches!(refused(dir.path()), StoreError::InUse { .. }));
    drop(store);
    opened.closed.wait().await;
    let error =
        LogStore::open(dir.path(), OpenOptions::new(NodeId(8))).expect_err("another node's");
    assert!(matches!(error, StoreError::OtherNode { found: NODE, wanted: NodeId(8), .. }));
}

/// What a closed store is made of.
fn sled_of(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("log")).segment_size(1024 * 1024);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match config.open() {
            Ok(db) => return db,
            // sled's own threads hold its lock a moment longer than the store.
            Err(sled::Error::Io(_)) if std::time::Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(error) => panic!("sled does not open: {error}"),
        }
    }
}

/// A store of 40 entries, closed, with one change made to it behind its back.
async fn tampered(change: impl FnOnce(&sled::Db)) -> StoreError {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, opened) = open(dir.path());
    fill(&store, 0..40).await;
    store.put_committed(&Mark { index: 39, bytes: Vec::new() });
    store.put_vote(b"me").await.expect("saves");
    drop(store);
    opened.closed.wait().await;
    {
        let db = sled_of(dir.path());
        change(&db);
        db.flush().expect("flushes");
    }
    refused(dir.path())
}

fn key_of_entry(index: u64) -> Vec<u8> {
    [b"l", &index.to_be_bytes()[..], &[0, 0]].concat()
}

#[tokio::test]
async fn a_damaged_store_refuses_to_open_and_says_what_to_do() {
    let flipped = tampered(|db| {
        let mut value = db.get(key_of_entry(20)).expect("reads").expect("is there").to_vec();
        let last = value.len() - 1;
        value[last] ^= 1;
        db.insert(key_of_entry(20), value).expect("writes");
    });
    let flipped = flipped.await;
    let text = flipped.to_string();
    assert!(
        matches!(&flipped, StoreError::Damaged { damage: Damage::Checksum { key }, .. } if key == "entry 20"),
        "{text}"
    );
    for word in ["remove-node", "add-node", "entry 20"] {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }

    let holed = tampered(|db| drop(db.remove(key_of_entry(38)).expect("removes"))).await;
    assert!(
        matches!(
            holed,
            StoreError::Damaged { damage: Damage::Hole { expected: 38, found: 39 }, .. }
        ),
        "{holed}"
    );

    let short = tampered(|db| {
        for item in db.range(key_of_entry(39)..vec![b'm']) {
            db.remove(item.expect("reads").0).expect("removes");
        }
    });
    let short = short.await;
    assert!(
        matches!(
            short,
            StoreError::Damaged { damage: Damage::Short { last: Some(38), committed: 39 }, .. }
        ),
        "{short}"
    );

    let headless = tampered(|db| drop(db.remove(b"h\0\0").expect("removes"))).await;
    assert!(matches!(headless, StoreError::Damaged { damage: Damage::NoHeader, .. }), "{headless}");

    let strange = tampered(|db| drop(db.insert(b"?", b"x").expect("writes"))).await;
    assert!(
        matches!(strange, StoreError::Damaged { damage: Damage::UnknownKey { .. }, .. }),
        "{strange}"
    );
}

#[tokio::test]
async fn a_purge_that_was_cut_short_is_finished_at_the_next_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, opened) = open(dir.path());
    fill(&store, 0..20).await;
    store.purge(&Mark { index: 9, bytes: Vec::new() }).await.expect("purges");
    drop(store);
    opened.closed.wait().await;
    {
        // What a crash would leave: two of the entries before the mark.
        let db = sled_of(dir.path());
        for index in [3, 4] {
            let key = key_of_entry(index);
            let crc = crc32fast::hash(&[key.as_slice(), &[1, 0]].concat()).to_le_bytes();
            db.insert(key, [&crc[..], &[1, 0]].concat()).expect("writes");
        }
        db.flush().expect("flushes");
    }
    let (store, opened) = open(dir.path());
    assert_eq!(store.range(), 10..20);
    drop(store);
    opened.closed.wait().await;
    let (store, _) = open(dir.path());
    assert_eq!(store.range(), 10..20);
}
