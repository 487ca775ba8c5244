//! Writes that the server makes itself, on the road of every write.

use std::sync::Arc;

use super::Writer;
use crate::handlers::options::{Query, WriteOptions, deadline};
use crate::registry::Resource;
use crate::request::{RequestInfo, User};
use crate::server::Core;

/// Who owns the fields of such writes.
pub(crate) const MANAGER: &str = "kube-apiserver";

/// The request that stands behind one of them, since a [`Writer`] only borrows its own.
pub(crate) struct Own {
    user: User,
    info: RequestInfo,
}

impl Own {
    /// A request about a resource's collection.
    pub(crate) fn new(verb: &str, resource: &Resource) -> Self {
        let info = RequestInfo {
            verb: verb.to_owned(),
            is_resource: true,
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.name.clone(),
            ..RequestInfo::default()
        };
        Self { user: User::server(), info }
    }

    /// The same about one object.
    #[must_use]
    pub(crate) fn of(mut self, namespace: &str, name: &str) -> Self {
        namespace.clone_into(&mut self.info.namespace);
        name.clone_into(&mut self.info.name);
        self
    }

    /// The same about the status alone.
    #[must_use]
    pub(crate) fn of_status(mut self) -> Self {
        "status".clone_into(&mut self.info.subresource);
        self
    }

    /// The write. It goes through admission, and has the time of a request that names none.
    pub(crate) fn writer<'a>(
        &'a self,
        core: &'a Arc<Core>,
        resource: &'a Arc<Resource>,
    ) -> Writer<'a> {
        Writer {
            core,
            resource,
            info: &self.info,
            user: &self.user,
            options: WriteOptions::default(),
            warnings: Vec::new(),
            deadline: deadline(&Query::default(), core.config.fairness.request_timeout),
            unlabelled: false,
            admitted: false,
        }
    }
}
