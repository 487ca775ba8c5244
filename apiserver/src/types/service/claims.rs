//! Who has an address or a node port is decided in the store, whichever server asks and however many there are.
//!
//! Each has a key of its own, which is written only if it is not there: for an address the `IPAddress` object that
//! upstream writes too, for a port a small note. The service is stored after that. A claim whose service does not
//! hold it (a server was killed between the two writes) is taken over once it is old.
//!
//! Source: KEP-1880, "Multiple Service CIDRs".

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Entry, Error, Expect, Store};

use super::allocate::Held;
use crate::bytes::encode;
use crate::config::family;
use crate::status::ApiError;
use crate::write::now;

/// How long a service may take to be stored after its claims.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a service can have for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// A ClusterIP.
    Ip(IpAddr),
    /// A node port.
    Port(u16),
}

impl Item {
    fn key(self) -> String {
        match self {
            Item::Ip(ip) => format!("/registry/networking.k8s.io/ipaddresses/{ip}"),
            Item::Port(port) => format!("/registry/ranges/servicenodeports/{port}"),
        }
    }

    fn is_in(self, held: &Held) -> bool {
        match self {
            Item::Ip(ip) => held.ips.contains(&ip),
            Item::Port(port) => held.ports.contains(&port),
        }
    }

    fn claim(self, owner: Owner<'_>) -> Bytes {
        let Owner { namespace, name } = owner;
        let parent = json!({"resource": "services", "namespace": namespace, "name": name});
        let created = now();
        encode(&match self {
            Item::Ip(ip) => json!({
                "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
                "metadata": {
                    "name": ip.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": created,
                    "labels": {
                        "ipaddress.kubernetes.io/ip-family": family(ip),
                        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                    },
                },
                "spec": {"parentRef": parent},
            }),
            Item::Port(port) => json!({
                "kind": "NodePort", "apiVersion": "improv.dev/v1",
                "metadata": {"name": port.to_string(), "creationTimestamp": created},
                "spec": {"parentRef": parent},
            }),
        })
    }
}

/// A service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Owner<'_> {
    fn is_of(self, claim: &Value) -> bool {
        let parent = &claim["spec"]["parentRef"];
        parent["resource"] == "services"
            && parent["namespace"] == self.namespace
            && parent["name"] == self.name
    }
}

/// What `held` has and `other` has not.
pub(super) fn difference(held: &Held, other: &Held) -> Vec<Item> {
    let ips = held.ips.iter().map(|ip| Item::Ip(*ip));
    let items = ips.chain(held.ports.iter().map(|port| Item::Port(*port)));
    items.filter(|item| !item.is_in(other)).collect()
}

