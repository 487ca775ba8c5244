//! Backups: taken while the store is written to, restored elsewhere, refused when they are not whole.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use bytes::Bytes;
use store::{EmbeddedStore, Error, Expect, Options, Revision, Store, backup, restore};

const SMALL: Options = Options { garbage: 4 << 10, history_events: 64, history_bytes: 1 << 20 };

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, SMALL).unwrap()
}

async fn all(store: &EmbeddedStore) -> BTreeMap<String, (Bytes, Revision)> {
    let entries = store.range("/", None).await.unwrap().entries;
    entries.into_iter().map(|e| (e.key.to_string(), (e.value, e.revision))).collect()
}

#[tokio::test]
async fn a_restored_store_has_every_object_and_a_far_revision() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let store = open(&dir.path().join("old"));
    let a = store.commit("/a", Expect::Absent, Some("1".into())).await.unwrap();
    store.commit("/b", Expect::Absent, Some("2".into())).await.unwrap();
    store.commit("/a", Expect::At(a), None).await.unwrap();
    let taken = backup(&dir.path().join("old"), &file).unwrap();
    assert_eq!((taken.entries, taken.revision), (1, store.revision().await.unwrap()));
    let before = all(&store).await;
    let later = store.commit("/c", Expect::Absent, Some("3".into())).await.unwrap();

    restore(&file, &dir.path().join("new")).unwrap();
    let new = open(&dir.path().join("new"));
    assert_eq!(all(&new).await, before);
    let old_watch = new.watch("/", later).await.map(|_| ());
    assert!(
        matches!(old_watch, Err(Error::Compacted { .. })),
        "watchers list again: {old_watch:?}"
    );
    let next = new.commit("/d", Expect::Absent, Some("4".into())).await.unwrap();
    assert!(next > later + 1_000_000, "no revision is used twice");
    drop(new);
    open(&dir.path().join("new")); // And again.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_a_moment_of_history() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("old");
    let store = Arc::new(open(&home));
    // A pair is written one after the other: a moment shows the second at most as new as the first, and one behind.
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let (mut first, mut second) = (Expect::Absent, Expect::Absent);
            for i in 0..3000_u32 {
                let value = || Some(Bytes::from(format!("{i:0>200}")));
                first = Expect::At(store.commit("/first", first, value()).await.unwrap());
                second = Expect::At(store.commit("/second", second, value()).await.unwrap());
            }
        }
    });
    let mut seen = Vec::new();
    while !writer.is_finished() {
        let floor = store.revision().await.unwrap();
        let file = dir.path().join("backup");
        let (from, to) = (home.clone(), file.clone());
        tokio::task::spawn_blocking(move || backup(&from, &to)).await.unwrap().unwrap();
        let target = dir.path().join(format!("new{}", seen.len()));
        restore(&file, &target).unwrap();
        let state = all(&open(&target)).await;
        let number = |key: &str| {
            state.get(key).map_or(-1, |(v, _)| std::str::from_utf8(v).unwrap().parse().unwrap())
        };
        let (first, second): (i64, i64) = (number("/first"), number("/second"));
        assert!(first == second || first == second + 1, "{first} {second}");
        let newest = state.values().map(|(_, revision)| *revision).max().unwrap_or(1);
        assert!(newest >= floor, "what was answered before the backup is in it: {newest} {floor}");
        seen.push(first);
    }
    writer.await.unwrap();
    assert!(seen.is_sorted() && seen.len() > 1, "{seen:?}");
}

#[tokio::test]
async fn a_cut_or_changed_backup_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (home, file) = (dir.path().join("old"), dir.path().join("backup"));
    let store = open(&home);
    for i in 0..3 {
        store.commit(&format!("/{i}"), Expect::Absent, Some("v".into())).await.unwrap();
    }
    backup(&home, &file).unwrap();
    let whole = fs::read(&file).unwrap();
    let target = dir.path().join("new");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let error = restore(&file, &target).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("backup") && text.contains("nothing was changed"), "{what}: {text}");
        assert!(!target.join("store.db").exists(), "{what}");
    };
    for cut in 0..whole.len() {
        refused(&whole[..cut], &format!("cut at {cut}"));
    }
    for at in (0..whole.len()).filter(|at| !(28..32).contains(at)) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        refused(&changed, &format!("changed at {at}"));
    }
    refused(&fs::read(home.join("store.db")).unwrap(), "a data file is not a backup");
    fs::write(&file, &whole).unwrap();
    restore(&file, &target).unwrap();
}

#[tokio::test]
async fn a_restore_goes_over_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (home, file) = (dir.path().join("old"), dir.path().join("backup"));
    let store = open(&home);
    backup(&home, &file).unwrap();
    assert!(matches!(restore(&file, &home), Err(Error::Locked { .. })));
    drop(store);
    let before = fs::read(home.join("store.db")).unwrap();
    let error = restore(&file, &home).unwrap_err();
    assert!(matches!(&error, Error::NotEmpty { path } if path.ends_with("store.db")), "{error}");
    assert_eq!(fs::read(home.join("store.db")).unwrap(), before);
    assert!(matches!(backup(&dir.path().join("none"), &file), Err(Error::Io { .. })));
}
