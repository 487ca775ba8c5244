//! From options to what judges requests: files are read, keys made ready, servers outside looked up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderName;

use super::authn::config::{Anonymous, Document};
use super::authn::{Authenticator, RequestHeader, Structured, TokenFile, TokenWebhook};
use super::authz::{Authorizer, config};
use super::file::{self, Problem, Reloads, Watched};
use super::options::{AccountOptions, Options, RequestHeaderOptions, ServingOptions};
use super::pki::{self, Pki};
use super::tls::{Certificates, ClientAuthority, Serving};
use super::tokens::TokenKeys;
use super::webhook::Webhook;

/// Longest wait for a server that judges tokens.
const JUDGES_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// What recognises users.
///
/// # Errors
/// The file or flag that is wrong.
pub fn authenticator(
    options: &Options,
    issuer: &str,
    pki: &Pki,
    reloads: &Reloads,
) -> Result<Authenticator, Problem> {
    let keys = token_keys(&options.accounts, issuer, pki)?;
    let own = ClientAuthority::new(pki).map_err(|e| Problem::new("the cluster's authority", e))?;
    let mut made = Authenticator::new(keys, own);
    if let Some(path) = &options.client_ca_file {
        made.client_ca = authority("client-ca", path)?;
    }
    reloads.add(&made.client_ca);
    made.request_header = Some(request_header(&options.request_header, pki, reloads)?);
    made.token_file = options.token_file.as_deref().map(TokenFile::read).transpose()?;
    made.bootstrap_tokens = options.bootstrap_tokens;
    made.structured = structured(options, issuer)?;
    reloads.add(&made.structured);
    if let Some(webhook) = &options.token_webhook {
        let server = Webhook::new(&webhook.config_file, JUDGES_WITHIN)?;
        made.webhook = Some(TokenWebhook::new(server, &webhook.version, webhook.cache_ttl));
    }
    Ok(made)
}

/// What decides who may what.
///
/// # Errors
/// The file or flag that is wrong.
pub fn authorizer(options: &Options, reloads: &Reloads) -> Result<Authorizer, Problem> {
    let authorization = &options.authorization;
    let Some(path) = &authorization.config_file else {
        let chain = config::by_modes(authorization)?;
        return Ok(Authorizer::with_chain(Arc::new(Watched::fixed(chain))));
    };
    let (path, policy) = (path.clone(), authorization.policy_file.clone());
    let files = vec![path.clone()];
    let chain = Watched::new("authorization", files, move |texts| {
        config::parse(&path, &texts[0], policy.as_deref())
    })?;
    let chain = Arc::new(chain);
    reloads.add(&chain);
    Ok(Authorizer::with_chain(chain))
}

/// The certificates that the server shows.
///
/// # Errors
/// The file that is wrong.
pub fn certificates(
    options: &ServingOptions,
    pki: &Pki,
    reloads: &Reloads,
) -> Result<Arc<Watched<Certificates>>, Problem> {
    let own = pki.server().clone();
    let default = options.certificate.clone();
    let sni = options.sni.clone();
    let pairs = default.iter().map(|(c, k)| (c, k)).chain(sni.iter().map(|(c, k, _)| (c, k)));
    let files: Vec<PathBuf> = pairs.flat_map(|(c, k)| [c.clone(), k.clone()]).collect();
    let paths = files.clone();
    let made = Watched::new("serving-certificate", files, move |texts| {
        let mut pairs = texts.chunks_exact(2).zip(paths.chunks_exact(2)).map(|(text, path)| {
            Serving::of_pem(&text[0], &text[1])
                .map_err(|error| Problem::new(&path[0], with_cause(&error)))
        });
        let default = match &default {
            Some(_) => pairs.next().transpose()?,
            None => None,
        };
        let default = match default {
            Some(default) => default,
            None => Serving::of_pem(&own.certificate, &own.key)
                .map_err(|error| Problem::new("the own certificate", with_cause(&error)))?,
        };
        let mut certificates = Certificates { default, by_name: Vec::new() };
        for (serving, (_, _, names)) in pairs.zip(&sni) {
            certificates.add(names.clone(), serving?);
        }
        Ok(certificates)
    })?;
    let made = Arc::new(made);
    reloads.add(&made);
    Ok(made)
}

/// What node agents are shown, and who vouches for them (PEM).
///
/// # Errors
/// The file that is wrong.
pub fn kubelet(
    options: &ServingOptions,
    pki: &Pki,
) -> Result<(pki::Credential, Option<String>), Problem> {
    let credential = match &options.kubelet_client {
        Some((certificate, key)) => {
            pki::Credential { certificate: file::read(certificate)?, key: file::read(key)? }
        }
        None => pki.kubelet_client().clone(),
    };
    let authority = options.kubelet_ca_file.as_deref().map(file::read).transpose()?;
    Ok((credential, authority))
}

