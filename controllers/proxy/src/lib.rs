//! kube-proxy: makes Services reachable on its node.
//!
//! [`plan`] turns Services and EndpointSlices into [`plan::ServicePort`]s, which know nothing of rules;
//! [`nft`] turns those into one nftables table a family. Another mode (iptables, IPVS) would stand beside `nft`
//! and take the same list.

pub mod nft;
pub mod plan;
