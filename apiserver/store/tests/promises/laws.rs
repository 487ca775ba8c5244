//! What every store promises: one function a law, each run on every implementation.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use store::{
    EmbeddedStore, Entry, Error, EtcdOptions, EtcdStore, Event, Expect, MemoryStore, Options,
    Revision, Store, WatchItem, WatchStream, encryption, testing::Etcd,
};

type Shared = Arc<dyn Store>;

macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $law() { super::run(super::$law(std::sync::Arc::new(super::MemoryStore::new()))); })*
        }
        mod embedded {
            $(#[test] fn $law() {
                let dir = tempfile::tempdir().unwrap();
                let store = super::EmbeddedStore::open(dir.path(), super::Options::default()).unwrap();
                super::run(super::$law(std::sync::Arc::new(store)));
            })*
        }
        mod encrypted {
            $(#[test] fn $law() { super::run(super::$law(super::encrypted(MemoryStore::new()))); })*
            use super::MemoryStore;
        }
        mod etcd {
            $(#[test] fn $law() {
                let dir = tempfile::tempdir().unwrap();
                let etcd = super::Etcd::start(dir.path(), 1).unwrap();
                super::run(async {
                    super::$law(super::etcd_store(&etcd, "/law").await).await;
                });
            })*
        }
    };
}

laws! {
    a_stale_commit_conflicts_and_tells_what_is_there,
    revisions_are_global_and_strictly_increase,
    an_answered_commit_is_visible,
    only_one_of_concurrent_commits_wins,
    a_range_is_sorted_and_stays_within_its_prefix,
    a_range_at_a_revision_shows_exactly_that_moment,
    a_watch_is_ordered_complete_and_without_duplicates,
    a_watch_resumes_after_any_revision,
    a_watch_sees_only_its_prefix,
    a_watch_tells_its_progress_on_request,
    compaction_refuses_the_past_and_keeps_the_present,
    the_future_is_refused,
    too_large_a_value_is_refused,
}

fn run(law: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(law);
}

/// A store in a real etcd, under a prefix that is nobody else's.
async fn etcd_store(etcd: &Etcd, prefix: &str) -> Shared {
    let options = EtcdOptions {
        endpoints: etcd.endpoints(),
        prefix: prefix.into(),
        ..EtcdOptions::default()
    };
    Arc::new(EtcdStore::connect(&options).await.unwrap())
}

/// Encrypts every resource.
fn encrypted(below: impl Store) -> Shared {
    let rules = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  providers:\n  - secretbox:\n      keys:\n      - name: one\n        secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";
    Arc::new(encryption::EncryptedStore::new(Arc::new(below), encryption::parse(rules).unwrap()))
}

fn text(s: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(s.as_bytes()))
}

fn pairs(entries: &[Entry]) -> Vec<(String, String)> {
    entries
        .iter()
        .map(|e| (e.key.to_string(), String::from_utf8(e.value.to_vec()).unwrap()))
        .collect()
}

/// The next `n` events of a watch.
async fn events(watch: &mut WatchStream, n: usize) -> Vec<Arc<Event>> {
    let mut out = Vec::new();
    while out.len() < n {
        if let WatchItem::Event(event) = watch.recv().await.unwrap() {
            out.push(event);
        }
    }
    out
}

async fn a_stale_commit_conflicts_and_tells_what_is_there(store: Shared) {
    let first = store.commit("/registry/g/r/a", Expect::Absent, text("1")).await.unwrap();
    let second = store.commit("/registry/g/r/a", Expect::At(first), text("2")).await.unwrap();
    for (expect, value) in [
        (Expect::At(first), text("3")),
        (Expect::At(first), None),
        (Expect::Absent, text("3")),
        (Expect::Absent, None),
        (Expect::At(second + 1), text("3")),
    ] {
        match store.commit("/registry/g/r/a", expect, value).await {
            Err(Error::Conflict { current: Some(now), .. }) => {
                assert_eq!(
                    (&*now.key, &now.value[..], now.revision),
                    ("/registry/g/r/a", &b"2"[..], second)
                );
            }
            other => panic!("{expect:?}: {other:?}"),
        }
    }
    for expect in [Expect::At(first), Expect::Absent] {
        let gone = store.commit("/registry/g/r/none", expect, None).await;
        assert!(matches!(gone, Err(Error::Conflict { current: None, .. })), "{gone:?}");
    }
    assert_eq!(store.revision().await.unwrap(), second, "a refused commit makes no revision");
}

