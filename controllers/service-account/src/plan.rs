//! What each namespace must hold so that its pods can talk to the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// The account of pods that name none.
pub const ACCOUNT: &str = "default";
/// The ConfigMap that is projected into pods beside their token.
pub const CONFIG_MAP: &str = "kube-root-ca.crt";
/// Its only key.
pub const KEY: &str = "ca.crt";

const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "The certificate authority that clients inside the cluster trust when they call the API server.",
);

/// What the decision about one namespace depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// `metadata.name` of the namespace.
    pub namespace: String,
    /// It is not being deleted.
    pub is_active: bool,
    /// It has the account.
    pub has_account: bool,
    /// Its ConfigMap.
    pub config_map: Option<Arc<ConfigMap>>,
    /// The API server's certificate authority as PEM, if it is known here.
    pub root_ca: Option<Arc<str>>,
}

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the account.
    CreateAccount(Box<ServiceAccount>),
    /// Make the ConfigMap.
    CreateConfigMap(Box<ConfigMap>),
    /// Replace the ConfigMap by this.
    UpdateConfigMap(Box<ConfigMap>),
}

/// What is missing in the namespace.
pub fn plan(observed: &Observed) -> Vec<Action> {
    if !observed.is_active {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if !observed.has_account {
        let metadata = metadata(observed, ACCOUNT);
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        actions.push(Action::CreateAccount(Box::new(account)));
    }
    if let Some(root_ca) = &observed.root_ca {
        actions.extend(plan_config_map(observed, root_ca));
    }
    actions
}

/// Somebody else's annotations stay, somebody else's data do not.
fn plan_config_map(observed: &Observed, root_ca: &str) -> Option<Action> {
    let data = Some(BTreeMap::from([(KEY.to_owned(), root_ca.to_owned())]));
    let (key, text) = DESCRIPTION;
    match &observed.config_map {
        None => {
            let mut map = ConfigMap {
                metadata: metadata(observed, CONFIG_MAP),
                data,
                ..ConfigMap::default()
            };
            map.annotations_mut().insert(key.into(), text.into());
            Some(Action::CreateConfigMap(Box::new(map)))
        }
        Some(old) if old.data != data || old.binary_data.is_some() => {
            let mut map = (**old).clone();
            map.annotations_mut().entry(key.into()).or_insert_with(|| text.into());
            map.data = data;
            map.binary_data = None;
            Some(Action::UpdateConfigMap(Box::new(map)))
        }
        Some(_) => None,
    }
}

fn metadata(observed: &Observed, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(observed.namespace.clone()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Option<Arc<ConfigMap>> {
        let data = Some(BTreeMap::from([(KEY.to_owned(), text.to_owned())]));
        Some(Arc::new(ConfigMap { data, ..ConfigMap::default() }))
    }

    fn observed(
        has_account: bool,
        config_map: Option<Arc<ConfigMap>>,
        root_ca: Option<&str>,
    ) -> Observed {
        let root_ca = root_ca.map(Arc::from);
        Observed { namespace: "n".into(), is_active: true, has_account, config_map, root_ca }
    }

    #[track_caller]
    fn check(observed: &Observed, expected: &str) {
        let data = |m: &ConfigMap| m.data.clone().unwrap_or_default()[KEY].clone();
        let rendered = plan(observed).into_iter().map(|action| match action {
            Action::CreateAccount(a) => {
                format!("account {}/{}", a.namespace().unwrap(), a.name_any())
            }
            Action::CreateConfigMap(m) => {
                format!("map {}/{} {}", m.namespace().unwrap(), m.name_any(), data(&m))
            }
            Action::UpdateConfigMap(m) => format!("update {}", data(&m)),
        });
        assert_eq!(rendered.collect::<Vec<_>>().join(", "), expected);
    }

    #[test]
    fn an_active_namespace_gets_both() {
        check(&observed(false, None, Some("ca")), "account n/default, map n/kube-root-ca.crt ca");
        check(&observed(true, map("ca"), Some("ca")), "");
    }

    #[test]
    fn a_namespace_that_goes_gets_nothing() {
        check(&Observed { is_active: false, ..observed(false, None, Some("ca")) }, "");
    }

    #[test]
    fn another_authority_is_corrected() {
        check(&observed(true, map("other"), Some("ca")), "update ca");
        let mut more = (*map("ca").unwrap()).clone();
        more.data.get_or_insert_default().insert("more".into(), String::new());
        check(&observed(true, Some(Arc::new(more)), Some("ca")), "update ca");
    }

    #[test]
    fn without_an_authority_only_the_account_is_made() {
        check(&observed(false, map("other"), None), "account n/default");
    }
}
