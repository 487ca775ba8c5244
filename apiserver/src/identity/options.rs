//! What an operator may say about identity: credentials, rights, and the certificates that the server
//! shows. [`super::flags`] fills it, tests write it.

use std::path::PathBuf;
use std::time::Duration;

use super::authn::config::{IssuerConfig, Jwt, Mapping, Mappings};
use super::authz::config::Mode;
use super::tls::MinVersion;

/// Everything about who asks, what they may, and how the server shows itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who vouches for client certificates (PEM); the cluster's own authority if absent.
    pub client_ca_file: Option<PathBuf>,
    /// Tokens of service accounts.
    pub accounts: AccountOptions,
    /// Whether bootstrap tokens are taken.
    pub bootstrap_tokens: bool,
    /// Tokens, users and groups, one a line.
    pub token_file: Option<PathBuf>,
    /// AuthenticationConfiguration.
    pub authentication_config: Option<PathBuf>,
    /// One issuer of OpenID Connect, as flags describe it.
    pub oidc: Option<OidcOptions>,
    /// A server that judges tokens.
    pub token_webhook: Option<TokenWebhookOptions>,
    /// Proxies that tell for whom they ask.
    pub request_header: RequestHeaderOptions,
    /// Whether requests without credentials are anonymous; `None` leaves it to the configuration file.
    pub anonymous: Option<bool>,
    /// Who decides what users may.
    pub authorization: AuthorizationOptions,
    /// How the server shows itself.
    pub serving: ServingOptions,
    /// How often configuration files are looked at.
    pub reload_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_ca_file: None,
            accounts: AccountOptions::default(),
            bootstrap_tokens: false,
            token_file: None,
            authentication_config: None,
            oidc: None,
            token_webhook: None,
            request_header: RequestHeaderOptions::default(),
            anonymous: None,
            authorization: AuthorizationOptions::default(),
            serving: ServingOptions::default(),
            reload_every: Duration::from_secs(10),
        }
    }
}

/// Keys and names of service-account tokens.
#[derive(Clone, Debug)]
pub struct AccountOptions {
    /// Private key that signs (PEM); the cluster's own if absent.
    pub signing_key_file: Option<PathBuf>,
    /// More keys that are taken (PEM).
    pub key_files: Vec<PathBuf>,
    /// More issuers that are taken, beside the one in whose name tokens are signed.
    pub accepted_issuers: Vec<String>,
    /// What tokens are for unless told otherwise; the issuer if empty.
    pub api_audiences: Vec<String>,
    /// Where the discovery document says that the keys are.
    pub jwks_uri: Option<String>,
    /// Longest life of a token, in seconds; longer ones are cut.
    pub max_seconds: Option<i64>,
    /// Whether mounted tokens get a year, for clients that never read them again.
    pub extend: bool,
}

impl Default for AccountOptions {
    fn default() -> Self {
        Self {
            signing_key_file: None,
            key_files: Vec::new(),
            accepted_issuers: Vec::new(),
            api_audiences: Vec::new(),
            jwks_uri: None,
            max_seconds: None,
            extend: true,
        }
    }
}

/// One issuer of OpenID Connect. Source: upstream's `--oidc-*` flags.
#[derive(Clone, Debug)]
pub struct OidcOptions {
    /// The issuer.
    pub issuer: String,
    /// For whom tokens must be meant.
    pub client_id: String,
    /// Who vouches for the issuer's server.
    pub ca_file: Option<PathBuf>,
    /// Claim with the user's name.
    pub username_claim: String,
    /// Put before it; `-` is nothing. Without it, claims other than `email` get the issuer and `#`.
    pub username_prefix: String,
    /// Claim with the groups; none if empty.
    pub groups_claim: String,
    /// Put before each.
    pub groups_prefix: String,
    /// Algorithms of signatures.
    pub signing_algs: Vec<String>,
    /// Claims that must have these values.
    pub required_claims: Vec<(String, String)>,
}

