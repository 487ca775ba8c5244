//! Who a container runs as: the pod's wishes, the image's `USER`, and the image's passwd and group files. Pure.

use crate::runtime::{Error, Security};

/// The user database of an image; both files may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserDb {
    pub(super) passwd: String,
    pub(super) group: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional: Vec<u32>,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// Decides the user of a container.
///
/// # Errors
/// [`Error::ContainerConfig`] when a name is not in the image, or runAsNonRoot is not met.
pub(super) fn resolve(image_user: &str, security: &Security, db: &UserDb) -> Result<User, Error> {
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let wish = match security.user {
        Some(uid) => uid.to_string(),
        None => user.to_owned(),
    };
    check_non_root(security, &wish)?;
    let account = match wish.as_str() {
        "" => db.by_uid(0).unwrap_or(Account { name: "root", uid: 0, gid: 0 }),
        name => match name.parse() {
            Ok(uid) => db.by_uid(uid).unwrap_or(Account { name: "", uid, gid: 0 }),
            Err(_) => db.by_name(name).ok_or_else(|| {
                Error::ContainerConfig(format!(
                    "the image's user {name:?} is not in its /etc/passwd"
                ))
            })?,
        },
    };
    let gid = match (security.group, group) {
        (Some(gid), _) => gid,
        (None, group) if group.is_empty() || security.user.is_some() => account.gid,
        (None, group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => db.group_by_name(group).ok_or_else(|| {
                Error::ContainerConfig(format!(
                    "the image's group {group:?} is not in its /etc/group"
                ))
            })?,
        },
    };
    let mut additional = security.supplemental_groups.clone();
    if !security.strict_groups && !account.name.is_empty() {
        additional.extend(db.groups_of(account.name));
    }
    additional.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    additional.retain(|gid| seen.insert(*gid));
    Ok(User { uid: account.uid, gid, additional })
}

/// Source: upstream's `verifyRunAsNonRoot`; the sentences are those that users know.
fn check_non_root(security: &Security, wish: &str) -> Result<(), Error> {
    let refuse = |sentence: String| Err(Error::ContainerConfig(sentence));
    match (security.non_root, wish.parse::<u32>()) {
        (false, _) => Ok(()),
        (true, Ok(0)) if security.user.is_some() => {
            refuse("container's runAsUser breaks non-root policy".to_owned())
        }
        (true, Ok(0)) => refuse("container has runAsNonRoot and image will run as root".to_owned()),
        (true, Ok(_)) => Ok(()),
        (true, Err(_)) if wish.is_empty() => {
            refuse("container has runAsNonRoot and image will run as root".to_owned())
        }
        (true, Err(_)) => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({wish}), cannot verify user is non-root"
        )),
    }
}

impl UserDb {
    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(Account {
                name,
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }

    fn by_uid(&self, uid: u32) -> Option<Account<'_>> {
        self.accounts().find(|account| account.uid == uid)
    }

    fn by_name(&self, name: &str) -> Option<Account<'_>> {
        self.accounts().find(|account| account.name == name)
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    fn group_by_name(&self, name: &str) -> Option<u32> {
        self.groups().find(|(group, _, _)| *group == name).map(|(_, gid, _)| gid)
    }

    fn groups_of(&self, user: &str) -> impl Iterator<Item = u32> {
        self.groups()
            .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db() -> UserDb {
        UserDb {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nwheel:x:10:root,web\nweb:x:34:\nlogs:x:50:web\n".into(),
        }
    }

    #[track_caller]
    fn check(image_user: &str, security: Security, expected: &str) {
        let got = match resolve(image_user, &security, &db()) {
            Ok(User { uid, gid, additional }) => format!("{uid}:{gid} {additional:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn images_name_their_user() {
        check("", Security::default(), "0:0 [0, 10]");
        check("web", Security::default(), "33:34 [34, 10, 50]");
        check("web:logs", Security::default(), "33:50 [50, 10]");
        check("33:7", Security::default(), "33:7 [7, 10, 50]");
        check("1234", Security::default(), "1234:0 [0]");
        check(
            "nobody",
            Security::default(),
            "the image's user \"nobody\" is not in its /etc/passwd",
        );
    }

    #[test]
    fn the_pod_wins() {
        let security = Security {
            user: Some(33),
            group: Some(5),
            supplemental_groups: vec![70],
            ..Security::default()
        };
        check("1234:9", security.clone(), "33:5 [5, 70, 10, 50]");
        check("1234:9", Security { strict_groups: true, ..security }, "33:5 [5, 70]");
        check("1:web", Security { user: Some(33), ..Security::default() }, "33:34 [34, 10, 50]");
    }

    #[test]
    fn root_can_be_refused() {
        let non_root = || Security { non_root: true, ..Security::default() };
        check("", non_root(), "container has runAsNonRoot and image will run as root");
        check("0", non_root(), "container has runAsNonRoot and image will run as root");
        check(
            "web",
            non_root(),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        );
        check("33", non_root(), "33:34 [34, 10, 50]");
        check(
            "",
            Security { user: Some(0), ..non_root() },
            "container's runAsUser breaks non-root policy",
        );
    }
}
