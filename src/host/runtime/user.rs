//! Who a container's process runs as: `user[:group]` by name or number, resolved in the texts of
//! the image's `passwd` and `group`.
//!
//! Numbers need no entry. A name that is only digits is a number. Without a group, the user's own
//! one and those that list it apply; with one, only that.

use super::error::RuntimeError;

/// Docker's range of ids.
const ID_MAX: u32 = i32::MAX as u32;

/// Groups of one process; the kernel takes 65,536.
const GROUPS_MAX: usize = 1_024;

/// The resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// One usable line: name, id and the fields behind.
fn entries(text: &str) -> impl Iterator<Item = (&str, u32, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok().filter(|id| *id <= ID_MAX)?;
        Some((name, id, fields.collect()))
    })
}

fn parse_number(text: &str) -> Result<Option<u32>, RuntimeError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|id| *id <= ID_MAX);
    number.map(Some).ok_or_else(|| {
        RuntimeError::Spec(format!("uids and gids must be in range 0-{ID_MAX}: {text}"))
    })
}

fn group_id(name: &str, group: &str) -> Result<u32, RuntimeError> {
    if let Some(number) = parse_number(name)? {
        return Ok(number);
    }
    let found = entries(group).find(|(known, ..)| *known == name).map(|(_, id, _)| id);
    found.ok_or_else(|| {
        RuntimeError::Spec(format!("unable to find group {name}: no matching entries in group file"))
    })
}

/// Resolves `wanted` (empty is root) and the extra groups.
pub(super) fn resolve(
    wanted: &str,
    extra_groups: &[String],
    passwd: &str,
    group: &str,
) -> Result<User, RuntimeError> {
    let (name, wanted_group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let number = if name.is_empty() { Some(0) } else { parse_number(name)? };
    let entry = entries(passwd).find(|(known, id, _)| match number {
        Some(number) => *id == number,
        None => *known == name,
    });
    let uid = match (number, &entry) {
        (Some(number), _) => number,
        (None, Some((_, id, _))) => *id,
        (None, None) => {
            return Err(RuntimeError::Spec(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let own_group = entry.as_ref().and_then(|(_, _, fields)| fields.first()?.parse().ok());
    let mut user = User { uid, gid: own_group.unwrap_or(0), groups: Vec::new() };
    match (wanted_group, &entry) {
        (Some(wanted), _) => user.gid = group_id(wanted, group)?,
        (None, Some((name, ..))) => {
            let listed = |fields: &[&str]| {
                fields.first().is_some_and(|members| members.split(',').any(|m| m == *name))
            };
            let ids = entries(group).filter(|(.., fields)| listed(fields)).map(|(_, id, _)| id);
            user.groups = ids.take(GROUPS_MAX).collect();
        }
        (None, None) => {}
    }
    for name in extra_groups {
        user.groups.push(group_id(name, group)?);
    }
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/x\n#c:x:1:1\nbad\n\
                          big:x:99999999999:1::/:\n33:x:77:77::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nvideo:x:44:web,root\ngpio:x:997:web\n";

    fn check(wanted: &str, extra: &[&str]) -> Result<(u32, u32, Vec<u32>), String> {
        let extra: Vec<String> = extra.iter().map(|g| (*g).to_owned()).collect();
        let user = resolve(wanted, &extra, PASSWD, GROUP).map_err(|err| err.to_string())?;
        Ok((user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_and_groups() {
        assert_eq!(check("", &[]), Ok((0, 0, vec![44])));
        assert_eq!(check("web", &[]), Ok((33, 34, vec![44, 997])));
        assert_eq!(check("33", &[]), Ok((33, 34, vec![44, 997])));
        assert_eq!(check("web:video", &["gpio", "5"]), Ok((33, 44, vec![5, 997])));
        assert_eq!(check("1234", &[]), Ok((1234, 0, vec![])));
        assert_eq!(check("1234:5678", &[]), Ok((1234, 5678, vec![])));
        assert_eq!(check("web:", &["video"]), Ok((33, 34, vec![44, 997])));
    }

    #[test]
    fn who_is_not_there_is_told() {
        let text = "unable to find user nope: no matching entries in passwd file";
        assert_eq!(check("nope", &[]), Err(text.to_owned()));
        let text = "unable to find group nope: no matching entries in group file";
        assert_eq!(check("web:nope", &[]), Err(text.to_owned()));
        assert_eq!(check("web", &["nope"]), Err(text.to_owned()));
        assert!(check("99999999999", &[]).unwrap_err().contains("must be in range"));
        assert!(check("big", &[]).is_err() && check("-1", &[]).is_err());
    }
}
