//! What the watch cache promises its readers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use store::{
    Error, Expect, MemoryStore, Revision, Store,
    cache::{Cache, Decoder, Field, Interest, Kind, Limits, Subscription},
};

const PREFIX: &str = "/registry/core/pods/";

struct World {
    store: MemoryStore,
    cache: Cache,
}

async fn world(limits: Limits) -> World {
    let store = MemoryStore::new();
    let fields = vec![
        Field::new("spec.nodeName", &["spec", "nodeName"]),
        Field::new("spec.ready", &["spec", "ready"]).or("false"),
    ];
    let decode = Decoder::new(fields).into();
    let cache = Cache::start(Arc::new(store.clone()), PREFIX, decode, limits).await.unwrap();
    World { store, cache }
}

fn pod(namespace: &str, name: &str, node: &str) -> Option<Bytes> {
    let text = format!(
        r#"{{"kind":"Pod","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"u-{name}","labels":{{"b":"2","a":"\u0031"}},"ownerReferences":[{{"uid":"o","controller":true}}]}},"spec":{{"nodeName":"{node}"}}}}"#
    );
    Some(text.into())
}

impl World {
    /// Creates or changes a pod.
    async fn put(&self, namespace: &str, name: &str, node: &str) -> Revision {
        let key = self.cache.key(Some(namespace), name);
        let now = self.store.get(&key).await.unwrap();
        let expect = now.map_or(Expect::Absent, |e| Expect::At(e.revision));
        self.store.commit(&key, expect, pod(namespace, name, node)).await.unwrap()
    }

    async fn delete(&self, namespace: &str, name: &str) -> Revision {
        let key = self.cache.key(Some(namespace), name);
        let now = self.store.get(&key).await.unwrap().unwrap();
        self.store.commit(&key, Expect::At(now.revision), None).await.unwrap()
    }

    fn names(&self, namespace: Option<&str>) -> Vec<String> {
        self.cache.list(namespace).iter().map(|o| o.name().to_string()).collect()
    }
}

/// Kinds, names and revisions of the next `n` changes.
async fn changes(subscription: &mut Subscription, n: usize) -> Vec<(Kind, String, Revision)> {
    let mut out = Vec::new();
    for _ in 0..n {
        let event = subscription.recv().await.expect("open");
        out.push((event.kind, event.object.name().to_string(), event.revision));
    }
    out
}