async fn revisions_are_global_and_strictly_increase(store: Shared) {
    let mut last = store.revision().await.unwrap();
    assert!(last >= 1, "0 means something else to clients");
    for i in 0..20 {
        let revision =
            store.commit(&format!("/registry/g/r/k{i}"), Expect::Absent, text("x")).await.unwrap();
        assert!(revision > last);
        last = revision;
    }
    let deleted = store.commit("/registry/g/r/k3", Expect::At(last - 16), None).await.unwrap();
    assert!(deleted > last, "a deletion is a change too");
    assert_eq!(store.revision().await.unwrap(), deleted);
}

async fn an_answered_commit_is_visible(store: Shared) {
    let mut expect = Expect::Absent;
    for i in 0..50 {
        let value = i.to_string();
        let revision = store.commit("/registry/g/r/a", expect, text(&value)).await.unwrap();
        let entry = store.get("/registry/g/r/a").await.unwrap().unwrap();
        assert_eq!((&entry.value[..], entry.revision), (value.as_bytes(), revision));
        expect = Expect::At(revision);
    }
    let Expect::At(last) = expect else { unreachable!() };
    store.commit("/registry/g/r/a", Expect::At(last), None).await.unwrap();
    assert_eq!(store.get("/registry/g/r/a").await.unwrap(), None);
    store.commit("/registry/g/r/a", Expect::Absent, text("again")).await.unwrap();
}

async fn only_one_of_concurrent_commits_wins(store: Shared) {
    let mut base = store.commit("/registry/g/r/a", Expect::Absent, text("start")).await.unwrap();
    for _ in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..16 {
            let store = store.clone();
            tasks.spawn(async move {
                store.commit("/registry/g/r/a", Expect::At(base), text(&i.to_string())).await.ok()
            });
        }
        let won: Vec<Revision> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(won.len(), 1);
        base = won[0];
        assert_eq!(store.get("/registry/g/r/a").await.unwrap().unwrap().revision, base);
    }
}

async fn a_range_is_sorted_and_stays_within_its_prefix(store: Shared) {
    for key in [
        "/registry/g/p/b",
        "/registry/g/p/a",
        "/registry/g/q/a",
        "/registry/g/p",
        "/registry/g/p/a/x",
        "/registry/g/p0",
    ] {
        store.commit(key, Expect::Absent, text(key)).await.unwrap();
    }
    let snapshot = store.range("/registry/g/p/", None).await.unwrap();
    let keys: Vec<_> = snapshot.entries.iter().map(|e| &*e.key).collect();
    assert_eq!(keys, ["/registry/g/p/a", "/registry/g/p/a/x", "/registry/g/p/b"]);
    assert_eq!(snapshot.revision, store.revision().await.unwrap());
    assert!(store.range("/registry/g/none/", None).await.unwrap().entries.is_empty());
}

async fn a_range_at_a_revision_shows_exactly_that_moment(store: Shared) {
    let start = store.revision().await.unwrap();
    let a1 = store.commit("/registry/g/p/a", Expect::Absent, text("a1")).await.unwrap();
    let b1 = store.commit("/registry/g/p/b", Expect::Absent, text("b1")).await.unwrap();
    let a2 = store.commit("/registry/g/p/a", Expect::At(a1), text("a2")).await.unwrap();
    let b2 = store.commit("/registry/g/p/b", Expect::At(b1), None).await.unwrap();
    let at = |revision| {
        let store = store.clone();
        async move { pairs(&store.range("/registry/g/p/", Some(revision)).await.unwrap().entries) }
    };
    let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
    assert_eq!(at(start).await, []);
    assert_eq!(at(a1).await, [pair("/registry/g/p/a", "a1")]);
    assert_eq!(at(b1).await, [pair("/registry/g/p/a", "a1"), pair("/registry/g/p/b", "b1")]);
    assert_eq!(at(a2).await, [pair("/registry/g/p/a", "a2"), pair("/registry/g/p/b", "b1")]);
    assert_eq!(at(b2).await, [pair("/registry/g/p/a", "a2")]);
    assert_eq!(store.range("/registry/g/p/", Some(b1)).await.unwrap().entries[0].revision, a1);
}

