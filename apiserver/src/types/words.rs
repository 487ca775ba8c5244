//! Forms of names, keys and values, in upstream's words.
//!
//! Source: kubernetes.io, "Object Names and IDs" and "Labels and Selectors".

use crate::write::names;
pub(crate) use names::subdomain;

const WORD: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Faults of a DNS label (RFC 1123).
pub(crate) fn label(name: &str) -> Vec<String> {
    let mut faults = names::label(name);
    if name.contains('.') && subdomain(name).is_empty() {
        // All else is right, so the dots are to blame.
        faults.retain(|fault| fault.starts_with("must be no more"));
        faults.push("must not contain dots".to_owned());
    }
    faults
}

/// Faults of a DNS subdomain whose parts may contain underscores.
pub(crate) fn subdomain_with_underscores(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > 253 {
        faults.push("must be no more than 253 characters".to_owned());
    }
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| edge(Some(b)) || matches!(b, b'-' | b'_');
    let good = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
    };
    if !name.split('.').all(good) {
        faults.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    faults
}

/// Faults of `prefix/name`, as keys of labels, taints and resources have it.
pub(crate) fn qualified(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match key.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        ["", name] => {
            faults.push("prefix part must be non-empty".to_owned());
            *name
        }
        [prefix, name] => {
            // Upstream has two checks of a subdomain; only this one counts bytes.
            let bad =
                subdomain(prefix).into_iter().map(|f| f.replace("253 characters", "253 bytes"));
            faults.extend(bad.map(|f| format!("prefix part {f}")));
            *name
        }
        _ => {
            return vec![format!(
                "a valid label key {WORD} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_word(name) {
        faults.push(format!("name part {WORD}"));
    }
    faults
}

/// Faults of a label's value.
pub(crate) fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_word(value) {
        faults.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    faults
}

/// Faults of a DNS label that begins with a letter (RFC 1035).
pub(crate) fn label_1035(name: &str) -> Vec<String> {
    const MOST: usize = 63;
    let mut faults = Vec::new();
    if name.len() > MOST {
        faults.push(format!("must be no more than {MOST} characters"));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(inner);
    if !good {
        faults.push("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    faults
}

/// Faults of a condition's reason.
pub(crate) fn condition_reason(reason: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let bytes = reason.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| inner(*b));
    if good {
        return Vec::new();
    }
    vec!["a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')".to_owned()]
}

/// Faults of the name of an environment variable.
pub(crate) fn variable(name: &str) -> Vec<String> {
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    if !name.is_empty() && name.bytes().all(printable) {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// Faults of a key of a ConfigMap or a Secret.
pub(crate) fn data_key(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if key.len() > 253 {
        faults.push("must be no more than 253 characters".to_owned());
    }
    if key.is_empty()
        || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        faults.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned());
    }
    if key == "." || key == ".." {
        faults.push(format!("must not be '{key}'"));
    } else if key.starts_with("..") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_blamed_where_they_are_all_that_is_wrong() {
        assert_eq!(label("a.b"), ["must not contain dots"]);
        assert!(label("A.b")[0].starts_with("a lowercase RFC 1123 label"));
        assert!(label("a-b").is_empty());
    }

    #[test]
    fn keys() {
        for good in ["app", "example.com/App_1", "a.b-c"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        for bad in ["", "/x", "a b", "a/b/c", "A.com/x", "x/", "-a"] {
            assert!(!qualified(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn data_keys() {
        assert!(data_key("a_B.c-1").is_empty());
        assert_eq!(data_key(".."), ["must not be '..'"]);
        assert_eq!(data_key("..a"), ["must not start with '..'"]);
        assert!(data_key("a b")[0].starts_with("a valid config key"));
    }
}
