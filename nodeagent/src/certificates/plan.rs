//! When a certificate is renewed. Pure.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The share of its life after which a certificate is renewed: one by chance between these, so that nodes that
/// came together do not ask together for ever.
///
/// Source: upstream `jitteryDuration` in `client-go/util/certificate/certificate_manager.go`.
const SHARES: (f64, f64) = (0.7, 0.9);
/// Wait after a failure; doubled by each further one.
///
/// Source: the backoff of upstream's `certificate_manager.go`: 2 s, factor 2.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(64);

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: Timestamp,
    /// Until then.
    pub until: Timestamp,
}

impl Validity {
    /// That of the first certificate in PEM text; `None` if there is none.
    pub fn read(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            from: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            until: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }

    /// Whether it is valid at `now`.
    pub fn includes(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

/// How long to wait before the next certificate is asked for: until 70 to 90 % of the life of the one at hand are
/// over, as `chance` (0 to 1) says; if that failed already, somewhat longer. Without one, at once.
pub fn wait(validity: Option<Validity>, chance: f64, n_failures: u32, now: Timestamp) -> Duration {
    let due = validity.map_or(Duration::ZERO, |validity| {
        let life = validity.until.duration_since(validity.from).as_secs_f64();
        let share = SHARES.0 + (SHARES.1 - SHARES.0) * chance;
        let at = SignedDuration::try_from_secs_f64(life * share);
        let at = at.ok().and_then(|age| validity.from.checked_add(age).ok());
        let left = at.unwrap_or(validity.until).duration_since(now);
        if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() }
    });
    let after_failure = match n_failures {
        0 => Duration::ZERO,
        n => RETRY.saturating_mul(2_u32.saturating_pow(n - 1)).min(RETRY_MAX),
    };
    due.max(after_failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is valid from second 0 to 1000.
    #[track_caller]
    fn check(now: i64, chance: f64, n_failures: u32, expected: u64) {
        let at = |second| Timestamp::from_second(second).unwrap();
        let validity = Some(Validity { from: at(0), until: at(1000) });
        let got = wait(validity, chance, n_failures, at(now)).as_secs_f64().round();
        assert_eq!(got, expected as f64, "{now} {chance} {n_failures}");
    }

    #[test]
    fn a_certificate_is_renewed_at_seventy_to_ninety_percent() {
        check(0, 0.0, 0, 700);
        check(0, 0.5, 0, 800);
        check(0, 1.0, 0, 900);
        check(650, 0.0, 0, 50);
        check(700, 0.0, 0, 0);
        check(2000, 1.0, 0, 0);
    }

    #[test]
    fn failures_make_it_wait_longer_each_time() {
        for (n_failures, expected) in [(1, 2), (2, 4), (5, 32), (6, 64), (7, 64), (60, 64)] {
            check(950, 0.0, n_failures, expected);
        }
    }

    #[test]
    fn who_has_none_asks_at_once() {
        assert_eq!(wait(None, 0.5, 0, Timestamp::UNIX_EPOCH), Duration::ZERO);
        assert_eq!(wait(None, 0.5, 1, Timestamp::UNIX_EPOCH), RETRY);
    }

    #[test]
    fn a_certificate_tells_when_it_is_valid() {
        let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
        let validity = Validity::read(&made.cert.pem()).unwrap();
        assert!(validity.includes(Timestamp::now()) && !validity.includes(validity.until));
        assert_eq!(Validity::read("nothing"), None);
    }
}
