//! What a connection's certificate says, judged again when the authorities change or time runs out.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

use super::Authenticator;
use crate::identity::tls::{ClientAuthority, common_name, not_after};
use crate::request::User;

/// The client at the other end of a TLS connection, who has proved to hold a certificate's key.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    chain: Vec<CertificateDer<'static>>,
    judged: Mutex<Option<Arc<Verdict>>>,
}

/// What the authorities say of a certificate.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The user, if the cluster's authority vouches for one.
    pub(super) user: Option<User>,
    /// Whether it is a proxy that may tell for whom it asks.
    pub(super) is_proxy: bool,
    authority: Arc<ClientAuthority>,
    proxies: Option<Arc<ClientAuthority>>,
    /// Until when the certificate is valid, in seconds since 1970.
    until: i64,
}

impl Peer {
    /// The client who showed `chain`.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self(Arc::new(Inner { chain, judged: Mutex::default() }))
    }

    /// The verdict at `now`. It is kept for as long as authorities and validity last, so that an open
    /// connection does not outlive a certificate that ended or lost its authority.
    pub(super) fn judge(&self, by: &Authenticator, now: i64) -> Arc<Verdict> {
        let authority = by.client_ca.get();
        let proxies = by.request_header.as_ref().map(|proxy| proxy.authority());
        let mut judged = self.0.judged.lock();
        let same = |a: &Option<Arc<ClientAuthority>>| match (a, &proxies) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let holds = |v: &&Arc<Verdict>| {
            Arc::ptr_eq(&v.authority, &authority) && same(&v.proxies) && now < v.until
        };
        if let Some(verdict) = judged.as_ref().filter(holds) {
            return verdict.clone();
        }
        let chain = &self.0.chain;
        let vouched = proxies.as_ref().is_some_and(|proxies| proxies.vouches_for(chain));
        let name = chain.first().and_then(|leaf| common_name(leaf)).unwrap_or_default();
        let allowed = by.request_header.as_ref().is_some_and(|proxy| proxy.allows(&name));
        let verdict = Arc::new(Verdict {
            user: authority.user(chain),
            is_proxy: vouched && allowed,
            until: chain.first().and_then(|leaf| not_after(leaf)).unwrap_or_default(),
            authority,
            proxies,
        });
        *judged = Some(verdict.clone());
        verdict
    }
}
