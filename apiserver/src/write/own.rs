//! Writes that the server makes itself, on the road of every write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{DeleteOptions, Deleted, Writer, delete};
use crate::handlers::options::{Query, WriteOptions, deadline};
use crate::registry::Resource;
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;

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

/// Deletes every object of a resource; answers how many are left, held by finalizers.
pub(crate) async fn delete_all(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    time: Duration,
) -> Result<usize, ApiError> {
    let begun = Instant::now();
    let cache = resource.storage()?.cache().await?;
    cache.fresh().await?;
    let mut left = 0;
    let objects: Vec<_> = cache.list(None).iter().cloned().collect();
    for object in &objects {
        if object.deleting() || begun.elapsed() > time {
            left += 1;
            continue;
        }
        let namespace = object.namespace().unwrap_or_default();
        let own = Own::new("delete", resource).of(namespace, object.name());
        let mut writer = Writer { admitted: true, ..own.writer(core, resource) };
        match delete(&mut writer, object.name(), &DeleteOptions::default()).await {
            Ok(Deleted::Gone(..)) | Err(ApiError::NotFound { .. }) => (),
            Ok(Deleted::Marked(_)) => left += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}
