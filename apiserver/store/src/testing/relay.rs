//! A TCP relay whose connections can be cut: what a flaky network does to a client and its server.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use parking_lot::Mutex;

/// Passes connections on to a port of this machine. It ends when it is dropped.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Both ends of every connection since the last cut.
    ends: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
}

impl Relay {
    /// Listens on a free port.
    ///
    /// # Errors
    /// There is none.
    pub fn start(to: u16) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener, to));
        Ok(Relay { port, shared })
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection there is, in the middle of whatever it carries; new ones are accepted.
    pub fn cut(&self) {
        for end in self.shared.ends.lock().drain(..) {
            let _ = end.shutdown(Shutdown::Both); // It may be gone already.
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.cut();
        let _ = connect(self.port); // Wakes who accepts.
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener, to: u16) {
        for client in listener.incoming() {
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            // A client that cannot be connected is dropped, as by a server that is down.
            let _ = client.and_then(|client| self.join(client, connect(to)?));
        }
    }

    fn join(&self, client: TcpStream, server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        self.ends.lock().extend([client.try_clone()?, server.try_clone()?]);
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to); // Ends with the connection.
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Ok(())
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
