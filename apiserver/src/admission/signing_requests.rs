//! Who may approve and sign certificates for a signer, and for whom none is asked.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, answer};
use crate::identity;
use crate::status::ApiError;
use crate::types::certificates::{API_CLIENT, GROUP, organizations};
use crate::types::check::text;

const REQUESTS: Resources = Resources::Only(&[(GROUP, "certificatesigningrequests")]);

/// Source: upstream `plugin/pkg/admission/certificates/approval`.
pub(super) struct CertificateApproval;

impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn resources(&self) -> Resources {
        REQUESTS
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        request: &'a Value,
    ) -> Admitted<'a> {
        let concerned = attributes.subresource == "approval";
        answer(if concerned { may(attributes, request, "approve") } else { Ok(()) })
    }
}

/// Source: upstream `plugin/pkg/admission/certificates/signing`.
pub(super) struct CertificateSigning;

impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn resources(&self) -> Resources {
        REQUESTS
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        request: &'a Value,
    ) -> Admitted<'a> {
        let changed = attributes.old.is_some_and(|old| {
            let (old, new) = (&old["status"], &request["status"]);
            ["certificate", "conditions"].iter().any(|field| old[*field] != new[*field])
        });
        let concerned = attributes.subresource == "status" && changed;
        answer(if concerned { may(attributes, request, "sign") } else { Ok(()) })
    }
}

/// Source: upstream `plugin/pkg/admission/certificates/subjectrestriction`.
pub(super) struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        REQUESTS
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        request: &'a Value,
    ) -> Admitted<'a> {
        let masters = text(&request["spec"], "signerName") == API_CLIENT
            && organizations(&request["spec"]["request"]).iter().any(|o| o == "system:masters");
        let why = format!("use of {API_CLIENT} signer with system:masters group is not allowed");
        answer(if masters { Err(attributes.forbidden(request, why)) } else { Ok(()) })
    }
}

/// Source: upstream `plugin/pkg/admission/certificates/ctbattest`.
pub(super) struct ClusterTrustBundleAttest;

impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[(GROUP, "clustertrustbundles")])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        bundle: &'a Value,
    ) -> Admitted<'a> {
        let signer = text(&bundle["spec"], "signerName");
        let same = attributes.old.is_some_and(|old| old["spec"] == bundle["spec"]);
        let may = signer.is_empty() || same || has_verb(attributes, signer, "attest");
        let why = || format!("user not permitted to attest for signerName {signer:?}");
        answer(if may { Ok(()) } else { Err(attributes.forbidden(bundle, why())) })
    }
}

/// Whether the user has the verb for the request's signer, or for all of its domain. The stored request counts, since
/// its signer cannot change.
fn may(attributes: &Attributes<'_>, request: &Value, verb: &str) -> Result<(), ApiError> {
    let signer = text(&attributes.old.unwrap_or(request)["spec"], "signerName");
    if has_verb(attributes, signer, verb) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(attributes.forbidden(request, why))
}

/// Whether the user has a verb for a signer by its name, or by its domain (`example.com/*`).
fn has_verb(attributes: &Attributes<'_>, signer: &str, verb: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].into_iter().any(|name| {
        let asked = identity::Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            name,
            ..identity::Attributes::of_nothing(attributes.user)
        };
        attributes.core.authorizer.authorize_now(&asked).allowed
    })
}
