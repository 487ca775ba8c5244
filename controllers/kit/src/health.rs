//! /healthz, /livez, /readyz and /metrics of a lone player.

use std::net::SocketAddr;

use axum::{Router, http::StatusCode, http::header, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{Error, lease::Leadership, metrics::Registry};

/// The routes; ready means that the Lease was read, a standby included.
pub fn router(registry: Registry, leadership: watch::Receiver<Leadership>) -> Router {
    let ready = move || {
        let ready = *leadership.borrow() != Leadership::Unknown;
        std::future::ready(if ready {
            (StatusCode::OK, "ok")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the lease was not read yet")
        })
    };
    let metrics = move || {
        let kind =
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        std::future::ready((kind, registry.encode()))
    };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// Serves `router` until `shutdown`.
///
/// # Errors
/// [`Error::Listen`] and [`Error::Serve`].
pub async fn serve(
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    server.await.map_err(|source| Error::Serve { source })
}
