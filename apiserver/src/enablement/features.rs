//! Feature gates: this server is Kubernetes with the defaults of 1.36. A gate may be named with the value that it has;
//! another value would promise what is not kept, and stops the start.

/// Gates of all components of Kubernetes 1.36: name, stage, default, and whether upstream lets it be changed.
///
/// Source: upstream `test/compatibility_lifecycle/reference/versioned_feature_list.yaml`.
const GATES: &str = include_str!("../../data/feature-gates.txt");

/// A gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gate {
    enabled: bool,
    is_locked: bool,
}

/// Takes one `name=value`, if it says how things are.
///
/// # Errors
/// Why not, in upstream's words where it refuses that, too.
pub fn gate(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let (name, value) = text.split_once('=').ok_or(format!("missing bool value for {text}"))?;
    let (name, wanted) = (name.trim(), value.trim());
    let wanted = super::runtime::boolean(wanted)
        .ok_or_else(|| format!("invalid value of {name}={wanted}: it is neither true nor false"))?;
    let found = match name {
        "AllAlpha" => Gate { enabled: false, is_locked: false },
        // Some of them are on and some are off, so that neither value is true.
        "AllBeta" => Gate { enabled: !wanted, is_locked: false },
        name => known(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?,
    };
    match found {
        Gate { enabled, .. } if enabled == wanted => Ok(text.to_owned()),
        Gate { enabled, is_locked: true } => Err(format!(
            "cannot set feature gate {name} to {wanted}, feature is locked to {enabled}"
        )),
        Gate { is_locked: false, .. } => Err(format!(
            "cannot set feature gate {name} to {wanted}: this server behaves as Kubernetes 1.36 \
             does by default, and knows no other way; leave the gate out"
        )),
    }
}

fn known(name: &str) -> Option<Gate> {
    GATES.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next()? == name).then_some(())?;
        let enabled = words.nth(1)? == "true";
        Some(Gate { enabled, is_locked: words.next().is_some() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_gate() {
        for line in GATES.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let sound = matches!(
                words.as_slice(),
                [_, "Alpha" | "Beta" | "GA" | "Deprecated", "true" | "false"]
                    | [_, "GA" | "Deprecated", "true" | "false", "locked"]
            );
            assert!(sound, "{line}");
        }
    }

    #[test]
    fn gates_are_taken_as_they_are() {
        let check = |text: &str, expected: &str| {
            let refused = gate(text).err().unwrap_or_default();
            assert!(refused.starts_with(expected), "{text}: {refused}");
            assert_eq!(refused.is_empty(), expected.is_empty(), "{text}: {refused}");
        };
        check("WatchList=true", "");
        check("WatchList=false", "cannot set feature gate WatchList to false: this server");
        check("AllAlpha=false", "");
        check("AllAlpha=true", "cannot set feature gate AllAlpha to true: ");
        check("AllBeta=true", "cannot set feature gate AllBeta to true: ");
        check("NoSuchThing=true", "unrecognized feature gate: NoSuchThing");
        check("WatchList", "missing bool value for WatchList");
        check("WatchList=maybe", "invalid value of WatchList=maybe");
        check("", "");
    }

    #[test]
    fn what_upstream_has_locked_is_told() {
        let name = GATES.lines().find(|line| line.ends_with("true locked")).unwrap();
        let name = name.split(' ').next().unwrap();
        let expected =
            format!("cannot set feature gate {name} to false, feature is locked to true");
        assert_eq!(gate(&format!("{name}=false")), Err(expected));
    }
}
