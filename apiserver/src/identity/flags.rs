//! Flags about identity, in upstream's names, and what they mean for [`Options`].

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::authz::config::Mode;
use super::options::{OidcOptions, Options, TokenWebhookOptions};
use super::suites::{self, Suite};
use super::tls::MinVersion;
use crate::duration;

/// Who may come in, who decides, and what the server shows.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication, authorization and TLS")]
pub struct IdentityFlags {
    /// Certificates (PEM) that vouch for clients, read anew when they change; the cluster's own without it
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Whether requests without credentials are the user system:anonymous
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    anonymous_auth: Option<bool>,
    /// AuthenticationConfiguration: issuers of OpenID Connect, and who may be anonymous
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    authentication_config: Option<PathBuf>,
    /// Tokens, one a line: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Take bootstrap tokens, which Secrets in kube-system hold
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    enable_bootstrap_token_auth: Option<bool>,
    #[command(flatten)]
    accounts: AccountFlags,
    #[command(flatten)]
    oidc: OidcFlags,
    /// Kubeconfig of a server that judges tokens
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of its reviews: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1", value_parser = ["v1", "v1beta1"])]
    authentication_token_webhook_version: String,
    /// How long its answers hold, as 2m
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::flag)]
    authentication_token_webhook_cache_ttl: Duration,
    #[command(flatten)]
    proxies: RequestHeaderFlags,
    #[command(flatten)]
    authorization: AuthorizationFlags,
    #[command(flatten)]
    serving: ServingFlags,
}

#[derive(Debug, Clone, Args)]
struct AccountFlags {
    /// Key (PEM) that signs service-account tokens; the cluster's own without it
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Further key (PEM) that service-account tokens may be signed with; may be repeated
    #[arg(long = "service-account-key-file", value_name = "FILE")]
    service_account_key_files: Vec<PathBuf>,
    /// For whom service-account tokens are unless told otherwise; the issuer without it
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Where the discovery document says that the keys are
    #[arg(long, value_name = "URL")]
    service_account_jwks_uri: Option<String>,
    /// Longest life of a service-account token, as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration::flag)]
    service_account_max_token_expiration: Option<Duration>,
    /// Let mounted tokens live for a year, for clients that never read them again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true)]
    service_account_extend_token_expiration: bool,
}

#[derive(Debug, Clone, Args)]
struct OidcFlags {
    /// Issuer of OpenID Connect tokens
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// For whom its tokens must be meant
    #[arg(long, value_name = "NAME", requires = "oidc_issuer_url")]
    oidc_client_id: Option<String>,
    /// Certificates (PEM) that vouch for it
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim with the user's name
    #[arg(long, value_name = "NAME", default_value = "sub")]
    oidc_username_claim: String,
    /// What is put before it; - for nothing
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    oidc_username_prefix: String,
    /// Claim with the user's groups
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    oidc_groups_claim: String,
    /// What is put before each
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    oidc_groups_prefix: String,
    /// Algorithms of signatures
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "RS256")]
    oidc_signing_algs: Vec<String>,
    /// Claim that must have a value; may be repeated
    #[arg(long = "oidc-required-claim", value_name = "KEY=VALUE", value_parser = pair)]
    oidc_required_claims: Vec<(String, String)>,
}

#[derive(Debug, Clone, Args)]
struct RequestHeaderFlags {
    /// Certificates (PEM) that vouch for proxies which tell for whom they ask
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Certificate (PEM) that API servers behind this one are shown, read anew when it changes; the own one without it
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
    /// Common names of such proxies; any if empty
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_allowed_names: Option<Vec<String>>,
    /// Headers with the user's name
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_username_headers: Option<Vec<String>>,
    /// Headers with the user's uid
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_uid_headers: Option<Vec<String>>,
    /// Headers with the user's groups
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_group_headers: Option<Vec<String>>,
    /// What headers with further facts begin with
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Option<Vec<String>>,
}

