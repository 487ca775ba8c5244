//! What encryption at rest promises: nothing readable in the file, rotation without loss, clear refusals.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use store::{
    EmbeddedStore, Error, Expect, Options, Store, WatchItem,
    encryption::{EncryptedStore, parse},
};

const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";
const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";
const SECRET: &str = "/registry/core/secrets/default/password";
const VALUE: Bytes =
    Bytes::from_static(br#"{"metadata":{"name":"password"},"data":"hunter2hunter2"}"#);

/// Rules for secrets, with these providers.
fn rules(providers: &[(&str, &str, &str)], identity: bool) -> store::encryption::Rules {
    let mut text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n".to_owned();
    for (cipher, name, secret) in providers {
        text += &format!(
            "  - {cipher}:\n      keys:\n      - name: {name}\n        secret: {secret}\n"
        );
    }
    if identity {
        text += "  - identity: {}\n";
    }
    parse(&text).unwrap()
}

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(dir, Options::default()).unwrap())
}

fn file_holds(dir: &Path, text: &str) -> bool {
    let bytes = std::fs::read(dir.join("store.db")).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_secret_is_not_in_the_file_and_everything_else_is() {
    for cipher in ["aescbc", "aesgcm", "secretbox"] {
        let dir = tempfile::tempdir().unwrap();
        let store = EncryptedStore::new(open(dir.path()), rules(&[(cipher, "old", OLD)], false));
        let from = store.revision().await.unwrap();
        let mut watch = store.watch("/registry/core/secrets/", from).await.unwrap();
        let first = store.commit(SECRET, Expect::Absent, Some(VALUE)).await.unwrap();
        let map = "/registry/core/configmaps/default/a";
        store.commit(map, Expect::Absent, Some("plainly".into())).await.unwrap();

        assert!(!file_holds(dir.path(), "hunter2"), "{cipher}");
        assert!(file_holds(dir.path(), &format!("k8s:enc:{cipher}:v1:old:")));
        assert!(file_holds(dir.path(), "plainly"));
        assert_eq!(store.get(SECRET).await.unwrap().unwrap().value, VALUE);
        assert_eq!(store.range("/registry/", None).await.unwrap().entries[1].value, VALUE);
        let WatchItem::Event(event) = watch.recv().await.unwrap() else { panic!("no event") };
        assert_eq!((event.value.as_ref(), event.revision), (Some(&VALUE), first));
        let conflict = store.commit(SECRET, Expect::Absent, Some(VALUE)).await.unwrap_err();
        assert!(matches!(conflict, Error::Conflict { current: Some(c), .. } if c.value == VALUE));
    }
}

#[tokio::test]
async fn keys_rotate_and_the_old_one_can_go() {
    let dir = tempfile::tempdir().unwrap();
    let below = open(dir.path());
    // Before there was encryption.
    below.commit(SECRET, Expect::Absent, Some(VALUE)).await.unwrap();
    let store = EncryptedStore::new(below, rules(&[("aescbc", "old", OLD)], true));
    assert_eq!(store.get(SECRET).await.unwrap().unwrap().value, VALUE);
    assert_eq!(store.renew("/registry/").await.unwrap(), 1);

    store.set_rules(rules(&[("secretbox", "new", NEW), ("aescbc", "old", OLD)], false));
    assert_eq!(store.get(SECRET).await.unwrap().unwrap().value, VALUE, "by the old key");
    assert_eq!(store.renew("/registry/").await.unwrap(), 1);
    assert_eq!(store.renew("/registry/").await.unwrap(), 0, "all are new");

    store.set_rules(rules(&[("secretbox", "new", NEW)], false));
    assert_eq!(store.get(SECRET).await.unwrap().unwrap().value, VALUE, "by the new key");
}

#[tokio::test]
async fn what_does_not_open_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let below = open(dir.path());
    let with =
        |providers: &[_], identity| EncryptedStore::new(below.clone(), rules(providers, identity));
    let aes = with(&[("aesgcm", "one", OLD)], false);
    aes.commit(SECRET, Expect::Absent, Some(VALUE)).await.unwrap();
    let moved = "/registry/core/secrets/other/password";
    let sealed = below.get(SECRET).await.unwrap().unwrap().value;
    below.commit(moved, Expect::Absent, Some(sealed)).await.unwrap();
    let plain = "/registry/core/secrets/default/plain";
    below.commit(plain, Expect::Absent, Some(VALUE)).await.unwrap();
    for (store, key, why) in [
        (with(&[("aesgcm", "one", NEW)], true), SECRET, "k8s:enc:aesgcm:v1:one does not fit"),
        (with(&[("aesgcm", "two", OLD)], true), SECRET, "k8s:enc:aesgcm:v1:one:"),
        (with(&[], true), SECRET, "k8s:enc:aesgcm:v1:one:"),
        (with(&[("aesgcm", "one", OLD)], false), moved, "moved"),
        (with(&[("aesgcm", "one", OLD)], false), plain, "no identity provider"),
    ] {
        let error = store.get(key).await.unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(why), "{text}");
        assert!(store.range("/registry/core/secrets/", None).await.is_err());
    }
}
