//! What the embedded store promises beyond the laws: acknowledged writes survive, damage is refused.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use store::{EmbeddedStore, Error, Expect, Options, Revision, Store};

const SMALL: Options = Options { garbage: 4 << 10, history_events: 64, history_bytes: 1 << 20 };

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, Options::default()).unwrap()
}

fn text(s: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(s.as_bytes()))
}

async fn all(store: &EmbeddedStore) -> Vec<(String, String, Revision)> {
    let snapshot = store.range("/", None).await.unwrap();
    let entry = |e: store::Entry| {
        (e.key.to_string(), String::from_utf8(e.value.to_vec()).unwrap(), e.revision)
    };
    snapshot.entries.into_iter().map(entry).collect()
}

/// Three keys, one changed, one deleted.
async fn some_history(store: &EmbeddedStore) {
    let a = store.commit("/a", Expect::Absent, text("1")).await.unwrap();
    let b = store.commit("/b", Expect::Absent, text("1")).await.unwrap();
    store.commit("/c", Expect::Absent, text("1")).await.unwrap();
    store.commit("/a", Expect::At(a), text("2")).await.unwrap();
    store.commit("/b", Expect::At(b), None).await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_values_and_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    some_history(&store).await;
    let (before, revision) = (all(&store).await, store.revision().await.unwrap());
    drop(store);

    let store = open(dir.path());
    assert_eq!(all(&store).await, before);
    assert_eq!(store.revision().await.unwrap(), revision, "the deletion was the newest revision");
    let old = store.watch("/", revision - 1).await.map(|_| ());
    assert!(
        matches!(old, Err(Error::Compacted { .. })),
        "history is not kept over a restart: {old:?}"
    );
    assert!(store.watch("/", revision).await.is_ok());
    let next = store.commit("/d", Expect::Absent, text("1")).await.unwrap();
    assert!(next > revision);
}

#[tokio::test]
async fn a_file_cut_at_any_byte_keeps_all_commits_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let store = open(dir.path());
    let header = fs::metadata(&file).unwrap().len();
    let mut states = vec![(header, all(&store).await)];
    for i in 0..6 {
        let expect =
            store.get("/a").await.unwrap().map_or(Expect::Absent, |e| Expect::At(e.revision));
        store.commit("/a", expect, text(&"x".repeat(i))).await.unwrap();
        store.commit(&format!("/k{i}"), Expect::Absent, text("v")).await.unwrap();
        states.push((fs::metadata(&file).unwrap().len(), all(&store).await));
    }
    drop(store);
    let whole = fs::read(&file).unwrap();
    for cut in header as usize..=whole.len() {
        // What a crash leaves: nothing, zeros, or bytes that were never written here.
        for rest in [&b""[..], &[0; 40], &[0xa7; 40]] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("store.db"), [&whole[..cut], rest].concat()).unwrap();
            let store = open(dir.path());
            let known = &states.iter().rev().find(|(length, _)| *length <= cut as u64).unwrap().1;
            let now = all(&store).await;
            assert!(now.len() >= known.len(), "cut at {cut}: {now:?}");
            for (key, _, revision) in known {
                let kept = now.iter().find(|(k, ..)| k == key).unwrap();
                assert!(kept.2 >= *revision, "cut at {cut}: {key} went back");
            }
            store.commit("/new", Expect::Absent, text("v")).await.unwrap();
            let before = all(&store).await;
            drop(store);
            assert_eq!(all(&open(dir.path())).await, before, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn damage_before_the_end_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let store = open(dir.path());
    some_history(&store).await;
    let last = fs::metadata(&file).unwrap().len() as usize;
    store.commit("/z", Expect::Absent, text("last")).await.unwrap();
    drop(store);
    let whole = fs::read(&file).unwrap();
    for at in 0..last {
        if (28..32).contains(&at) {
            continue; // Reserved bytes of the header.
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).unwrap();
        match EmbeddedStore::open(dir.path(), Options::default()).map(|_| ()) {
            Err(error @ Error::Corrupt { .. }) => {
                let message = error.to_string();
                assert!(message.contains("store.db") && message.contains("backup"), "{message}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(fs::read(&file).unwrap(), damaged, "byte {at}: the file was changed");
    }
    for not_ours in [&b""[..], b"hello", &[0; 100]] {
        fs::write(&file, not_ours).unwrap();
        let refused = EmbeddedStore::open(dir.path(), Options::default()).map(|_| ());
        assert!(matches!(refused, Err(Error::Corrupt { offset: 0, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = EmbeddedStore::open(dir.path(), Options::default()).map(|_| ());
    let Err(error @ Error::Locked { .. }) = refused else { panic!("{refused:?}") };
    let message = error.to_string();
    assert!(message.contains("store.lock"), "{message}");
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    drop(store);
    open(dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_shrink_the_file_while_commits_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let store = Arc::new(EmbeddedStore::open(dir.path(), SMALL).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let key = format!("/w{writer}");
            let mut expect = Expect::Absent;
            for i in 0..200 {
                let value = format!("{i:0>200}");
                expect = Expect::At(store.commit(&key, expect, text(&value)).await.unwrap());
            }
        });
    }
    tasks.join_all().await;
    let (before, revision) = (all(&store).await, store.revision().await.unwrap());
    drop(Arc::into_inner(store).unwrap());
    let length = fs::metadata(&file).unwrap().len();
    assert!(length < 8 * 200 * 200 / 2, "{length} bytes after 320 kB of commits");
    let store = EmbeddedStore::open(dir.path(), SMALL).unwrap();
    assert_eq!(all(&store).await, before);
    assert_eq!(store.revision().await.unwrap(), revision);
    assert!(before.iter().all(|(_, value, _)| value.ends_with("199")));
}

#[tokio::test]
async fn an_unfinished_checkpoint_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    some_history(&store).await;
    let before = all(&store).await;
    drop(store);
    fs::write(dir.path().join("store.db.next"), b"half").unwrap();
    assert_eq!(all(&open(dir.path())).await, before);
    assert!(!dir.path().join("store.db.next").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let file = dir.path().join("store.db");
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..256 {
        let store = store.clone();
        tasks.spawn(async move {
            store.commit(&format!("/{i}"), Expect::Absent, text("v")).await.unwrap()
        });
    }
    let mut revisions = tasks.join_all().await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 256);
    let bytes = fs::read(&file).unwrap();
    let frames = bytes.windows(4).filter(|w| w == b"\xf6FR\n").count();
    assert!(frames < 200, "{frames} syncs for 256 concurrent commits");
}

#[tokio::test]
async fn opening_many_objects_is_fast() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let value = Bytes::from(vec![b'x'; 1500]);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..50_000 {
        let (store, value) = (store.clone(), value.clone());
        tasks.spawn(async move {
            store.commit(&format!("/pods/default/{i}"), Expect::Absent, Some(value)).await
        });
    }
    tasks.join_all().await;
    drop(Arc::into_inner(store).unwrap());
    let start = std::time::Instant::now();
    let store = open(dir.path());
    let took = start.elapsed();
    println!("opened {} objects in {took:?}", all(&store).await.len());
    assert!(took.as_millis() < 2_000, "{took:?} in an unoptimised build");
}