/// What API servers behind this one are shown.
///
/// # Errors
/// The file that is wrong.
pub fn front_proxy(
    options: &RequestHeaderOptions,
    pki: &Pki,
    reloads: &Reloads,
) -> Result<Arc<Watched<pki::Credential>>, Problem> {
    let Some((certificate, key)) = options.client.clone() else {
        return Ok(Arc::new(Watched::fixed(pki.front_proxy_client().clone())));
    };
    let files = vec![certificate.clone(), key];
    let made = Watched::new("proxy-client-certificate", files, move |texts| {
        let made = pki::Credential { certificate: texts[0].clone(), key: texts[1].clone() };
        // A certificate without its own key would be of no use.
        Serving::of_pem(&made.certificate, &made.key)
            .map_err(|error| Problem::new(&certificate, with_cause(&error)))?;
        Ok(made)
    })?;
    let made = Arc::new(made);
    reloads.add(&made);
    Ok(made)
}

fn token_keys(options: &AccountOptions, issuer: &str, pki: &Pki) -> Result<TokenKeys, Problem> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: super::tokens::Error| Problem::new(path, error)
    };
    let mut keys = match &options.signing_key_file {
        Some(path) => TokenKeys::new(&file::read(path)?, issuer).map_err(wrong(path))?,
        None => TokenKeys::of_pki(pki, issuer).map_err(wrong(Path::new("sa.key")))?,
    };
    for path in &options.key_files {
        keys.accept_keys(&file::read(path)?).map_err(wrong(path))?;
    }
    keys.accept_issuers(&options.accepted_issuers);
    keys.set_audiences(&options.api_audiences);
    keys.set_jwks_uri(options.jwks_uri.clone());
    Ok(keys)
}

fn authority(kind: &'static str, path: &Path) -> Result<Arc<Watched<ClientAuthority>>, Problem> {
    let file = path.to_owned();
    let made = Watched::new(kind, vec![path.to_owned()], move |texts| {
        ClientAuthority::of_pem(&texts[0]).map_err(|error| {
            let reason =
                format!("holds no certificate that can be trusted: {}", with_cause(&error));
            Problem::new(&file, reason)
        })
    })?;
    Ok(Arc::new(made))
}

fn request_header(
    options: &RequestHeaderOptions,
    pki: &Pki,
    reloads: &Reloads,
) -> Result<RequestHeader, Problem> {
    let authority = match &options.client_ca_file {
        Some(path) => authority("requestheader-client-ca", path)?,
        None => {
            let own = ClientAuthority::of_pem(pki.front_proxy_ca_certificate());
            let own = own.map_err(|e| Problem::new("the aggregation layer's authority", e))?;
            Arc::new(Watched::fixed(own))
        }
    };
    reloads.add(&authority);
    let names = |flag: &str, names: &[String]| {
        let parse = |name: &String| {
            name.parse::<HeaderName>()
                .map_err(|_| Problem::new(flag, format!("{name:?} is no name of a header")))
        };
        names.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    Ok(RequestHeader {
        authority,
        allowed_names: options.allowed_names.clone(),
        username: names("--requestheader-username-headers", &options.username_headers)?,
        uid: names("--requestheader-uid-headers", &options.uid_headers)?,
        groups: names("--requestheader-group-headers", &options.group_headers)?,
        extra_prefixes: options.extra_headers_prefix.iter().map(|p| p.to_lowercase()).collect(),
    })
}

fn structured(options: &Options, issuer: &str) -> Result<Arc<Watched<Structured>>, Problem> {
    let (anonymous, issuer) = (options.anonymous, issuer.to_owned());
    if let Some(path) = options.authentication_config.clone() {
        let files = vec![path.clone()];
        let build = move |texts: &[String]| Structured::parse(&path, &texts[0], anonymous, &issuer);
        return Ok(Arc::new(Watched::new("authentication", files, build)?));
    }
    let mut document = Document::default();
    document.anonymous = anonymous.map(|enabled| Anonymous { enabled, conditions: Vec::new() });
    if let Some(oidc) = &options.oidc {
        let ca = oidc.ca_file.as_deref().map(file::read).transpose()?.unwrap_or_default();
        document.jwt.push(oidc.to_jwt(ca));
    }
    let made = Structured::new(Path::new("--oidc-issuer-url"), "", &document, &issuer)?;
    Ok(Arc::new(Watched::fixed(made)))
}

/// An error with what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
