//! `improv token`: makes, lists and deletes the bootstrap tokens by which nodes join.
//!
//! Source: kubernetes.io, "kubeadm token" and "Authenticating with Bootstrap Tokens".

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::identity::authn::is_bootstrap_group;
use bootstrap_token_controller::plan::{CLUSTER_INFO, KUBECONFIG, PUBLIC};
use bootstrap_token_controller::token::{self, End, NAMESPACE, PREFIX, TYPE, text};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::arguments::{self, TokenCreate, TokenDelete};
use crate::join::discovery::Pin;
use crate::join::told;
use crate::layout::Layout;
use crate::status;

/// What an id and a secret are made of.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// Length of the part that everybody may know.
const ID: usize = 6;
/// Length of the other part: 36^16, about 83 bits.
const SECRET: usize = 16;
/// What a token may be used for.
const USAGES: [&str; 2] = ["signing", "authentication"];

/// A bootstrap token, `<id>.<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The part that everybody may know.
    pub id: String,
    secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| LETTERS.contains(&byte))
        };
        match text.split_once('.') {
            Some((id, secret)) if fits(id, ID) && fits(secret, SECRET) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            // The text is not repeated: most of it may be a secret.
            _ => Err("a token has the form [a-z0-9]{6}.[a-z0-9]{16}".to_owned()),
        }
    }
}

impl Token {
    /// A new one, by chance.
    pub(crate) fn random() -> Self {
        let mut rng = rand::rng();
        let mut letters = |n| -> String {
            (0..n).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
        };
        Self { id: letters(ID), secret: letters(SECRET) }
    }

    /// The part that only the cluster and who joins may know.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Both parts.
    pub(crate) fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// Does what `command` says.
///
/// # Errors
/// The cluster cannot be reached, or refuses.
pub(crate) async fn run(command: &arguments::Token) -> anyhow::Result<()> {
    match command {
        arguments::Token::Create(create) => self::create(create).await,
        arguments::Token::List(which) => list(&client(which).await?).await,
        arguments::Token::Delete(delete) => self::delete(delete).await,
    }
}

async fn client(which: &arguments::ByKubeconfig) -> anyhow::Result<Client> {
    let own = || Layout::new(&which.which.data_dir).kubeconfig();
    status::client_of(&which.kubeconfig.clone().unwrap_or_else(own)).await
}

async fn create(arguments: &TokenCreate) -> anyhow::Result<()> {
    let token = arguments.token.clone().unwrap_or_else(Token::random);
    let body = secret(&token, arguments, Timestamp::now())?;
    let client = client(&arguments.of).await?;
    // Before the token: one that nobody can use shall not be left behind.
    let command = match arguments.print_join_command {
        true => Some(join_command(&client, &token).await?),
        false => None,
    };
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let made = secrets.create(&PostParams::default(), &serde_json::from_value(body)?).await;
    made.map_err(|e| told(&e, format!("cannot make the Secret of token {:?}", token.id)))?;
    println!("{}", command.unwrap_or_else(|| token.reveal()));
    Ok(())
}

/// The Secret that holds the token.
fn secret(token: &Token, arguments: &TokenCreate, now: Timestamp) -> anyhow::Result<Value> {
    let mut data = json!({ "token-id": token.id, "token-secret": token.secret });
    if !arguments.description.is_empty() {
        data["description"] = arguments.description.clone().into();
    }
    if arguments.ttl > Duration::ZERO {
        let end = now.checked_add(arguments.ttl).context("--ttl is too long")?;
        data["expiration"] = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    for usage in &arguments.usages {
        if !USAGES.contains(&usage.as_str()) {
            bail!("--usages: {usage:?} is none of {}", USAGES.join(", "));
        }
        data[format!("usage-bootstrap-{usage}")] = "true".into();
    }
    if let Some(group) = arguments.groups.iter().find(|group| !is_bootstrap_group(group)) {
        bail!(
            "--groups: {group:?} does not begin with system:bootstrappers: or has other letters than a-z0-9:-"
        );
    }
    if !arguments.groups.is_empty() {
        data["auth-extra-groups"] = arguments.groups.join(",").into();
    }
    let name = format!("{PREFIX}{}", token.id);
    Ok(json!({ "metadata": { "name": name }, "type": TYPE, "stringData": data }))
}

/// What to type on a machine that shall join.
async fn join_command(client: &Client, token: &Token) -> anyhow::Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PUBLIC);
    let map = maps.get(CLUSTER_INFO).await;
    let map = map.map_err(|e| {
        told(&e, format!("cannot read {PUBLIC}/{CLUSTER_INFO} (does `improv up` run the cluster?)"))
    })?;
    let text = map.data.unwrap_or_default().remove(KUBECONFIG).unwrap_or_default();
    let read = Kubeconfig::from_yaml(&text).context("cluster-info holds no kubeconfig")?;
    let cluster = read.clusters.into_iter().next().and_then(|named| named.cluster);
    let cluster = cluster.context("cluster-info names no cluster")?;
    let ca = cluster.certificate_authority_data.context("cluster-info has no authority")?;
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, ca)?;
    let pins = Pin::of_pem(&pem)?;
    let hashes = pins.iter().map(|pin| format!(" --discovery-token-ca-cert-hash {pin}"));
    Ok(format!(
        "improv node join --server {} --token {}{}",
        cluster.server.unwrap_or_default(),
        token.reveal(),
        hashes.collect::<String>()
    ))
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().fields(&format!("type={TYPE}"));
    let found = secrets.list(&params).await;
    let found = found.map_err(|e| told(&e, "cannot list the Secrets in kube-system"))?;
    let now = Timestamp::now();
    let mut lines = vec![
        ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_owned),
    ];
    lines.extend(found.iter().map(|secret| line(secret, now)));
    print!("{}", columns(&lines));
    Ok(())
}

