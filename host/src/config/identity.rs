//! Whom the workers run as.
//!
//! Owns the look-up of users and groups by name or number. Does not own the change itself, which a child makes
//! after it was forked.
//!
//! What a newcomer would get wrong: supplementary groups belong to an identity. Gunicorn keeps the master's (root's)
//! unless told otherwise; here a worker has its user's own groups, always.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};

/// A user, a group and supplementary groups, to be set in this order reversed: groups, gid, uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All supplementary groups, `gid` among them.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Probe: looks both up. None when nothing is to be changed: neither is given, or both are what the process
    /// has.
    ///
    /// # Errors
    /// Why not, as a sentence without its end ("cannot run workers as user 'x': there is no such user").
    pub(super) fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, String> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        let account = user.map(find_user).transpose()?;
        let uid = account.as_ref().map_or(geteuid(), |account| account.uid);
        let gid = match (group, &account) {
            (Some(group), _) => find_group(group)?,
            (None, Some(Account { gid: Some(gid), .. })) => *gid,
            // A number without an entry, as containers have it: the group stays.
            (None, _) => getegid(),
        };
        if uid == geteuid() && gid == getegid() {
            return Ok(None);
        }
        if !geteuid().is_root() {
            return Err(format!(
                "cannot run workers as user {uid} and group {gid}: the master runs as user {}, and only root may \
                 change users; start it as root or leave user and group out",
                geteuid()
            ));
        }
        let name = match account {
            Some(account) => account.name,
            None => User::from_uid(uid).ok().flatten().map(|user| user.name),
        };
        let groups = match name.and_then(|name| CString::new(name).ok()) {
            Some(name) => getgrouplist(&name, gid)
                .map_err(|errno| format!("cannot look up the groups of user {uid}: {}", errno.desc()))?,
            None => vec![gid],
        };
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        Ok(Some(Self { uid: uid.as_raw(), gid: gid.as_raw(), groups }))
    }
}

struct Account {
    uid: Uid,
    gid: Option<Gid>,
    name: Option<String>,
}

/// A name is tried first, as chown(1) does: a user may be called 1000.
fn find_user(text: &str) -> Result<Account, String> {
    let fail = |why: &str| format!("cannot run workers as user '{text}': {why}");
    let by_name = User::from_name(text).map_err(|errno| fail(errno.desc()))?;
    if let Some(user) = by_name {
        return Ok(Account { uid: user.uid, gid: Some(user.gid), name: Some(user.name) });
    }
    let Ok(number) = text.parse::<u32>() else { return Err(fail("there is no such user")) };
    let uid = Uid::from_raw(number);
    match User::from_uid(uid).map_err(|errno| fail(errno.desc()))? {
        Some(user) => Ok(Account { uid, gid: Some(user.gid), name: Some(user.name) }),
        None => Ok(Account { uid, gid: None, name: None }),
    }
}

fn find_group(text: &str) -> Result<Gid, String> {
    let fail = |why: &str| format!("cannot run workers as group '{text}': {why}");
    match Group::from_name(text).map_err(|errno| fail(errno.desc()))? {
        Some(group) => Ok(group.gid),
        None => text.parse::<u32>().map(Gid::from_raw).map_err(|_| fail("there is no such group")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_or_nothing_new_is_no_change() {
        let (uid, gid) = (geteuid().to_string(), getegid().to_string());
        assert_eq!(Identity::resolve(None, None), Ok(None));
        assert_eq!(Identity::resolve(Some(&uid), Some(&gid)), Ok(None));
    }

    #[test]
    fn unknown_names_are_said() {
        let user = Identity::resolve(Some("no-such-user"), None).unwrap_err();
        assert_eq!(user, "cannot run workers as user 'no-such-user': there is no such user");
        let group = Identity::resolve(None, Some("no-such-group")).unwrap_err();
        assert_eq!(group, "cannot run workers as group 'no-such-group': there is no such group");
    }

    #[test]
    fn another_user_has_its_own_groups_and_needs_root() {
        let nobody = User::from_name("nobody").unwrap().expect("this system has a user nobody");
        let got = Identity::resolve(Some("nobody"), None);
        if geteuid().is_root() {
            let identity = got.unwrap().unwrap();
            assert_eq!((identity.uid, identity.gid), (nobody.uid.as_raw(), nobody.gid.as_raw()));
            assert!(identity.groups.contains(&identity.gid) && !identity.groups.contains(&0), "{identity:?}");
        } else {
            assert!(got.unwrap_err().contains("only root may change users"));
        }
    }
}