#[derive(Debug, Clone, Args)]
struct AuthorizationFlags {
    /// Who decides what users may, in this order: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "Node,RBAC")]
    authorization_mode: Vec<Mode>,
    /// AuthorizationConfiguration, instead of modes
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_mode")]
    authorization_config: Option<PathBuf>,
    /// Policies of the mode ABAC, a JSON object a line
    #[arg(long, value_name = "FILE")]
    authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of the server that the mode Webhook asks
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of its reviews: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1", value_parser = ["v1", "v1beta1"])]
    authorization_webhook_version: String,
    /// How long it is remembered that something is allowed, as 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::flag)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long it is remembered that something is not allowed, as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::flag)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
}

#[derive(Debug, Clone, Args)]
struct ServingFlags {
    /// Certificate (PEM) of the server, read anew when it changes; the cluster's authority makes one without it
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Certificate, key and names that it is for: cert.pem,key.pem:a.example,*.b.example; may be repeated
    #[arg(long = "tls-sni-cert-key", value_name = "FILES[:NAMES]", value_parser = sni)]
    tls_sni_cert_keys: Vec<Sni>,
    /// Oldest version of TLS
    #[arg(long, value_enum, value_name = "VERSION", default_value_t = MinVersion::Tls12)]
    tls_min_version: MinVersion,
    /// Cipher suites of TLS 1.2; those that are not good enough are taken and never spoken
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = suites::suite)]
    tls_cipher_suites: Option<Vec<Suite>>,
    /// Requests at a time on one HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    http2_max_streams_per_connection: u32,
    /// Certificates (PEM) that vouch for node agents; without it their certificates are not judged
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Certificate (PEM) that node agents are shown; the cluster's own without it
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
}

type Sni = (PathBuf, PathBuf, Vec<String>);

impl IdentityFlags {
    /// Writes what was said into the options. The first of `issuers` signs.
    pub fn apply(&self, issuers: &[String], options: &mut Options) {
        options.client_ca_file.clone_from(&self.client_ca_file);
        options.anonymous = self.anonymous_auth;
        options.authentication_config.clone_from(&self.authentication_config);
        options.token_file.clone_from(&self.token_auth_file);
        if let Some(said) = self.enable_bootstrap_token_auth {
            options.bootstrap_tokens = said;
        }
        options.accounts.accepted_issuers = issuers.iter().skip(1).cloned().collect();
        self.accounts.apply(options);
        options.oidc = self.oidc.options();
        options.token_webhook =
            self.authentication_token_webhook_config_file.as_ref().map(|file| {
                TokenWebhookOptions {
                    config_file: file.clone(),
                    version: self.authentication_token_webhook_version.clone(),
                    cache_ttl: self.authentication_token_webhook_cache_ttl,
                }
            });
        self.proxies.apply(options);
        self.authorization.apply(options);
        self.serving.apply(options);
    }
}

impl AccountFlags {
    fn apply(&self, options: &mut Options) {
        let accounts = &mut options.accounts;
        accounts.signing_key_file.clone_from(&self.service_account_signing_key_file);
        accounts.key_files.clone_from(&self.service_account_key_files);
        accounts.api_audiences.clone_from(&self.api_audiences);
        accounts.jwks_uri.clone_from(&self.service_account_jwks_uri);
        let seconds = self.service_account_max_token_expiration.map(|life| life.as_secs());
        accounts.max_seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
        accounts.extend = self.service_account_extend_token_expiration;
    }
}