#[tokio::test]
async fn an_object_is_decoded_and_written_out_with_its_revision() {
    let world = world(Limits::default()).await;
    let revision = world.put("ns", "web", "node-1").await;
    world.cache.wait_for(revision).await.unwrap();
    let object = world.cache.get(Some("ns"), "web").unwrap();
    assert_eq!((object.namespace(), object.name(), object.uid()), (Some("ns"), "web", "u-web"));
    assert_eq!(object.labels().iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
    assert_eq!(object.labels().get("b"), Some("2"));
    assert_eq!(object.fields().get("spec.nodeName"), Some("node-1"));
    assert_eq!(object.fields().get("spec.ready"), Some("false"));
    assert_eq!(object.fields().get("spec.other"), None);
    assert!(
        object.owners()[0].controller
            && !object.owners()[0].block_owner_deletion
            && !object.deleting()
    );
    let json: serde_json::Value = serde_json::from_slice(&object.json()).unwrap();
    assert_eq!(json["metadata"]["resourceVersion"], revision.to_string());
    assert_eq!(json["metadata"]["name"], "web");
}

#[tokio::test]
async fn a_revision_fits_into_any_metadata() {
    let world = world(Limits::default()).await;
    for (name, text) in [
        ("empty", r#"{"metadata":{}}"#),
        ("spaces", "{\"metadata\" : { \n } }"),
        ("last", r#"{"spec":{"metadata":{"x":1}},"metadata":{ "name":"last"}}"#),
        ("text", r#"{"a":"\"metadata\":{","metadata":{"name":"text"}}"#),
    ] {
        let key = world.cache.key(Some("ns"), name);
        let revision = world.store.commit(&key, Expect::Absent, Some(text.into())).await.unwrap();
        world.cache.wait_for(revision).await.unwrap();
        let json = world.cache.get(Some("ns"), name).unwrap().json();
        let json: serde_json::Value = serde_json::from_slice(&json).expect(name);
        assert_eq!(json["metadata"]["resourceVersion"], revision.to_string(), "{name}");
    }
}

#[tokio::test]
async fn text_is_held_once() {
    let world = world(Limits::default()).await;
    let revision = world.put("ns", "web", "n").await;
    world.cache.wait_for(revision).await.unwrap();
    let stored = world.store.get(&world.cache.key(Some("ns"), "web")).await.unwrap().unwrap().value;
    let cached = world.cache.get(Some("ns"), "web").unwrap();
    assert_eq!(stored.as_ptr(), cached.stored().as_ptr());
}

#[tokio::test]
async fn what_is_not_an_object_is_left_out() {
    let world = world(Limits::default()).await;
    for text in ["", "{", "[]", r#"{"metadata":3}"#, r#"{"spec":{}}"#, r#"{"metadata":{}} x"#] {
        let key = world.cache.key(Some("ns"), "bad");
        let revision = world.store.commit(&key, Expect::Absent, Some(text.into())).await.unwrap();
        world.cache.wait_for(revision).await.unwrap();
        assert!(world.cache.is_empty(), "{text}");
        world.delete("ns", "bad").await;
    }
    world.put("ns", "good", "n").await;
    world.cache.fresh().await.unwrap();
    assert_eq!(world.names(None), ["good"]);
}

#[tokio::test]
async fn lists_are_sorted_scoped_and_do_not_change() {
    let world = world(Limits::default()).await;
    for (namespace, name) in [("b", "x"), ("a", "y"), ("a", "x"), ("a-b", "z"), ("aa", "w")] {
        world.put(namespace, name, "n").await;
    }
    world.cache.fresh().await.unwrap();
    let before = world.cache.list(Some("a"));
    assert_eq!(world.names(None), ["z", "x", "y", "w", "x"], "by store key, as Kubernetes lists");
    assert_eq!(world.names(Some("a")), ["x", "y"]);
    assert!(world.names(Some("none")).is_empty());
    world.delete("a", "x").await;
    world.cache.fresh().await.unwrap();
    assert_eq!((before.len(), world.names(Some("a")).len()), (2, 1));
}

#[tokio::test]
async fn pages_show_one_moment() {
    let world = world(Limits { snapshots: 2, ..Limits::default() }).await;
    for i in 0..10 {
        world.put("ns", &format!("p{i}"), "n").await;
    }
    world.cache.fresh().await.unwrap();
    let list = world.cache.list(None);
    world.cache.keep(&list);
    let first = list.page(None, 4);
    world.delete("ns", "p5").await;
    world.put("ns", "p45", "n").await;
    world.cache.fresh().await.unwrap();
    let later = world.cache.snapshot_at(list.revision(), Some("ns")).unwrap();
    let second = later.page(Some(first[3].key()), 4);
    let third = later.page(Some(second[3].key()), 4);
    let names: Vec<_> =
        [first, second, third].concat().iter().map(|o| o.name().to_string()).collect();
    assert_eq!(names, (0..10).map(|i| format!("p{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_kept_state_is_forgotten_some_time_after_it_was_last_kept() {
    let age = Duration::from_millis(200);
    let world = world(Limits { snapshot_age: age, ..Limits::default() }).await;
    world.put("ns", "a", "n").await;
    world.cache.fresh().await.unwrap();
    let list = world.cache.list(None);
    let deadline = Instant::now() + Duration::from_secs(20);
    for _ in 0..2 {
        let kept = Instant::now();
        world.cache.keep(&list);
        world.cache.snapshot_at(list.revision(), None).unwrap();
        let refused = loop {
            match world.cache.snapshot_at(list.revision(), None) {
                Ok(_) => assert!(Instant::now() < deadline, "it is never forgotten"),
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(kept.elapsed() >= age, "forgotten too early");
        assert!(matches!(refused, Error::Compacted { .. }), "{refused}");
    }
}

#[tokio::test]
async fn the_past_is_exact_or_refused() {
    let world = world(Limits { events: 5, ..Limits::default() }).await;
    let mut states = Vec::new();
    for i in 0..10 {
        let revision = match i % 4 {
            3 => world.delete("ns", "p0").await,
            n => world.put("ns", &format!("p{n}"), &i.to_string()).await,
        };
        world.cache.wait_for(revision).await.unwrap();
        let objects: Vec<_> = world.cache.list(None).iter().map(|o| o.json()).collect();
        states.push((revision, objects));
    }
    for (i, (revision, objects)) in states.iter().enumerate() {
        match world.cache.snapshot_at(*revision, None) {
            Ok(past) => {
                assert!(i >= 4);
                assert!(past.iter().map(|o| o.json()).eq(objects.iter().cloned()), "at {revision}");
            }
            Err(Error::Compacted { .. }) => assert!(i < 4, "{i} of 10 with 5 changes kept"),
            Err(other) => panic!("{other}"),
        }
    }
    let next = world.cache.revision() + 1;
    assert!(matches!(world.cache.snapshot_at(next, None), Err(Error::Future { .. })));
}

#[tokio::test]
async fn a_subscription_is_complete_from_any_revision() {
    let world = world(Limits { events: 6, ..Limits::default() }).await;
    let start = world.cache.revision();
    let mut live = world.cache.subscribe(start, Interest::All).unwrap();
    let mut expected = Vec::new();
    for i in 0..8 {
        let revision = world.put("ns", &format!("p{}", i % 4), &i.to_string()).await;
        let kind = if i < 4 { Kind::Added } else { Kind::Modified };
        expected.push((kind, format!("p{}", i % 4), revision));
    }
    expected.push((Kind::Deleted, "p0".to_string(), world.delete("ns", "p0").await));
    assert_eq!(changes(&mut live, 9).await, expected);
    world.cache.fresh().await.unwrap();
    for from in start..=start + 9 {
        match world.cache.subscribe(from, Interest::All) {
            Ok(mut resumed) => {
                let skipped = (from - start) as usize;
                assert_eq!(changes(&mut resumed, 9 - skipped).await, expected[skipped..]);
                assert!(resumed.try_recv().is_none());
            }
            Err(Error::Compacted { .. }) => assert!(from < start + 3, "6 changes are kept"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_amid_writes_loses_and_repeats_nothing() {
    let world = Arc::new(world(Limits::default()).await);
    let writer = tokio::spawn({
        let world = world.clone();
        async move {
            for i in 0..2_000 {
                world.put("ns", &format!("p{}", i % 10), &i.to_string()).await;
            }
        }
    });
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (list, mut subscription) = world.cache.list_and_subscribe(None, Interest::All);
        readers.spawn(async move {
            let mut next = list.revision() + 1;
            while next <= 2_001 {
                assert_eq!(subscription.recv().await.expect("open").revision, next);
                next += 1;
            }
        });
    }
    writer.await.unwrap();
    readers.join_all().await;
}

#[tokio::test]
async fn interest_filters_backlog_and_live() {
    let world = world(Limits::default()).await;
    let start = world.cache.revision();
    let on_node = |node: &'static str| {
        Interest::Only(Arc::new(move |event| {
            let is = |o: &Arc<store::cache::Object>| o.fields().get("spec.nodeName") == Some(node);
            is(&event.object) || event.previous.as_ref().is_some_and(is)
        }))
    };
    let mut live = world.cache.subscribe(start, Interest::Namespace("a".into())).unwrap();
    let mut live_node = world.cache.subscribe(start, on_node("n1")).unwrap();
    world.put("a", "x", "n1").await;
    world.put("b", "x", "n1").await;
    world.put("a", "x", "n2").await;
    world.put("a", "x", "n3").await;
    world.cache.fresh().await.unwrap();
    let mut late = world.cache.subscribe(start, Interest::Namespace("a".into())).unwrap();
    let mut late_node = world.cache.subscribe(start, on_node("n1")).unwrap();
    for subscription in [&mut live, &mut late] {
        assert_eq!(
            changes(subscription, 3).await.iter().map(|c| c.2 - start).collect::<Vec<_>>(),
            [1, 3, 4]
        );
    }
    for subscription in [&mut live_node, &mut late_node] {
        let mut seen = Vec::new();
        while let Some(event) = subscription.try_recv() {
            seen.push(event);
        }
        assert_eq!(seen.iter().map(|e| e.revision - start).collect::<Vec<_>>(), [1, 2, 3]);
        let left = seen[2].frame_as(Kind::Deleted);
        let left: serde_json::Value = serde_json::from_slice(&left).unwrap();
        assert_eq!(left["type"], "DELETED");
        assert_eq!(left["object"]["spec"]["nodeName"], "n1", "the last state that matched");
        assert_eq!(left["object"]["metadata"]["resourceVersion"], (start + 3).to_string());
    }
}

#[tokio::test]
async fn frames_are_lines_and_shared() {
    let world = world(Limits::default()).await;
    let mut one = world.cache.subscribe(1, Interest::All).unwrap();
    let mut two = world.cache.subscribe(1, Interest::All).unwrap();
    world.put("ns", "a", "n").await;
    world.put("ns", "a", "m").await;
    world.delete("ns", "a").await;
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let (a, b) = (one.recv().await.unwrap(), two.recv().await.unwrap());
        let frame = a.frame();
        assert_eq!(frame.as_ptr(), b.frame().as_ptr());
        assert!(frame.ends_with(b"}\n") && !frame[..frame.len() - 1].contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(json["type"], kind);
        assert_eq!(json["object"]["metadata"]["resourceVersion"], a.revision.to_string());
    }
}

#[tokio::test]
async fn a_slow_subscriber_is_closed_and_delays_nobody() {
    let world = world(Limits { queue: 4, ..Limits::default() }).await;
    let mut slow = world.cache.subscribe(1, Interest::All).unwrap();
    let mut fast = world.cache.subscribe(1, Interest::All).unwrap();
    for i in 0..8 {
        world.put("ns", &format!("p{i}"), "n").await;
        assert_eq!(changes(&mut fast, 1).await[0].1, format!("p{i}"));
    }
    world.cache.fresh().await.unwrap();
    let mut got = 0;
    while slow.recv().await.is_some() {
        got += 1;
    }
    assert_eq!(got, 4);
    assert!(slow.is_closed() && !fast.is_closed());
    assert_eq!(world.cache.subscribers(), 1);
}

#[tokio::test]
async fn dropped_subscribers_are_forgotten() {
    let world = world(Limits::default()).await;
    drop(world.cache.subscribe(1, Interest::All).unwrap());
    world.put("ns", "a", "n").await;
    world.cache.fresh().await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(world.cache.subscribers(), 0);
}

#[tokio::test]
async fn progress_comes_without_changes_and_never_too_early() {
    let world = world(Limits::default()).await;
    let mut subscription = world.cache.subscribe(1, Interest::All).unwrap();
    let mine = world.put("ns", "a", "n").await;
    let other = world
        .store
        .commit("/registry/core/nodes/n", Expect::Absent, Some("{}".into()))
        .await
        .unwrap();
    world.cache.fresh().await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(subscription.progress(), None, "a change waits");
    assert_eq!(subscription.recv().await.unwrap().revision, mine);
    assert_eq!(subscription.progress(), Some(mine));
    world.cache.caught_up().await.unwrap();
    assert!(world.cache.revision() >= other);
    tokio::task::yield_now().await;
    assert_eq!(subscription.progress(), Some(other));
}

#[tokio::test]
async fn a_cache_starts_from_what_is_stored() {
    let first = world(Limits::default()).await;
    first.put("ns", "a", "n").await;
    let store: Arc<dyn Store> = Arc::new(first.store.clone());
    let cache =
        Cache::start(store, PREFIX, Decoder::default().into(), Limits::default()).await.unwrap();
    assert_eq!((cache.len(), cache.revision()), (1, 2));
    assert!(matches!(cache.subscribe(1, Interest::All), Err(Error::Compacted { .. })));
    let mut subscription = cache.subscribe(2, Interest::All).unwrap();
    drop(cache);
    assert!(subscription.recv().await.is_none(), "a cache that stops ends its subscriptions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_reaches_its_waiter_fast() {
    let world = world(Limits::default()).await;
    let mut times = Vec::new();
    for i in 0..500 {
        let start = std::time::Instant::now();
        let revision = world.put("ns", "a", &i.to_string()).await;
        world.cache.wait_for(revision).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("commit to cache: median {:?}, p99 {:?}", times[250], times[495]);
    assert!(times[250] < Duration::from_millis(2), "median {:?}", times[250]);
}
