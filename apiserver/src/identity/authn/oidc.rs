//! One issuer of OpenID Connect tokens: its keys, and the user that its claims mean.
//!
//! Source: kubernetes.io, "Authenticating", "OpenID Connect Tokens"; OpenID Connect Discovery 1.0.

mod keys;

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation};
use schema::cel::{Program, compile};
use serde_json::{Map, Value, json};

use self::keys::Keys;
use super::config::{Extra, Jwt, Mapping};
use crate::request::User;

/// How far clocks may differ before a token counts as issued in the future, in seconds.
///
/// Source: `nbf` leeway of github.com/coreos/go-oidc, which upstream uses.
const LEEWAY: i64 = 300;

/// Algorithms that are taken unless flags say otherwise.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::EdDSA,
];

/// Field, value and reason of what cannot be used.
type Fault = (String, String, String);

/// An issuer whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    keys: Keys,
    required: Vec<(String, String)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Arc<Program>)>,
}

/// An expression that must be true, and what to tell if it is not.
#[derive(Debug)]
struct Rule {
    program: Arc<Program>,
    message: String,
}

/// Where a part of the user comes from.
#[derive(Debug)]
enum Source {
    Claim { name: String, prefix: String },
    Expression(Arc<Program>),
}

impl Issuer {
    /// Compiles what a valid configuration says.
    pub(super) fn new(jwt: &Jwt) -> Result<Self, Fault> {
        let mappings = &jwt.claim_mappings;
        let program = |field: String, text: &str| {
            compile(text).map_err(|reason| (field, text.to_owned(), reason))
        };
        let rules = |field: &str, rules: Vec<(&str, &str)>| {
            let made = rules.into_iter().enumerate().map(|(at, (expression, message))| {
                let message = match message {
                    "" => format!("validation expression '{expression}' failed"),
                    message => message.to_owned(),
                };
                let program = program(format!("{field}[{at}].expression"), expression)?;
                Ok(Rule { program, message })
            });
            made.collect::<Result<Vec<_>, Fault>>()
        };
        let claims = &jwt.claim_validation_rules;
        let required = claims.iter().filter(|rule| !rule.claim.is_empty());
        let expressions = claims.iter().filter(|rule| rule.claim.is_empty());
        let extra = |(at, extra): (usize, &Extra)| {
            let field = format!("claimMappings.extra[{at}].valueExpression");
            Ok((extra.key.clone(), program(field, &extra.value_expression)?))
        };
        let url = jwt.issuer.url.clone();
        let ca = jwt.issuer.certificate_authority.as_str();
        let keys = Keys::new(&url, jwt.issuer.discovery_url.as_deref(), ca);
        Ok(Self {
            audiences: jwt.issuer.audiences.clone(),
            algorithms: algorithms(&jwt.algorithms)?,
            keys: keys.map_err(|reason| {
                (
                    "issuer.certificateAuthority".to_owned(),
                    "certificateAuthority".to_owned(),
                    reason,
                )
            })?,
            required: required.map(|r| (r.claim.clone(), r.required_value.clone())).collect(),
            claim_rules: rules(
                "claimValidationRules",
                expressions.map(|r| (r.expression.as_str(), r.message.as_str())).collect(),
            )?,
            user_rules: rules(
                "userValidationRules",
                jwt.user_validation_rules
                    .iter()
                    .map(|r| (r.expression.as_str(), r.message.as_str()))
                    .collect(),
            )?,
            username: source("username", &mappings.username)?
                .ok_or_else(|| ("claimMappings.username".into(), String::new(), String::new()))?,
            groups: source("groups", &mappings.groups)?,
            uid: source("uid", &mappings.uid)?,
            extra: mappings.extra.iter().enumerate().map(extra).collect::<Result<_, Fault>>()?,
            url,
        })
    }

