//! How connections begin, go on and end, for all requests alike: what an operator may say about it.

use std::time::Duration;

use clap::Args;
use http::HeaderValue;
use regex::Regex;

use crate::duration;

/// Largest chance to send a client elsewhere.
///
/// Source: `ServerRunOptions.Validate` in upstream `apiserver/pkg/server/options/server_run_options.go`.
const LARGEST_CHANCE: f64 = 0.02;

/// How connections begin, go on and end.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Origins whose pages may read answers; none, if there are none.
    pub cors_allowed_origins: Vec<Regex>,
    /// The header `Strict-Transport-Security`.
    pub transport_security: Option<HeaderValue>,
    /// How likely a request over HTTP/2 makes its client connect anew, from 0 to 1.
    pub goaway_chance: f64,
    /// How long the server goes on, and says that it is not ready, before it stops.
    pub shutdown_delay: Duration,
    /// How long after its start the server counts as alive, whatever it still waits for.
    pub livez_grace: Duration,
}

/// Flags of [`Options`].
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
#[group(id = "connections")]
pub struct Flags {
    /// Origins (regular expressions, anchored) whose pages may read answers, as //example\.com(:|$)
    #[arg(long, value_name = "REGEXES", value_delimiter = ',', value_parser = origin)]
    cors_allowed_origins: Vec<Regex>,
    /// What the header Strict-Transport-Security tells browsers: max-age=SECONDS, includeSubDomains, preload
    #[arg(long, value_name = "WORDS", value_delimiter = ',', value_parser = directive)]
    strict_transport_security_directives: Vec<String>,
    /// How likely a request over HTTP/2 makes its client connect anew, so that load spreads; at most 0.02
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0, value_parser = chance)]
    goaway_chance: f64,
    /// How long the server goes on before it stops, and says that it is not ready, so that nobody comes any more
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::flag)]
    shutdown_delay_duration: Duration,
    /// How long after its start the server counts as alive, whatever it still waits for
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::flag)]
    livez_grace_period: Duration,
}

impl Flags {
    /// Writes what was said into the options.
    pub fn apply(&self, options: &mut Options) {
        options.cors_allowed_origins.clone_from(&self.cors_allowed_origins);
        let directives = self.strict_transport_security_directives.join("; ");
        options.transport_security =
            (!directives.is_empty()).then(|| HeaderValue::from_str(&directives).ok()).flatten();
        options.goaway_chance = self.goaway_chance;
        options.shutdown_delay = self.shutdown_delay_duration;
        options.livez_grace = self.livez_grace_period;
    }
}

/// An expression that begins and ends where the host does, so that no other origin contains it (CVE-2022-1996).
fn origin(text: &str) -> Result<Regex, String> {
    let regex =
        schema::regexps::compile(text).map_err(|fault| format!("error parsing regexp: {fault}"))?;
    let begins = text.contains('^') || text.contains("//");
    let ends = text.contains('$') || text.contains(':');
    if begins && ends {
        return Ok(regex);
    }
    Err("regular expression does not pin to start/end of host in the origin header".to_owned())
}

fn directive(text: &str) -> Result<String, String> {
    let age = text.strip_prefix("max-age=");
    let is_age = age.is_some_and(|age| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit()));
    if is_age || matches!(text, "includeSubDomains" | "preload") {
        return Ok(text.to_owned());
    }
    Err("it is none of max-age=SECONDS, includeSubDomains and preload; see RFC 6797, 6.1"
        .to_owned())
}

fn chance(text: &str) -> Result<f64, String> {
    let chance: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if (0.0..=LARGEST_CHANCE).contains(&chance) {
        return Ok(chance);
    }
    Err(format!("can not be less than 0 or greater than {LARGEST_CHANCE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn read(words: &[&str]) -> Result<Options, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let program = Program::try_parse_from(words).map_err(|error| error.to_string())?;
        let mut options = Options::default();
        program.flags.apply(&mut options);
        Ok(options)
    }

    #[test]
    fn directives_become_one_header() {
        let flag = "--strict-transport-security-directives=max-age=60,includeSubDomains,preload";
        let header = read(&[flag]).unwrap().transport_security.unwrap();
        assert_eq!(header, "max-age=60; includeSubDomains; preload");
        assert_eq!(read(&[]).unwrap().transport_security, None);
        for wrong in ["max-age=soon", "max-age", "x"] {
            assert!(directive(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_are_anchored() {
        let flag = r"--cors-allowed-origins=//a\.example(:|$),^https://b\.example$";
        assert_eq!(read(&[flag]).unwrap().cors_allowed_origins.len(), 2);
        assert!(origin("a.example").unwrap_err().contains("does not pin"));
        assert_eq!(origin("//(").unwrap_err(), "error parsing regexp: missing closing ): `//(`");
        assert!(!origin(r"^https://\d$").unwrap().is_match("https://\u{661}"), "digits are ASCII");
    }

    #[test]
    fn few_clients_are_sent_elsewhere() {
        assert!(read(&["--goaway-chance=0.02"]).is_ok());
        let refused = read(&["--goaway-chance=0.03"]).err().unwrap();
        assert!(refused.contains("can not be less than 0 or greater than 0.02"), "{refused}");
        assert!(chance("-1").is_err() && chance("NaN").is_err());
    }
}
