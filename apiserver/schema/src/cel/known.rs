//! The types of variables that are no objects of a schema: requests, namespaces and devices.
//!
//! Source: upstream's `apiserver/pkg/admission/plugin/cel/compile.go` (`BuildRequestType`, `BuildNamespaceType`) and
//! `dynamic-resource-allocation/cel/compile.go`.

use super::types::{Known, Type};

/// What is asked of admission.
pub(super) const REQUEST: Type = Type::Known(&Known {
    name: "kubernetes.AdmissionRequest",
    fields: || {
        vec![
            ("kind", KIND),
            ("resource", RESOURCE),
            ("subResource", Type::TEXT),
            ("requestKind", KIND),
            ("requestResource", RESOURCE),
            ("requestSubResource", Type::TEXT),
            ("name", Type::TEXT),
            ("namespace", Type::TEXT),
            ("operation", Type::TEXT),
            ("userInfo", USER),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ]
    },
});

const KIND: Type = Type::Known(&Known {
    name: "kubernetes.GroupVersionKind",
    fields: || ["group", "version", "kind"].map(|field| (field, Type::TEXT)).to_vec(),
});

const RESOURCE: Type = Type::Known(&Known {
    name: "kubernetes.GroupVersionResource",
    fields: || ["group", "version", "resource"].map(|field| (field, Type::TEXT)).to_vec(),
});

const USER: Type = Type::Known(&Known {
    name: "kubernetes.UserInfo",
    fields: || {
        let texts = || Type::List(Type::TEXT.into(), MANY);
        vec![
            ("username", Type::TEXT),
            ("uid", Type::TEXT),
            ("groups", texts()),
            ("extra", Type::map(texts(), MANY)),
        ]
    },
});

/// The namespace that an object is in.
pub(super) const NAMESPACE: Type = Type::Known(&Known {
    name: "kubernetes.Namespace",
    fields: || vec![("metadata", METADATA), ("spec", SPEC), ("status", STATUS)],
});

const METADATA: Type = Type::Known(&Known {
    name: "kubernetes.NamespaceMetadata",
    fields: || {
        let texts = || Type::map(Type::TEXT, MANY);
        vec![
            ("name", Type::TEXT),
            ("generateName", Type::TEXT),
            ("namespace", Type::TEXT),
            ("labels", texts()),
            ("annotations", texts()),
            ("UID", Type::TEXT),
            ("creationTimestamp", Type::TIME),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::TIME),
            ("generation", Type::Int),
            ("resourceVersion", Type::TEXT),
            ("finalizers", Type::List(Type::TEXT.into(), MANY)),
        ]
    },
});

const SPEC: Type = Type::Known(&Known {
    name: "kubernetes.NamespaceSpec",
    fields: || vec![("finalizers", Type::List(Type::TEXT.into(), MANY))],
});

const STATUS: Type = Type::Known(&Known {
    name: "kubernetes.NamespaceStatus",
    fields: || vec![("phase", Type::TEXT)],
});

/// Entries of lists and maps that nothing bounds.
const MANY: u64 = 3 * 1024 * 1024;

/// A device that a claim may get.
pub(super) const DEVICE: Type = Type::Known(&Known {
    name: "kubernetes.DRADevice",
    fields: || {
        /// Most attributes and capacities of a device.
        const ENTRIES: u64 = 32;
        /// Most letters of a driver's name.
        const DRIVER: u64 = 63;
        let two = |value: Type| Type::map(Type::map(value, ENTRIES), ENTRIES);
        vec![
            ("driver", Type::Text(DRIVER)),
            ("attributes", two(Type::Dyn)),
            ("capacity", two(QUANTITY)),
            ("allowMultipleAllocations", Type::Bool),
        ]
    },
});

/// What `quantity()` makes.
const QUANTITY: Type = Type::Known(&Known { name: "kubernetes.Quantity", fields: Vec::new });

/// Who may ask what is allowed, and what is allowed to the one that asks here.
pub(super) const AUTHORIZER: Type =
    Type::Known(&Known { name: "kubernetes.authorization.Authorizer", fields: Vec::new });

/// A question of it about the requested resource.
pub(super) const RESOURCE_CHECK: Type =
    Type::Known(&Known { name: "kubernetes.authorization.ResourceCheck", fields: Vec::new });
