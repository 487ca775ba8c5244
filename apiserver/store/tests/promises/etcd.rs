//! What only a store in etcd has: TLS, a timer that lets etcd forget, and entries that go by themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use store::testing::{Etcd, ServerTls};
use store::{Error, EtcdOptions, EtcdStore, EtcdTls, Expect, Expiry, Store, WatchItem};

/// An authority, and where the files are that it signs.
struct Authority<'a> {
    dir: &'a Path,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl<'a> Authority<'a> {
    fn new(dir: &'a Path, name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = dir.join(format!("{name}.pem"));
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key), certificate }
    }

    /// Files of a certificate for this machine, and of its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files =
            (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}-key.pem")));
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

#[tokio::test]
async fn tls_proves_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ca");
    let (certificate, key) = ours.sign("etcd");
    let tls = ServerTls { ca: ours.certificate.clone(), certificate, key };
    let etcd = Etcd::start_with_tls(dir.path(), 1, tls).unwrap();
    let (certificate, key) = ours.sign("client");
    let tls = EtcdTls {
        ca: Some(ours.certificate.clone()),
        certificate: Some(certificate),
        key: Some(key),
    };
    let connect = async |tls: EtcdTls| {
        let options = EtcdOptions { endpoints: etcd.endpoints(), tls, ..EtcdOptions::default() };
        EtcdStore::connect(&options).await
    };
    let store = connect(tls.clone()).await.unwrap();
    let made = store.commit("/registry/g/p/a", Expect::Absent, Some("1".into())).await.unwrap();
    assert_eq!(store.get("/registry/g/p/a").await.unwrap().unwrap().revision, made);

    let strange = Authority::new(dir.path(), "strange");
    let (certificate, key) = strange.sign("stranger");
    let unknown_client = EtcdTls { certificate: Some(certificate), key: Some(key), ..tls.clone() };
    let unknown_server = EtcdTls { ca: Some(strange.certificate.clone()), ..tls.clone() };
    let anonymous = EtcdTls { certificate: None, key: None, ..tls.clone() };
    let (one, two, three) =
        tokio::join!(connect(unknown_client), connect(unknown_server), connect(anonymous));
    for refused in [one, two, three] {
        let refused = refused.map(|_| ());
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    }
    let absent = EtcdTls { ca: Some(dir.path().join("absent.pem")), ..EtcdTls::default() };
    let refused = connect(absent).await.map(|_| ());
    assert!(matches!(&refused, Err(Error::Io { path, .. }) if path.ends_with("absent.pem")));
}

#[tokio::test]
async fn the_timer_compacts_what_is_old_and_nothing_else() {
    const INTERVAL: Duration = Duration::from_millis(300);
    const KEY: &str = "/registry/g/p/a";
    let options = |etcd: &Etcd, interval| EtcdOptions {
        endpoints: etcd.endpoints(),
        compaction_interval: interval,
        ..EtcdOptions::default()
    };
    let (dir, still_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let etcd = Etcd::start(dir.path(), 1).unwrap();
    let still = Etcd::start(still_dir.path(), 1).unwrap();
    let other = EtcdStore::connect(&options(&etcd, None)).await.unwrap();
    let without = EtcdStore::connect(&options(&still, None)).await.unwrap();
    let write_twice = async |store: &EtcdStore| {
        let first = store.commit(KEY, Expect::Absent, Some("1".into())).await.unwrap();
        (first, store.commit(KEY, Expect::At(first), Some("2".into())).await.unwrap())
    };
    let (first_without, _) = write_twice(&without).await;
    let (first, second) = write_twice(&other).await;
    let past = async |store: &EtcdStore, first| {
        store.range("/registry/g/p/", Some(first)).await.map(|range| range.revision)
    };

    // Two servers with it are no more than one.
    let start = Instant::now();
    let _one = EtcdStore::connect(&options(&etcd, Some(INTERVAL))).await.unwrap();
    let _two = EtcdStore::connect(&options(&etcd, Some(INTERVAL))).await.unwrap();
    let compacted = loop {
        match past(&other, first).await {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(20), "never compacted"),
            Err(Error::Compacted { compacted, .. }) => break compacted,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(start.elapsed() >= INTERVAL * 2, "history of one interval at least is kept");
    assert!(compacted >= second);
    let now = other.get(KEY).await.unwrap().unwrap();
    assert_eq!(now.value, "2", "what is there stays");
    assert_eq!(past(&without, first_without).await.unwrap(), first_without, "no timer there");
}

#[tokio::test]
async fn entries_with_a_lease_go_by_themselves() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path(), 1).unwrap();
    let expiry = |ttl| EtcdOptions {
        endpoints: etcd.endpoints(),
        expiry: Some(Expiry { prefix: "/registry/core/events/".to_owned(), ttl }),
        ..EtcdOptions::default()
    };
    let (event, other) = ("/registry/core/events/default/a", "/registry/core/eventsets/a");
    let write = async |store: &EtcdStore, key, text: &'static str| {
        store.commit(key, Expect::Absent, Some(text.into())).await.unwrap()
    };
    let gone = async |store: &EtcdStore| {
        let start = Instant::now();
        while store.get(event).await.unwrap().is_some() {
            assert!(start.elapsed() < PATIENCE, "the entry stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    let store = EtcdStore::connect(&expiry(Duration::from_secs(1))).await.unwrap();
    let start = Instant::now();
    let made = write(&store, event, "1").await;
    let kept = write(&store, other, "1").await;
    let mut changes = store.watch("/registry/core/events/", made).await.unwrap();
    gone(&store).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(store.get(other).await.unwrap().unwrap().revision, kept);
    let told = loop {
        if let WatchItem::Event(change) = changes.recv().await.unwrap() {
            break change;
        }
    };
    assert_eq!((&*told.key, &told.value), (event, &None));

    // A lease that somebody ends is no reason to refuse the next entry.
    let store = EtcdStore::connect(&expiry(Duration::from_secs(3600))).await.unwrap();
    write(&store, event, "2").await;
    let client = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
    let mut leases = client.lease_client();
    for lease in leases.leases().await.unwrap().leases() {
        leases.revoke(lease.id()).await.unwrap();
    }
    gone(&store).await;
    write(&store, event, "3").await;
    assert_eq!(leases.leases().await.unwrap().leases().len(), 1);
}
