//! Tokens that stand in a file, one a line: token, user, uid and, quoted, groups.
//!
//! Source: kubernetes.io, "Static token file". The file is read once, at the start.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::identity::file::{self, Problem};
use crate::request::User;

/// Users by the digests of their tokens: looking one up tells nothing of the others by its time.
pub struct TokenFile(HashMap<[u8; 32], User>);

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line has too few columns.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        Self::parse(path, &file::read(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                let reason = format!(
                    "has {} columns; token, user name and uid are needed, then groups may follow",
                    columns.len()
                );
                return Err(Problem::in_line(path, at + 1, reason));
            };
            if token.is_empty() {
                return Err(Problem::in_line(path, at + 1, "the token is empty"));
            }
            let groups = rest.first().map(|groups| groups.split(',')).into_iter().flatten();
            let groups: Vec<String> =
                groups.map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect();
            let user = User { name: name.clone(), uid: uid.clone(), groups, extra: Vec::new() };
            if users.insert(Sha256::digest(token).into(), user).is_some() {
                tracing::warn!(
                    line = at + 1,
                    "token file: a token stands there twice, the last one counts"
                );
            }
        }
        Ok(Self(users))
    }

    /// The user of a token.
    pub(super) fn user(&self, token: &str) -> Option<User> {
        self.0.get(&<[u8; 32]>::from(Sha256::digest(token))).cloned()
    }
}

/// The columns of a line of comma-separated values; quotes keep commas together.
fn columns(line: &str) -> Vec<String> {
    let (mut columns, mut column, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(std::mem::take(&mut column).trim().to_owned()),
            _ => column.push(letter),
        }
    }
    columns.push(column.trim().to_owned());
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_user() {
        let path = Path::new("tokens.csv");
        let text = "# people\nt1,jane,1,\"dev,ops\"\nt2, joe ,2\n";
        let file = TokenFile::parse(path, text).unwrap();
        let jane = file.user("t1").unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "1"));
        assert_eq!(jane.groups, ["dev", "ops"]);
        assert_eq!(file.user("t2").unwrap().name, "joe");
        assert!(file.user("t3").is_none() && file.user("").is_none());
        let problem = TokenFile::parse(path, "\nt1,jane\n").err().unwrap().to_string();
        assert!(problem.starts_with("tokens.csv:2: has 2 columns"), "{problem}");
    }
}