impl OidcOptions {
    /// The same as an entry of an AuthenticationConfiguration; `ca` is the content of the file.
    pub fn to_jwt(&self, ca: String) -> Jwt {
        let prefix = match self.username_prefix.as_str() {
            "" if self.username_claim == "email" => String::new(),
            "" => format!("{}#", self.issuer),
            "-" => String::new(),
            prefix => prefix.to_owned(),
        };
        let claim = |claim: &str, prefix: String| Mapping {
            claim: claim.to_owned(),
            prefix: (!claim.is_empty()).then_some(prefix),
            expression: String::new(),
        };
        let rule = |(claim, value): &(String, String)| super::authn::config::ClaimRule {
            claim: claim.clone(),
            required_value: value.clone(),
            ..Default::default()
        };
        Jwt {
            issuer: IssuerConfig {
                url: self.issuer.clone(),
                certificate_authority: ca,
                audiences: vec![self.client_id.clone()],
                ..IssuerConfig::default()
            },
            claim_validation_rules: self.required_claims.iter().map(rule).collect(),
            claim_mappings: Mappings {
                username: claim(&self.username_claim, prefix),
                groups: claim(&self.groups_claim, self.groups_prefix.clone()),
                ..Mappings::default()
            },
            user_validation_rules: Vec::new(),
            algorithms: self.signing_algs.clone(),
        }
    }
}

/// A server that judges tokens.
#[derive(Clone, Debug)]
pub struct TokenWebhookOptions {
    /// Kubeconfig that names it.
    pub config_file: PathBuf,
    /// Version of the reviews, `v1` or `v1beta1`.
    pub version: String,
    /// How long its answers hold.
    pub cache_ttl: Duration,
}

/// Proxies that tell for whom they ask.
#[derive(Clone, Debug)]
pub struct RequestHeaderOptions {
    /// Who vouches for them (PEM); the cluster's own authority for that if absent.
    pub client_ca_file: Option<PathBuf>,
    /// How this server proves itself to servers behind it: certificate and key (PEM); the own front proxy if absent.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Their common names; any if empty.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name.
    pub username_headers: Vec<String>,
    /// Headers with the user's uid.
    pub uid_headers: Vec<String>,
    /// Headers with the user's groups.
    pub group_headers: Vec<String>,
    /// What headers with further facts begin with.
    pub extra_headers_prefix: Vec<String>,
}

impl Default for RequestHeaderOptions {
    fn default() -> Self {
        let one = |text: &str| vec![text.to_owned()];
        Self {
            client_ca_file: None,
            client: None,
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_headers_prefix: one("X-Remote-Extra-"),
        }
    }
}

/// Who decides what users may.
#[derive(Clone, Debug)]
pub struct AuthorizationOptions {
    /// Who is asked, in this order.
    pub modes: Vec<Mode>,
    /// AuthorizationConfiguration, instead of modes.
    pub config_file: Option<PathBuf>,
    /// Policies of the mode ABAC, a JSON object a line.
    pub policy_file: Option<PathBuf>,
    /// Kubeconfig of the server that the mode Webhook asks.
    pub webhook_config_file: Option<PathBuf>,
    /// Version of its reviews, `v1` or `v1beta1`.
    pub webhook_version: String,
    /// How long it is remembered that something is allowed.
    pub authorized_ttl: Duration,
    /// How long it is remembered that something is not.
    pub unauthorized_ttl: Duration,
}

impl Default for AuthorizationOptions {
    fn default() -> Self {
        Self {
            modes: vec![Mode::Node, Mode::Rbac],
            config_file: None,
            policy_file: None,
            webhook_config_file: None,
            webhook_version: "v1".to_owned(),
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

/// How the server shows itself to clients.
#[derive(Clone, Debug)]
pub struct ServingOptions {
    /// Certificate and key (PEM); the cluster's authority makes one if absent.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Certificates and keys for names; for those in the certificate if none are given.
    pub sni: Vec<(PathBuf, PathBuf, Vec<String>)>,
    /// The oldest version of TLS.
    pub min_version: MinVersion,
    /// Suites of TLS 1.2; all good ones if absent.
    pub cipher_suites: Option<Vec<rustls::CipherSuite>>,
    /// Streams of one HTTP/2 connection at a time.
    pub max_streams: u32,
    /// Who vouches for node agents' certificates (PEM); `None` takes any certificate from them.
    pub kubelet_ca_file: Option<PathBuf>,
    /// What node agents are shown instead of the own certificate: certificate and key (PEM).
    pub kubelet_client: Option<(PathBuf, PathBuf)>,
}

impl Default for ServingOptions {
    fn default() -> Self {
        Self {
            certificate: None,
            sni: Vec::new(),
            min_version: MinVersion::default(),
            cipher_suites: None,
            max_streams: 250,
            kubelet_ca_file: None,
            kubelet_client: None,
        }
    }
}