    /// What its tokens name as their issuer.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The user of a token; why not, otherwise.
    pub(super) async fn user(&self, token: &str, now: i64) -> Result<User, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| e.to_string())?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("signature algorithm {:?} is not taken", header.alg));
        }
        let claims = match self.verify(token, header.alg, header.kid.as_deref(), false).await {
            Ok(claims) => claims,
            // The issuer may have a new key.
            Err(_) => self.verify(token, header.alg, header.kid.as_deref(), true).await?,
        };
        self.check(&claims, now)?;
        self.user_of(Value::Object(claims))
    }

    async fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: Option<&str>,
        anew: bool,
    ) -> Result<Map<String, Value>, String> {
        let keys = self.keys.get(anew).await?;
        let mut rules = Validation::new(algorithm);
        rules.validate_aud = false;
        rules.validate_exp = false;
        rules.required_spec_claims.clear();
        let fits = |jwk: &&jsonwebtoken::jwk::Jwk| match (key, &jwk.common.key_id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let decoded = keys.keys.iter().filter(fits).find_map(|jwk| {
            let key = jsonwebtoken::DecodingKey::from_jwk(jwk).ok()?;
            Some(jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules).ok()?.claims)
        });
        decoded.ok_or_else(|| "failed to verify id token signature".to_owned())
    }

    /// Issuer, audience, times, and the rules.
    fn check(&self, claims: &Map<String, Value>, now: i64) -> Result<(), String> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let time = |name: &str| claims.get(name).and_then(Value::as_f64);
        if text("iss") != self.url {
            return Err(format!("issued by {:?}", text("iss")));
        }
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(one)) => vec![one],
            _ => Vec::new(),
        };
        if !self.audiences.iter().any(|wanted| audiences.contains(&wanted.as_str())) {
            return Err(format!("expected audience in {:?} got {audiences:?}", self.audiences));
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds fit for some million years")]
        let (present, early) = (now as f64, (now + LEEWAY) as f64);
        if time("exp").is_none_or(|end| end <= present) {
            return Err("token is expired".to_owned());
        }
        if time("nbf").is_some_and(|begin| begin > early) {
            return Err("token is not valid yet".to_owned());
        }
        for (claim, value) in &self.required {
            if claims.get(claim).and_then(Value::as_str) != Some(value) {
                return Err(format!("required claim {claim} does not have its value"));
            }
        }
        obey(&self.claim_rules, "claims", &Value::Object(claims.clone()))
    }

    fn user_of(&self, claims: Value) -> Result<User, String> {
        if matches!(&self.username, Source::Claim { name, .. } if name == "email")
            && claims.get("email_verified").is_some_and(|verified| *verified != true)
        {
            return Err("email not verified".to_owned());
        }
        let name = match self.username.values(&claims)?.as_slice() {
            [name] if !name.is_empty() => name.clone(),
            _ => return Err("the user has no name".to_owned()),
        };
        let list = |source: &Option<Source>| match source {
            Some(source) => source.values(&claims),
            None => Ok(Vec::new()),
        };
        let uid = list(&self.uid)?;
        let mut user = User {
            name,
            groups: list(&self.groups)?,
            uid: uid.into_iter().next().unwrap_or_default(),
            extra: Vec::new(),
        };
        for (key, program) in &self.extra {
            let values = texts(&program.evaluate(&[("claims", &claims)])?)?;
            if !values.is_empty() {
                user.extra.push((key.clone(), values));
            }
        }
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        let shown = json!({
            "username": user.name, "uid": user.uid, "groups": user.groups, "extra": extra,
        });
        obey(&self.user_rules, "user", &shown)?;
        Ok(user)
    }
}

impl Source {
    /// The texts that claims have there; a claim that is absent is none.
    fn values(&self, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Expression(program) => texts(&program.evaluate(&[("claims", claims)])?),
            Self::Claim { name, prefix } => {
                let values = texts(claims.get(name).unwrap_or(&Value::Null))
                    .map_err(|reason| format!("claim {name}: {reason}"))?;
                Ok(values.into_iter().map(|value| format!("{prefix}{value}")).collect())
            }
        }
    }
}

fn source(name: &str, mapping: &Mapping) -> Result<Option<Source>, Fault> {
    if !mapping.claim.is_empty() {
        let prefix = mapping.prefix.clone().unwrap_or_default();
        return Ok(Some(Source::Claim { name: mapping.claim.clone(), prefix }));
    }
    if mapping.expression.is_empty() {
        return Ok(None);
    }
    let field = format!("claimMappings.{name}.expression");
    let program = compile(&mapping.expression);
    let program = program.map_err(|reason| (field, mapping.expression.clone(), reason))?;
    Ok(Some(Source::Expression(program)))
}

/// One text, or a list of them.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(list) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                _ => Err("is a list of something else than strings".to_owned()),
            })
            .collect(),
        _ => Err("is neither a string nor a list of strings".to_owned()),
    }
}

