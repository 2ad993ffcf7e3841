//! Looks up users and groups in the container's own `/etc/passwd` and `/etc/group`, never through
//! the host's name service.

use crate::sys::fd::Fd;
use crate::sys::fd::c_path;
use crate::sys::{file, untrusted};
use crate::{Context, Error, Result};
use std::ffi::CStr;
use std::path::Path;

/// The ids that the program runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups: those that list the user as a member.
    pub groups: Vec<u32>,
}

/// The largest passwd or group file that hull reads, in bytes.
const LARGEST: u64 = 16 << 20;

/// Reads a text file of a root filesystem; symlinks are resolved inside it. Empty if the file does
/// not exist or is not a regular file.
fn read(rootfs: &Path, name: &CStr) -> Result<String> {
    let root = file::openat(
        libc::AT_FDCWD,
        &c_path(rootfs)?,
        libc::O_PATH | libc::O_DIRECTORY,
        0,
    );
    let root = root.map(Fd).on("open", rootfs.display())?;
    let bytes = untrusted::read(&root, name, LARGEST)
        .map_err(|error| error.within(format!("root filesystem {}", rootfs.display())))?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| plain && *id != u32::MAX)
}

/// Looks up `USER[:GROUP]`, each a name or an id. Without a group it is the user's group of
/// `/etc/passwd`, or 0 where the user is not there.
///
/// # Errors
/// The container's files do not have a name; an id is out of range; a part is empty.
pub fn find(rootfs: &Path, text: &str) -> Result<UserIds> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    if user.is_empty() || group == Some("") {
        return Err(Error::new(format!(
            "-u {text:?}: empty; the form is USER[:GROUP]"
        )));
    }
    let passwd = read(rootfs, c"etc/passwd")?;
    let groups = read(rootfs, c"etc/group")?;
    let known = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (
            *fields.first()?,
            number(fields.get(2)?)?,
            number(fields.get(3)?)?,
        );
        (name == user || number(user) == Some(uid)).then(|| (name.to_owned(), uid, gid))
    });
    let (name, uid, user_gid) = match (known, number(user)) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => {
            return Err(Error::new(format!(
                "-u {text:?}: there is no user {user:?} in the container's /etc/passwd"
            )));
        }
    };
    let groups: Vec<Group> = groups.lines().filter_map(Group::parse).collect();
    if let Some(group) = group {
        let found = groups
            .iter()
            .find(|entry| entry.name == group || number(group) == Some(entry.gid))
            .map(|entry| entry.gid);
        let gid = found.or_else(|| number(group)).ok_or_else(|| {
            Error::new(format!(
                "-u {text:?}: there is no group {group:?} in the container's /etc/group"
            ))
        })?;
        return Ok(UserIds {
            uid,
            gid,
            groups: Vec::new(),
        });
    }
    let has_member = |entry: &&Group| {
        name.as_deref()
            .is_some_and(|name| entry.members.split(',').any(|member| member == name))
    };
    let groups = groups
        .iter()
        .filter(|entry| entry.gid != user_gid)
        .filter(has_member)
        .map(|entry| entry.gid)
        .collect();
    Ok(UserIds {
        uid,
        gid: user_gid,
        groups,
    })
}

/// Looks up a group by name or id.
///
/// # Errors
/// The container's `/etc/group` does not have the name.
pub fn find_group(rootfs: &Path, name: &str) -> Result<u32> {
    let groups = read(rootfs, c"etc/group")?;
    let named = groups.lines().filter_map(Group::parse);
    let found = named.into_iter().find(|entry| entry.name == name);
    found
        .map(|entry| entry.gid)
        .or_else(|| number(name))
        .ok_or_else(|| {
            Error::new(format!(
                "--group-add {name:?}: there is no group {name:?} in the container's /etc/group"
            ))
        })
}

/// An entry of `/etc/group` (group(5)).
struct Group {
    name: String,
    gid: u32,
    /// Names of users, with commas between them.
    members: String,
}

impl Group {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Self {
            name: (*fields.first()?).to_owned(),
            gid: number(fields.get(2)?)?,
            members: fields.get(3).copied().unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(std::path::PathBuf);
    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn names_are_looked_up_in_the_root_filesystem() {
        let root =
            Directory(std::env::temp_dir().join(format!("hull-users-{}", std::process::id())));
        std::fs::create_dir_all(root.0.join("etc")).unwrap();
        std::fs::write(
            root.0.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nada:x:1000:100::/:/bin/sh\nbad line\n",
        )
        .unwrap();
        std::fs::write(
            root.0.join("etc/real"),
            "root:x:0:\nusers:x:100:ada\naudio:x:29:bob,ada\n",
        )
        .unwrap();
        // An absolute symlink is resolved in the root filesystem.
        std::os::unix::fs::symlink("/etc/real", root.0.join("etc/group")).unwrap();
        let ids = |uid, gid, groups: &[u32]| UserIds {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        assert_eq!(find(&root.0, "ada").unwrap(), ids(1000, 100, &[29]));
        assert_eq!(find(&root.0, "1000").unwrap(), ids(1000, 100, &[29]));
        assert_eq!(find(&root.0, "ada:audio").unwrap(), ids(1000, 29, &[]));
        assert_eq!(find(&root.0, "77").unwrap(), ids(77, 0, &[]));
        assert_eq!(find(&root.0, "77:88").unwrap(), ids(77, 88, &[]));
        for bad in [
            "",
            ":",
            "bob",
            "ada:",
            ":0",
            "ada:nobody",
            "4294967295",
            "-1",
            "0x0",
        ] {
            assert!(find(&root.0, bad).is_err(), "{bad}");
        }
    }
}
