//! endpointslice-controller: tells in EndpointSlices, and in Endpoints for older readers, which
//! pods stand behind each Service.
//!
//! It reconciles Services; pods, slices, Endpoints and the zones of nodes wake them. Slices go with
//! their Service by their owner reference; Endpoints have none, as upstream, so a second, small
//! controller deletes those of ours whose Service is gone.

pub mod events;
pub mod plan;
mod reconcile;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Controller, Player, Reflector, Stage, Writes, rules};
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("endpointslice", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("endpointslice-controller")
        .crds(&["endpointslices.discovery.k8s.io.yaml"])
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    let write = ["get", "list", "watch", "create", "update", "delete"];
    vec![
        rules::rule("", &["services", "pods", "nodes"], rules::READ),
        rules::rule("", &["services/finalizers"], &["update"]), // To block a Service's deletion.
        rules::rule("", &["endpoints"], &write),
        rules::rule("", &["endpoints/restricted"], &["create"]),
        rules::rule("discovery.k8s.io", &["endpointslices"], &write),
        rules::rule("discovery.k8s.io", &["endpointslices/restricted"], &["create"]),
    ]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    pub(crate) services: Reflector<Service>,
    pub(crate) pods: Reflector<Pod>,
    pub(crate) nodes: Reflector<PartialObjectMeta<Node>>,
    pub(crate) slices: Reflector<EndpointSlice>,
    pub(crate) endpoints: Reflector<Endpoints>,
    pub(crate) slice_writes: Writes<EndpointSlice>,
    pub(crate) endpoints_writes: Writes<Endpoints>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let (slices, endpoints) = (stage.reflectors.get(), stage.reflectors.get());
    let context = Arc::new(Context {
        services: stage.reflectors.get(),
        pods: stage.reflectors.get(),
        nodes: stage.reflectors.get(),
        slice_writes: Writes::new(slices.clone()),
        endpoints_writes: Writes::new(endpoints.clone()),
        slices,
        endpoints,
        stage: stage.clone(),
    });
    let (of_pod, of_node) = (Arc::clone(&context), Arc::clone(&context));
    let services = Controller::<Service>::new(&stage)
        .owns::<EndpointSlice>()
        .watches::<Endpoints, _>(|endpoints| [same_name::<Endpoints, Service>(endpoints)])
        .watches::<Pod, _>(move |pod| of_pod.services_of(pod))
        .needs(&context.nodes)
        .wakes_on(reconcile::services_of_moved_nodes(of_node))
        .run(Arc::clone(&context), reconcile::reconcile);
    let leftovers = Controller::<Endpoints>::new(&stage)
        .watches::<Service, _>(|service| [same_name::<Service, Endpoints>(service)])
        .run(context, reconcile::reconcile_endpoints);
    futures::future::try_join(services, leftovers).await.map(drop)
}

impl Context {
    /// Services that mean the pod.
    pub(crate) fn services_of(&self, pod: &Pod) -> Vec<ObjectRef<Service>> {
        let services = self.services.in_namespace(&pod.namespace().unwrap_or_default());
        services
            .iter()
            .filter(|s| plan::selects(s, pod))
            .map(|s| ObjectRef::from_obj(&**s))
            .collect()
    }
}

fn same_name<A, B>(object: &A) -> ObjectRef<B>
where
    A: kube::Resource,
    B: kube::Resource<DynamicType = ()>,
{
    ObjectRef::new(&object.name_any()).within(&object.namespace().unwrap_or_default())
}