/// Claims items one by one; answers the first that somebody else has.
///
/// # Errors
/// Those of the store.
pub(super) async fn take(
    store: &dyn Store,
    owner: Owner<'_>,
    items: &[Item],
) -> Result<Option<Item>, ApiError> {
    for item in items {
        let (key, claim) = (item.key(), item.claim(owner));
        let current = match store.commit(&key, Expect::Absent, Some(claim.clone())).await {
            Ok(_) => continue,
            Err(Error::Conflict { current: Some(current), .. }) => current,
            Err(Error::Conflict { current: None, .. }) => return Ok(Some(*item)),
            Err(other) => return Err(other.into()),
        };
        let found: Value = serde_json::from_slice(&current.value).unwrap_or_default();
        if !owner.is_of(&found) && !is_abandoned(store, *item, &found).await? {
            return Ok(Some(*item));
        }
        // Written anew even if it is ours already, so that nobody who frees the old one frees this one.
        match store.commit(&key, Expect::At(current.revision), Some(claim)).await {
            Ok(_) => (),
            Err(Error::Conflict { .. }) => return Ok(Some(*item)),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(None)
}

/// Frees items, unless the stored service has them.
///
/// # Errors
/// Those of the store; what was not freed is taken over later.
pub(super) async fn give_back(
    store: &dyn Store,
    owner: Owner<'_>,
    items: &[Item],
) -> Result<(), ApiError> {
    for item in items {
        let key = item.key();
        let Some(Entry { value, revision, .. }) = store.get(&key).await? else { continue };
        let claim: Value = serde_json::from_slice(&value).unwrap_or_default();
        if !owner.is_of(&claim) || is_held(store, *item, owner).await? {
            continue;
        }
        match store.commit(&key, Expect::At(revision), None).await {
            Ok(_) | Err(Error::Conflict { .. }) => (),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// Whether a claim is left over: an old one of a service that does not have the item.
async fn is_abandoned(store: &dyn Store, item: Item, claim: &Value) -> Result<bool, ApiError> {
    let parent = &claim["spec"]["parentRef"];
    let (Some("services"), Some(namespace), Some(name)) =
        (parent["resource"].as_str(), parent["namespace"].as_str(), parent["name"].as_str())
    else {
        return Ok(false); // An address that somebody wrote by hand.
    };
    let created = claim["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse().ok());
    let age = created.map(|t: Timestamp| Timestamp::now().duration_since(t).as_secs());
    if age.is_some_and(|age| age < PATIENCE.as_secs() as i64) {
        return Ok(false);
    }
    Ok(!is_held(store, item, Owner { namespace, name }).await?)
}

async fn is_held(store: &dyn Store, item: Item, owner: Owner<'_>) -> Result<bool, ApiError> {
    let key = format!("/registry/core/services/{}/{}", owner.namespace, owner.name);
    let Some(entry) = store.get(&key).await? else { return Ok(false) };
    let service: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
    Ok(item.is_in(&Held::of(&service["spec"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::MemoryStore;

    const ITEMS: [Item; 2] =
        [Item::Ip(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 7))), Item::Port(30007)];

    fn owner(name: &str) -> Owner<'_> {
        Owner { namespace: "default", name }
    }

    #[tokio::test]
    async fn an_item_is_claimed_once_until_it_is_given_back() {
        let store = MemoryStore::new();
        assert_eq!(take(&store, owner("a"), &ITEMS).await.unwrap(), None);
        assert_eq!(take(&store, owner("a"), &ITEMS).await.unwrap(), None, "its own");
        assert_eq!(take(&store, owner("b"), &ITEMS).await.unwrap(), Some(ITEMS[0]));
        give_back(&store, owner("b"), &ITEMS).await.unwrap();
        assert_eq!(
            take(&store, owner("b"), &ITEMS).await.unwrap(),
            Some(ITEMS[0]),
            "not b's to free"
        );
        give_back(&store, owner("a"), &ITEMS).await.unwrap();
        assert_eq!(take(&store, owner("b"), &ITEMS).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_old_claim_of_a_service_that_never_came_is_taken_over() {
        let store = MemoryStore::new();
        let claim = |created: &str, resource: &str| {
            let parent = json!({"resource": resource, "namespace": "default", "name": "a"});
            encode(
                &json!({"metadata": {"creationTimestamp": created}, "spec": {"parentRef": parent}}),
            )
        };
        let port = [Item::Port(30008)];
        let key = port[0].key();
        let old = claim("2020-01-01T00:00:00Z", "services");
        store.commit(&key, Expect::Absent, Some(old.clone())).await.unwrap();
        assert_eq!(take(&store, owner("b"), &port).await.unwrap(), None);
        let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"nodePort": 30009}]}});
        store
            .commit("/registry/core/services/default/a", Expect::Absent, Some(encode(&service)))
            .await
            .unwrap();
        let port = [Item::Port(30009)];
        store.commit(&port[0].key(), Expect::Absent, Some(old)).await.unwrap();
        assert_eq!(take(&store, owner("b"), &port).await.unwrap(), Some(port[0]), "it has it");
        let foreign = [Item::Port(30010)];
        let value = claim("2020-01-01T00:00:00Z", "gateways");
        store.commit(&foreign[0].key(), Expect::Absent, Some(value)).await.unwrap();
        assert_eq!(take(&store, owner("b"), &foreign).await.unwrap(), Some(foreign[0]));
    }
}
