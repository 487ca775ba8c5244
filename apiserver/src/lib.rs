//! The Kubernetes API server of Improv: it keeps the score that every player reads.
//!
//! A request travels one road: [`request`] says what is asked for, `identity` says who asks and
//! whether they may, [`handlers`] answer from the watch cache or go through [`write`], the only way
//! into the store. What is served stands in the [`registry`], for hosted and custom types alike.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use k8s_openapi::api::core::v1::Namespace;
//! let server = apiserver::testing::TestServer::start().await?;
//! let namespaces: kube::Api<Namespace> = kube::Api::all(server.client());
//! assert!(namespaces.get_opt("default").await?.is_some());
//! # Ok(())
//! # }
//! ```

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod backend;
pub mod bootstrap;
pub mod bytes;
pub mod command;
pub mod config;
pub mod crd;
pub mod discovery;
pub mod duration;
pub mod enablement;
pub mod fairness;
pub mod flags;
pub mod handlers;
pub mod identity;
pub mod protobuf;
pub mod registry;
pub mod request;
pub mod server;
pub mod status;
pub mod storage;
pub mod table;
pub mod testing;
pub mod types;
pub mod watch;
pub mod write;

pub use config::Config;
pub use request::{RequestInfo, User};
pub use server::{Core, Server, StartError};
pub use status::{ApiError, Cause, StatusCause};