impl OidcFlags {
    fn options(&self) -> Option<OidcOptions> {
        Some(OidcOptions {
            issuer: self.oidc_issuer_url.clone()?,
            client_id: self.oidc_client_id.clone()?,
            ca_file: self.oidc_ca_file.clone(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            signing_algs: self.oidc_signing_algs.clone(),
            required_claims: self.oidc_required_claims.clone(),
        })
    }
}

impl RequestHeaderFlags {
    fn apply(&self, options: &mut Options) {
        let proxies = &mut options.request_header;
        proxies.client_ca_file.clone_from(&self.requestheader_client_ca_file);
        let client = self.proxy_client_cert_file.clone();
        proxies.client = client.zip(self.proxy_client_key_file.clone());
        let lists = [
            (&mut proxies.allowed_names, &self.requestheader_allowed_names),
            (&mut proxies.username_headers, &self.requestheader_username_headers),
            (&mut proxies.uid_headers, &self.requestheader_uid_headers),
            (&mut proxies.group_headers, &self.requestheader_group_headers),
            (&mut proxies.extra_headers_prefix, &self.requestheader_extra_headers_prefix),
        ];
        for (list, said) in lists {
            if let Some(said) = said {
                *list = said.iter().filter(|name| !name.is_empty()).cloned().collect();
            }
        }
    }
}

impl AuthorizationFlags {
    fn apply(&self, options: &mut Options) {
        let authorization = &mut options.authorization;
        authorization.modes.clone_from(&self.authorization_mode);
        authorization.config_file.clone_from(&self.authorization_config);
        authorization.policy_file.clone_from(&self.authorization_policy_file);
        authorization.webhook_config_file.clone_from(&self.authorization_webhook_config_file);
        authorization.webhook_version.clone_from(&self.authorization_webhook_version);
        authorization.authorized_ttl = self.authorization_webhook_cache_authorized_ttl;
        authorization.unauthorized_ttl = self.authorization_webhook_cache_unauthorized_ttl;
    }
}

impl ServingFlags {
    fn apply(&self, options: &mut Options) {
        let serving = &mut options.serving;
        serving.certificate = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        serving.sni.clone_from(&self.tls_sni_cert_keys);
        serving.min_version = self.tls_min_version;
        serving.cipher_suites = self
            .tls_cipher_suites
            .as_ref()
            .map(|suites| suites.iter().filter_map(|suite| suite.0).collect());
        serving.max_streams = self.http2_max_streams_per_connection;
        serving.kubelet_ca_file.clone_from(&self.kubelet_certificate_authority);
        let client = self.kubelet_client_certificate.clone();
        serving.kubelet_client = client.zip(self.kubelet_client_key.clone());
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is not of the form key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn sni(text: &str) -> Result<Sni, String> {
    let (files, names) = text.split_once(':').unwrap_or((text, ""));
    let (certificate, key) = files
        .split_once(',')
        .ok_or("is not of the form certificate,key or certificate,key:names")?;
    let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok((certificate.into(), key.into(), names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: IdentityFlags,
    }

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let program = Program::try_parse_from(words).map_err(|e| e.to_string())?;
        let mut options = Options::default();
        program.flags.apply(&["https://a".to_owned(), "https://b".to_owned()], &mut options);
        Ok(options)
    }

    #[test]
    fn without_flags_the_defaults_stay() {
        let accounts = super::super::options::AccountOptions {
            accepted_issuers: vec!["https://b".to_owned()],
            ..Default::default()
        };
        let expected = Options { accounts, ..Options::default() };
        assert_eq!(format!("{:?}", parse(&[]).unwrap()), format!("{expected:?}"));
    }

    #[test]
    fn upstream_spellings_are_understood() {
        let options = parse(&[
            "--authorization-mode=Node,RBAC,Webhook",
            "--enable-bootstrap-token-auth",
            "--anonymous-auth=false",
            "--oidc-issuer-url=https://id",
            "--oidc-client-id=me",
            "--oidc-required-claim=a=b",
            "--tls-sni-cert-key=c.pem,k.pem:a.example,*.b.example",
            "--tls-min-version=VersionTLS13",
            "--requestheader-allowed-names=",
            "--authorization-webhook-cache-authorized-ttl=1h30m",
        ])
        .unwrap();
        assert_eq!(options.authorization.modes, [Mode::Node, Mode::Rbac, Mode::Webhook]);
        assert_eq!(options.authorization.authorized_ttl, Duration::from_secs(5400));
        assert!(options.bootstrap_tokens && options.anonymous == Some(false));
        assert_eq!(options.serving.sni[0].2, ["a.example", "*.b.example"]);
        assert!(options.request_header.allowed_names.is_empty());
        let jwt = options.oidc.unwrap().to_jwt(String::new());
        assert_eq!(jwt.claim_mappings.username.prefix.as_deref(), Some("https://id#"));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parse(&["--oidc-issuer-url=https://id"]).is_err());
        assert!(parse(&["--tls-cert-file=a"]).is_err());
        assert!(parse(&["--authorization-mode=Magic"]).is_err());
        assert!(parse(&["--authorization-mode=RBAC", "--authorization-config=f"]).is_err());
    }
}