fn obey(rules: &[Rule], name: &str, value: &Value) -> Result<(), String> {
    for rule in rules {
        match rule.program.evaluate(&[(name, value)])? {
            Value::Bool(true) => (),
            _ => return Err(rule.message.clone()),
        }
    }
    Ok(())
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, Fault> {
    if names.is_empty() {
        return Ok(ALGORITHMS.to_vec());
    }
    let known = |name: &String| {
        let found = ALGORITHMS.iter().copied().find(|a| format!("{a:?}") == *name);
        found.ok_or_else(|| {
            let reason = format!("unsupported signing algorithm {name}");
            ("--oidc-signing-algs".to_owned(), name.clone(), reason)
        })
    };
    names.iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(mappings: Value, rules: Value) -> Issuer {
        let jwt: Jwt = serde_json::from_value(json!({
            "issuer": { "url": "https://id", "audiences": ["here", "there"] },
            "claimMappings": mappings,
            "claimValidationRules": rules["claims"].as_array().cloned().unwrap_or_default(),
            "userValidationRules": rules["user"].as_array().cloned().unwrap_or_default(),
        }))
        .unwrap();
        Issuer::new(&jwt).unwrap()
    }

    #[track_caller]
    fn check(issuer: &Issuer, claims: Value, expected: &str) {
        let mut all = json!({ "iss": "https://id", "aud": "here", "exp": 100, "sub": "jane" });
        for (key, value) in claims.as_object().unwrap() {
            all[key] = value.clone();
        }
        let Value::Object(map) = &all else { unreachable!() };
        let user = issuer.check(map, 10).and_then(|()| issuer.user_of(all.clone()));
        let got = user.map_or_else(
            |reason| reason,
            |user| format!("{} {} {:?} {:?}", user.name, user.uid, user.groups, user.extra),
        );
        assert_eq!(got, expected);
    }

    #[test]
    fn claims_become_a_user() {
        let plain = issuer(
            json!({
                "username": { "claim": "sub", "prefix": "id:" },
                "groups": { "claim": "teams", "prefix": "team-" },
            }),
            json!({ "claims": [{ "claim": "hd", "requiredValue": "example.com" }] }),
        );
        let good = json!({ "hd": "example.com", "teams": ["a", "b"] });
        check(&plain, good, "id:jane  [\"team-a\", \"team-b\"] []");
        check(&plain, json!({ "hd": "example.com", "teams": "a" }), "id:jane  [\"team-a\"] []");
        check(&plain, json!({}), "required claim hd does not have its value");
        check(&plain, json!({ "exp": 10 }), "token is expired");
        check(&plain, json!({ "nbf": 311 }), "token is not valid yet");
        check(
            &plain,
            json!({ "aud": ["else"] }),
            "expected audience in [\"here\", \"there\"] got [\"else\"]",
        );
        check(&plain, json!({ "iss": "https://other" }), "issued by \"https://other\"");
        check(
            &plain,
            json!({ "hd": "example.com", "sub": 7 }),
            "claim sub: is neither a string nor a list of strings",
        );
    }

    #[test]
    fn expressions_map_and_judge() {
        let made = issuer(
            json!({
                "username": { "expression": "'ext:' + claims.sub" },
                "groups": { "expression": "claims.roles.filter(r, r.startsWith('k8s-'))" },
                "uid": { "expression": "claims.oid" },
                "extra": [{ "key": "example.com/tier", "valueExpression": "claims.tier" }],
            }),
            json!({
                "claims": [{ "expression": "claims.exp < 1000", "message": "lives too long" }],
                "user": [{ "expression": "!user.username.startsWith('ext:system')", "message": "reserved" }],
            }),
        );
        let claims = json!({ "roles": ["k8s-a", "b"], "oid": "7", "tier": "gold" });
        check(&made, claims.clone(), "ext:jane 7 [\"k8s-a\"] [(\"example.com/tier\", [\"gold\"])]");
        let with = |key: &str, value: Value| {
            let mut claims = claims.clone();
            claims[key] = value;
            claims
        };
        check(&made, with("exp", json!(2000)), "lives too long");
        check(&made, with("sub", json!("system:x")), "reserved");
    }

    #[test]
    fn an_email_must_be_verified() {
        let made = issuer(json!({ "username": { "claim": "email", "prefix": "" } }), json!({}));
        check(&made, json!({ "email": "a@b", "email_verified": false }), "email not verified");
        check(&made, json!({ "email": "a@b", "email_verified": true }), "a@b  [] []");
        check(&made, json!({ "email": "" }), "the user has no name");
    }
}