async fn a_watch_is_ordered_complete_and_without_duplicates(store: Shared) {
    let from = store.revision().await.unwrap();
    let mut watch = store.watch("/registry/g/p/", from).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let key = format!("/registry/g/p/{writer}");
            let mut made = vec![store.commit(&key, Expect::Absent, text("0")).await.unwrap()];
            for i in 1..40 {
                let value = (i % 10 != 9).then(|| Bytes::from(i.to_string()));
                let before = Expect::At(made[i - 1]);
                let expect = if i % 10 == 0 { Expect::Absent } else { before };
                made.push(store.commit(&key, expect, value).await.unwrap());
            }
            made
        });
    }
    let seen = events(&mut watch, 8 * 40).await;
    let mut made = tasks.join_all().await.concat();
    made.sort_unstable();
    let revisions: Vec<_> = seen.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, made);
    let mut state = BTreeMap::new();
    for event in &seen {
        let before = state.get(&event.key).map(|(value, revision)| Entry {
            key: event.key.clone(),
            value: Bytes::clone(value),
            revision: *revision,
        });
        assert_eq!(event.previous, before);
        match &event.value {
            Some(value) => state.insert(event.key.clone(), (value.clone(), event.revision)),
            None => state.remove(&event.key),
        };
    }
    let now = store.range("/registry/g/p/", None).await.unwrap();
    assert_eq!(now.entries.len(), state.len());
    assert!(matches!(watch.try_recv(), Ok(None)), "nothing comes twice");
}

async fn a_watch_resumes_after_any_revision(store: Shared) {
    let mut made = vec![store.revision().await.unwrap()];
    for i in 0..10 {
        let key = format!("/registry/g/p/{i}");
        made.push(store.commit(&key, Expect::Absent, text("x")).await.unwrap());
    }
    for skip in 0..=10 {
        let mut watch = store.watch("/registry/g/p/", made[skip]).await.unwrap();
        let rest = events(&mut watch, made.len() - 1 - skip).await;
        let revisions: Vec<_> = rest.iter().map(|e| e.revision).collect();
        assert_eq!(revisions, made[skip + 1..]);
        let key = format!("/registry/g/p/next{skip}");
        made.push(store.commit(&key, Expect::Absent, text("x")).await.unwrap());
        let live = events(&mut watch, 1).await;
        assert_eq!(live.last().unwrap().revision, made[made.len() - 1], "what is live follows");
    }
}

async fn a_watch_sees_only_its_prefix(store: Shared) {
    let mut watch = store.watch("/registry/g/p/", store.revision().await.unwrap()).await.unwrap();
    store.commit("/registry/g/q/a", Expect::Absent, text("x")).await.unwrap();
    store.commit("/registry/g/p", Expect::Absent, text("x")).await.unwrap();
    let mine = store.commit("/registry/g/p/a", Expect::Absent, text("x")).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision, mine);
    assert_eq!(watch.position().get(), Some(mine));
}

async fn a_watch_tells_its_progress_on_request(store: Shared) {
    let mut watch = store.watch("/registry/g/p/", store.revision().await.unwrap()).await.unwrap();
    let mine = store.commit("/registry/g/p/a", Expect::Absent, text("x")).await.unwrap();
    let other = store.commit("/registry/g/q/a", Expect::Absent, text("x")).await.unwrap();
    store.request_progress("/registry/g/p/");
    assert!(matches!(watch.recv().await.unwrap(), WatchItem::Event(e) if e.revision == mine));
    assert!(matches!(watch.recv().await.unwrap(), WatchItem::Progress(p) if p >= other));
}

async fn compaction_refuses_the_past_and_keeps_the_present(store: Shared) {
    let first = store.commit("/registry/g/p/a", Expect::Absent, text("1")).await.unwrap();
    let second = store.commit("/registry/g/p/a", Expect::At(first), text("2")).await.unwrap();
    let third = store.commit("/registry/g/p/a", Expect::At(second), text("3")).await.unwrap();
    store.compact(second).await.unwrap();
    for old in [1, first] {
        let range = store.range("/registry/g/p/", Some(old)).await;
        assert!(
            matches!(range, Err(Error::Compacted { compacted, .. }) if compacted == second),
            "{range:?}"
        );
        let watch = store.watch("/registry/g/p/", old).await.map(|_| ());
        assert!(matches!(watch, Err(Error::Compacted { .. })), "{watch:?}");
    }
    assert_eq!(
        pairs(&store.range("/registry/g/p/", Some(second)).await.unwrap().entries)[0].1,
        "2"
    );
    let mut watch = store.watch("/registry/g/p/", second).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision, third);
    store.compact(first).await.unwrap(); // Going back changes nothing.
    assert!(matches!(
        store.range("/registry/g/p/", Some(first)).await,
        Err(Error::Compacted { .. })
    ));
}