fn line(secret: &Secret, now: Timestamp) -> [String; 6] {
    let data = |key: &str| text(secret, key).unwrap_or_default();
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let (ttl, expires) = match token::end(secret) {
        End::Never => ("<forever>".to_owned(), "<never>".to_owned()),
        End::Unreadable => ("<invalid>".to_owned(), data("expiration")),
        End::At(end) if end <= now => ("<expired>".to_owned(), end.to_string()),
        End::At(end) => (ttl(end.duration_since(now).unsigned_abs()), end.to_string()),
    };
    let used = |usage: &&str| data(&format!("usage-bootstrap-{usage}")) == "true";
    let mut usages: Vec<&str> = USAGES.into_iter().filter(used).collect();
    usages.sort_unstable();
    let usages = usages.join(",");
    let whole = format!("{}.{}", data("token-id"), data("token-secret"));
    let (about, groups) = (data("description"), data("auth-extra-groups"));
    [whole, ttl, expires, or_none(usages), or_none(about), or_none(groups)]
}

/// As `23h`, in the largest unit.
fn ttl(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..=59 => format!("{seconds}s"),
        seconds @ 60..=3599 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

fn columns(lines: &[[String; 6]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let row = |line: &[String; 6]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(row).collect()
}

async fn delete(arguments: &TokenDelete) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client(&arguments.of).await?, NAMESPACE);
    for said in &arguments.tokens {
        let id = said.split('.').next().unwrap_or_default();
        if id.len() != ID || !id.bytes().all(|byte| LETTERS.contains(&byte)) {
            bail!("a token's id has the form [a-z0-9]{{6}}, its first part");
        }
        let deleted = secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await;
        deleted.map_err(|e| told(&e, format!("cannot delete the Secret of token {id:?}")))?;
        println!("bootstrap token {id:?} deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_form() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!((token.id.as_str(), token.secret()), ("abcdef", "0123456789abcdef"));
        assert_eq!(token.reveal().parse::<Token>().unwrap(), token);
        let random = Token::random();
        assert_eq!(random.reveal().parse::<Token>().unwrap(), random);
        assert_ne!(random, Token::random());
        for text in
            ["", "abcdef", "abcdef.0123", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde!"]
        {
            let said = text.parse::<Token>().unwrap_err();
            assert!(text.len() < 7 || !said.contains(text), "{said}");
        }
        assert!(!format!("{token:?}").contains("0123456789"));
    }

    fn arguments(words: &[&str]) -> TokenCreate {
        use clap::Parser as _;
        let words = ["improv", "token", "create"].iter().chain(words);
        match arguments::Arguments::try_parse_from(words).unwrap().command {
            arguments::Command::Token(arguments::Token::Create(create)) => create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_secret_says_what_the_flags_say() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let made = |words: &[&str]| secret(&token, &arguments(words), Timestamp::UNIX_EPOCH);
        let plain = made(&[]).unwrap();
        assert_eq!(plain["metadata"]["name"], "bootstrap-token-abcdef");
        assert_eq!(
            plain["stringData"],
            json!({
                "token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "1970-01-02T00:00:00Z",
                "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
            })
        );
        let other = made(&["--ttl=0", "--usages=signing", "--description=d"]).unwrap();
        let data = &other["stringData"];
        assert!(data["expiration"].is_null() && data["usage-bootstrap-authentication"].is_null());
        assert_eq!(data["description"], "d");
        for words in
            [["--usages=magic"], ["--groups=system:masters"], ["--groups=system:bootstrappers:A"]]
        {
            assert!(made(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_token_is_listed_with_what_is_left_of_it() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let mut made = secret(&token, &arguments(&["--ttl=2h"]), Timestamp::UNIX_EPOCH).unwrap();
        let data: serde_json::Map<String, Value> = made["stringData"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| {
                let bytes = k8s_openapi::ByteString(value.as_str().unwrap().into());
                (key.clone(), serde_json::to_value(bytes).unwrap())
            })
            .collect();
        made["data"] = data.into();
        let secret: Secret = serde_json::from_value(made).unwrap();
        let at = |second| line(&secret, Timestamp::from_second(second).unwrap());
        let listed = at(1);
        assert_eq!(listed[..2], ["abcdef.0123456789abcdef", "1h"]);
        assert_eq!(listed[3..5], ["authentication,signing", "<none>"]);
        assert_eq!(at(7200)[1], "<expired>");
    }
}
