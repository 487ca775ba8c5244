//! A real server for tests: in this process, on the memory store, ready in milliseconds.

use crate::config::Config;
use crate::server::{Server, StartError};

/// A server of one's own; it ends with the test.
pub struct TestServer {
    server: Server,
}

impl TestServer {
    /// Starts with the hosted types alone.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start() -> Result<Self, StartError> {
        Ok(Self { server: Server::start(Config::default()).await? })
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