async fn the_future_is_refused(store: Shared) {
    let next = store.revision().await.unwrap() + 1;
    assert!(matches!(store.range("/", Some(next)).await, Err(Error::Future { .. })));
    assert!(matches!(store.watch("/", next).await, Err(Error::Future { .. })));
    assert!(matches!(store.compact(next).await, Err(Error::Future { .. })));
}

async fn too_large_a_value_is_refused(store: Shared) {
    let huge = Bytes::from(vec![b'x'; 17 << 20]);
    let refused = store.commit("/registry/g/r/a", Expect::Absent, Some(huge)).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    store.commit("/registry/g/r/a", Expect::Absent, text("small")).await.unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Commit { key: u8, expect: Guess, delete: bool },
    RangeAt { back: u64 },
    Resume { back: u64 },
}

#[derive(Debug, Clone, Copy)]
enum Guess {
    Right,
    Absent,
    Wrong,
}

fn step() -> impl Strategy<Value = Step> {
    let guess =
        prop_oneof![4 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => Just(Guess::Wrong)];
    prop_oneof![
        6 => (0..6u8, guess, any::<bool>()).prop_map(|(key, expect, delete)| Step::Commit { key, expect, delete }),
        1 => (0..12u64).prop_map(|back| Step::RangeAt { back }),
        1 => (0..12u64).prop_map(|back| Step::Resume { back }),
    ]
}

/// Values and the revisions that wrote them, by key.
type Values = BTreeMap<String, (String, Revision)>;

/// A store as simple as it can be: every state that ever was.
struct Model {
    states: Vec<(Revision, Values)>,
}

async fn agrees_with_a_model(store: Shared, steps: Vec<Step>) {
    let mut model = Model { states: vec![(store.revision().await.unwrap(), BTreeMap::new())] };
    for (i, step) in steps.into_iter().enumerate() {
        let (revision, now) = model.states.last().unwrap().clone();
        let past = |back: u64| &model.states[model.states.len().saturating_sub(1 + back as usize)];
        match step {
            Step::Commit { key, expect, delete } => {
                let key = format!("/registry/g/p/{key}");
                let current = now.get(&key);
                let expect = match (expect, current) {
                    (Guess::Right, Some((_, r))) => Expect::At(*r),
                    (Guess::Right, None) | (Guess::Absent, _) => Expect::Absent,
                    (Guess::Wrong, _) => Expect::At(revision + 7),
                };
                let value = (!delete).then(|| i.to_string());
                let legal = match (expect, current) {
                    (Expect::Absent, None) => value.is_some(),
                    (Expect::At(wanted), Some((_, r))) => wanted == *r,
                    _ => false,
                };
                let answer = store.commit(&key, expect, value.clone().map(Bytes::from)).await;
                assert_eq!(answer.is_ok(), legal, "{answer:?}");
                if let Ok(made) = answer {
                    assert!(made > revision);
                    let mut next = now;
                    match value {
                        Some(value) => next.insert(key, (value, made)),
                        None => next.remove(&key),
                    };
                    model.states.push((made, next));
                }
            }
            Step::RangeAt { back } => {
                let (at, expected) = past(back);
                let range = store.range("/registry/g/p/", Some(*at)).await.unwrap();
                let expected: Vec<_> =
                    expected.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                assert_eq!(pairs(&range.entries), expected);
            }
            Step::Resume { back } => {
                let (at, _) = past(back);
                let later = model.states.iter().map(|(r, _)| *r).filter(|r| r > at);
                let mut watch = store.watch("/registry/g/p/", *at).await.unwrap();
                let seen = events(&mut watch, later.clone().count()).await;
                assert!(seen.iter().map(|e| e.revision).eq(later));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn stores_agree_with_a_model(steps in proptest::collection::vec(step(), 1..60)) {
        run(agrees_with_a_model(Arc::new(MemoryStore::new()), steps.clone()));
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
        run(agrees_with_a_model(Arc::new(store), steps));
    }
}

#[test]
fn etcd_agrees_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path(), 1).unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(12));
    let n = std::cell::Cell::new(0);
    let steps = proptest::collection::vec(step(), 1..60);
    let checked = runner.run(&steps, |steps| {
        n.set(n.get() + 1);
        run(async {
            agrees_with_a_model(etcd_store(&etcd, &format!("/case{}", n.get())).await, steps).await
        });
        Ok(())
    });
    checked.unwrap();
}
