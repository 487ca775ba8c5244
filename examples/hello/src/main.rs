//! A tiny web server: answers with the name of its pod and the greeting of its ConfigMap.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address: SocketAddr = setting("LISTEN", "0.0.0.0:8080").parse()?;
    let listener = TcpListener::bind(address).await?;
    println!("hello {} listens on {address}", env!("CARGO_PKG_VERSION"));
    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, router())
        .with_graceful_shutdown(async move { terminate.recv().await.unwrap_or_default() })
        .await?;
    println!("hello says goodbye");
    Ok(())
}

fn router() -> Router {
    let line =
        format!("{} from {}\n", setting("GREETING", "hello"), setting("POD_NAME", "nowhere"));
    Router::new()
        .route("/", get(move || async move { line }))
        .route("/healthz", get(|| async { "ok\n" }))
}

/// The value of an environment variable, or `default` where it is not set.
fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
