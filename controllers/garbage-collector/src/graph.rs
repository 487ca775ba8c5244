//! Who owns whom: every object of the cluster, as far as ownership goes.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// `metadata.uid`.
pub type Uid = Arc<str>;

/// Finalizer that keeps an owner until the dependents that block it are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that keeps an owner until its dependents have been let go.
pub const ORPHAN: &str = "orphan";

/// Uids that are known to be gone are remembered up to this number.
///
/// Each saves one request for an object that still names it; upstream remembers 500.
const MAX_ABSENT: usize = 4096;

/// A kind of objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// API group, empty for core.
    pub group: String,
    /// In PascalCase.
    pub kind: String,
}

/// Where an object is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nobody wants to delete it.
    Alive,
    /// It goes, and others do not depend on how.
    Deleting,
    /// It waits until the dependents that block it are gone.
    DeletingDependents,
    /// It waits until its dependents have been let go.
    Orphaning,
}

/// An object, as far as ownership goes.
#[derive(Clone, Debug)]
pub struct Object {
    /// `metadata.uid`.
    pub uid: Uid,
    /// What it is.
    pub kind: Arc<Kind>,
    /// `metadata.namespace`; none for what is in no namespace.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`, so that a write is refused if this is outdated.
    pub resource_version: Box<str>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[OwnerReference]>,
    /// From its deletion timestamp and finalizers.
    pub life: Life,
    /// It has one of the two finalizers, although it may not be deleted yet.
    pub finalizer: Option<&'static str>,
}

impl Object {
    /// Reads `metadata`; none if it lacks what every stored object has.
    pub fn new(kind: Arc<Kind>, metadata: ObjectMeta) -> Option<Self> {
        let finalizers = metadata.finalizers.unwrap_or_default();
        let known = [ORPHAN, FOREGROUND].into_iter().find(|f| finalizers.iter().any(|g| g == f));
        let life = match (metadata.deletion_timestamp.is_some(), known) {
            (false, _) => Life::Alive,
            (true, Some(ORPHAN)) => Life::Orphaning,
            (true, Some(FOREGROUND)) => Life::DeletingDependents,
            (true, _) => Life::Deleting,
        };
        Some(Self {
            uid: metadata.uid?.into(),
            kind,
            namespace: metadata.namespace.map(Arc::from),
            name: metadata.name?.into(),
            resource_version: metadata.resource_version.unwrap_or_default().into(),
            owners: metadata.owner_references.unwrap_or_default().into(),
            life,
            finalizer: known,
        })
    }

    /// Its reference to the owner with this uid.
    pub fn reference_to(&self, owner: &str) -> Option<&OwnerReference> {
        self.owners.iter().find(|o| o.uid == owner)
    }
}

/// All objects, kept current by one change at a time.
#[derive(Debug, Default)]
pub struct Graph {
    objects: HashMap<Uid, Object>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    absent: HashSet<Uid>,
    absent_order: VecDeque<Uid>,
    /// Whether objects of a kind are in namespaces, for the kinds that the server serves.
    kinds: HashMap<Kind, bool>,
}

impl Graph {
    /// Learns which kinds there are, and whether their objects are in namespaces.
    pub fn set_kinds(&mut self, kinds: HashMap<Kind, bool>) {
        self.kinds = kinds;
    }

    /// Whether objects of a kind are in namespaces; none for an unknown kind.
    pub fn is_namespaced(&self, kind: &Kind) -> Option<bool> {
        self.kinds.get(kind).copied()
    }

    /// An object.
    pub fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Everything that names this uid as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Object> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.objects.get(uid))
    }

    /// Objects of a kind.
    pub fn of_kind(&self, kind: &Kind) -> impl Iterator<Item = &Object> {
        self.objects.values().filter(move |o| *o.kind == *kind)
    }

    /// Whether the object with this uid is known to be gone. Uids do not come back.
    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// Remembers that there is no object with this uid any more.
    pub fn set_absent(&mut self, uid: Uid) {
        if self.absent.insert(Arc::clone(&uid)) {
            self.absent_order.push_back(uid);
        }
        if self.absent_order.len() > MAX_ABSENT
            && let Some(oldest) = self.absent_order.pop_front()
        {
            self.absent.remove(&oldest);
        }
    }

    /// Learns of an object or its new state, and says which objects have to be looked at.
    pub fn apply(&mut self, object: Object) -> Vec<Uid> {
        let uid = Arc::clone(&object.uid);
        self.absent.remove(&uid); // A list older than the deletion can only be seen once.
        let (life, owners) = (object.life, object.owners.clone());
        let old = self.objects.insert(Arc::clone(&uid), object);
        let life_changed = old.as_ref().is_none_or(|old| old.life != life);
        let owners_changed = old.as_ref().is_none_or(|old| old.owners != owners);
        let mut look_at = Vec::new();
        for was in old.iter().flat_map(|old| old.owners.iter()) {
            let is = owners.iter().find(|o| o.uid == was.uid);
            if is.is_none() {
                self.unlink(&was.uid, &uid);
            }
            // Who goes, or stops to block, lets its owner go on.
            let blocks = |o: &OwnerReference| o.block_owner_deletion == Some(true);
            if is.is_none_or(|is| blocks(was) && !blocks(is)) {
                look_at.extend(self.waiting(&was.uid));
            }
        }
        for owner in &owners {
            self.dependents.entry(owner.uid.as_str().into()).or_default().insert(Arc::clone(&uid));
        }
        match life {
            Life::DeletingDependents | Life::Orphaning if life_changed => {
                look_at.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
                look_at.push(uid);
            }
            Life::Alive if !owners.is_empty() && (owners_changed || life_changed) => {
                look_at.push(uid)
            }
            _ => (),
        }
        look_at
    }

    /// Learns that an object is gone, and says which objects have to be looked at.
    pub fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let mut look_at: Vec<Uid> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        self.set_absent(uid.into());
        if let Some(object) = self.objects.remove(uid) {
            for owner in &object.owners {
                self.unlink(&owner.uid, uid);
                look_at.extend(self.waiting(&owner.uid));
            }
        }
        look_at
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The object, if it waits for its dependents.
    fn waiting(&self, uid: &str) -> Option<Uid> {
        let object = self.objects.get(uid)?;
        matches!(object.life, Life::DeletingDependents | Life::Orphaning)
            .then(|| Arc::clone(&object.uid))
    }
}
