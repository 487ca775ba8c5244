//! What to do about one certificate signing request: approve, sign, refuse to sign, or take it away.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;

use crate::request::{Asked, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, NODE};

/// How long requests are kept, by what became of them.
///
/// Source: upstream `pkg/controller/certificates/cleaner/cleaner.go`.
const APPROVED: Duration = Duration::from_hours(1);
const DENIED: Duration = Duration::from_hours(1);
const PENDING: Duration = Duration::from_hours(24);

/// What the decision depends on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The request.
    pub request: &'a CertificateSigningRequest,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// Whether there is a key to sign with.
    pub can_sign: bool,
    /// Whether a certificate that was issued is over.
    pub is_over: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Approve it, if who asks may have it without a human's look: the subresource of
    /// certificatesigningrequests that they need `create` on.
    ApproveIf {
        /// Name of the subresource.
        right: &'static str,
        /// What to tell.
        message: &'static str,
    },
    /// Issue the certificate.
    Sign,
    /// Say that it is never signed, and why.
    Fail(&'static str),
    /// Take it away.
    Delete,
}

/// The one next step; none if there is nothing to do.
pub fn plan(observed: &Observed<'_>) -> Option<Action> {
    let Observed { request, .. } = observed;
    if is_old(observed) {
        return Some(Action::Delete);
    }
    let signer = request.spec.signer_name.as_str();
    let ours = matches!(signer, CLIENT | KUBELET_CLIENT | KUBELET_SERVING | LEGACY);
    if !ours || has(request, "Denied") || has(request, "Failed") || certificate(request).is_some() {
        return None;
    }
    let usages = request.spec.usages.clone().unwrap_or_default();
    let asked = Asked::read(&request.spec.request.0, &usages);
    if has(request, "Approved") {
        if !observed.can_sign {
            return None;
        }
        return Some(match asked.as_ref().map(|asked| asked.fault(signer)) {
            Some(None) => Action::Sign,
            Some(Some(fault)) => Action::Fail(fault),
            None => Action::Fail("the request cannot be read"),
        });
    }
    let asked = asked.filter(|asked| signer == KUBELET_CLIENT && asked.fault(signer).is_none())?;
    let own = request.spec.username.as_deref() == Some(asked.name.as_str());
    let (right, message) = if own {
        (
            "selfnodeclient",
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        )
    } else {
        ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
    };
    // An agent renews its own; only who is no agent yet asks for another's.
    let agent = request.spec.username.as_deref().is_some_and(|name| name.starts_with(NODE));
    (own || !agent).then_some(Action::ApproveIf { right, message })
}

/// Whether the request has a condition of this type.
pub fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let status = request.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == kind)
}

/// The certificate that was issued.
pub fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let issued = request.status.as_ref()?.certificate.as_ref()?;
    (!issued.0.is_empty()).then_some(&issued.0)
}

fn is_old(observed: &Observed<'_>) -> bool {
    let Observed { request, now, is_over, .. } = observed;
    let seconds = |life: Duration| i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let status = request.status.as_ref();
    let decided = |kind: &str| {
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let found = conditions.filter(|c| c.type_ == kind).find_map(|c| c.last_update_time.clone());
        found.map(|time| time.0.as_second())
    };
    let past = |kind: &str, life| decided(kind).is_some_and(|at| *now - at > seconds(life));
    let created = request.creation_timestamp().map_or(*now, |time| time.0.as_second());
    let pending = !has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed");
    *is_over
        || (certificate(request).is_some() && past("Approved", APPROVED))
        || past("Denied", DENIED)
        || past("Failed", DENIED)
        || (pending && *now - created > seconds(PENDING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::{
        CertificateSigningRequestCondition, CertificateSigningRequestSpec,
        CertificateSigningRequestStatus,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use k8s_openapi::jiff::Timestamp;

    const NOW: i64 = 1_000_000;

    /// A node's request by `user`, decided as `conditions` say `age` seconds ago.
    fn request(
        user: &str,
        signer: &str,
        conditions: &[&str],
        age: i64,
    ) -> CertificateSigningRequest {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let at = Time(Timestamp::from_second(NOW - age).unwrap());
        let condition = |kind: &&str| CertificateSigningRequestCondition {
            type_: (*kind).to_owned(),
            status: "True".to_owned(),
            last_update_time: Some(at.clone()),
            ..Default::default()
        };
        CertificateSigningRequest {
            metadata: ObjectMeta { creation_timestamp: Some(at.clone()), ..Default::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(vec!["client auth".into(), "digital signature".into()]),
                username: Some(user.to_owned()),
                ..Default::default()
            },
            status: Some(CertificateSigningRequestStatus {
                conditions: Some(conditions.iter().map(condition).collect()),
                certificate: None,
            }),
        }
    }

    #[track_caller]
    fn check(request: &CertificateSigningRequest, expected: &str) {
        let observed = Observed { request, now: NOW, can_sign: true, is_over: false };
        let got = match plan(&observed) {
            Some(Action::ApproveIf { right, .. }) => format!("approve {right}"),
            Some(Action::Fail(_)) => "fail".to_owned(),
            Some(action) => format!("{action:?}").to_lowercase(),
            None => String::new(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn a_request_is_approved_signed_and_taken_away() {
        let by_token = |conditions: &[&str], age| {
            request("system:bootstrap:abcdef", KUBELET_CLIENT, conditions, age)
        };
        check(&by_token(&[], 0), "approve nodeclient");
        check(&request("system:node:n1", KUBELET_CLIENT, &[], 0), "approve selfnodeclient");
        check(&request("system:node:n2", KUBELET_CLIENT, &[], 0), "");
        check(&request("system:node:n1", KUBELET_SERVING, &[], 0), "");
        check(&by_token(&["Approved"], 0), "sign");
        check(&request("x", KUBELET_SERVING, &["Approved"], 0), "fail");
        check(&request("x", "example.com/own", &["Approved"], 0), "");
        check(&by_token(&["Denied"], 0), "");
        check(&by_token(&["Approved", "Failed"], 0), "");
        check(&by_token(&["Denied"], 3601), "delete");
        check(&by_token(&[], 24 * 3600 + 1), "delete");
    }

    #[test]
    fn nobody_signs_without_a_key() {
        let request = request("x", KUBELET_CLIENT, &["Approved"], 0);
        let observed = Observed { request: &request, now: NOW, can_sign: false, is_over: false };
        assert_eq!(plan(&observed), None);
    }
}
