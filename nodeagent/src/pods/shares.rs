//! The ledger of the node's resources, shared by all workers: one of them frees what another one waits for.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::ledger::{Answer, Claim, Ledger, Share};
use super::worker::Message;

/// The node's ledger, and whom to tell about it.
#[derive(Debug, Default)]
pub struct Shares(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    waiting: HashMap<String, mpsc::UnboundedSender<Message>>,
}

impl Shares {
    /// Shares of a node that has `capacity` for pods.
    pub fn new(capacity: Share) -> Self {
        let ledger = Ledger::new(capacity);
        Self(Mutex::new(State { ledger, waiting: HashMap::new() }))
    }

    /// Notes what a pod holds; nothing once it has ended.
    pub fn hold(&self, uid: &str, share: Option<Share>) {
        let mut state = self.0.lock();
        if share.is_none() {
            state.waiting.remove(uid);
        }
        let granted = state.ledger.hold(uid, share);
        state.tell(granted);
    }

    /// All pods of the node are noted: from now on claims are judged.
    pub fn complete(&self) {
        let mut state = self.0.lock();
        let granted = state.ledger.complete();
        state.tell(granted);
    }

    /// Asks for room. A claim that has to wait is told of through the mailbox, and then is asked again.
    pub(super) fn claim(
        &self,
        uid: &str,
        claim: Claim,
        mailbox: &mpsc::UnboundedSender<Message>,
    ) -> Answer {
        let mut state = self.0.lock();
        let answer = state.ledger.claim(uid, claim);
        if answer != Answer::Granted {
            state.waiting.insert(uid.to_owned(), mailbox.clone());
        }
        answer
    }

    /// A pod asks for nothing any more.
    pub fn withdraw(&self, uid: &str) {
        let mut state = self.0.lock();
        state.waiting.remove(uid);
        state.ledger.withdraw(uid);
    }
}

impl State {
    fn tell(&mut self, granted: Vec<String>) {
        for mailbox in granted.iter().filter_map(|uid| self.waiting.remove(uid)) {
            let _ = mailbox.send(Message::Granted);
        }
    }
}
