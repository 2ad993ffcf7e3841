//! Names of users and groups, from the container's own files: never through the host's name
//! service.

use crate::sys::fd::Fd;
use crate::sys::fd::c_path;
use crate::sys::file::{self, RESOLVE_IN_ROOT};
use crate::{Error, Result};
use nix::errno::Errno;
use std::io::Read;
use std::path::Path;

/// Who the program runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The groups that the user is listed in.
    pub groups: Vec<u32>,
}

/// The largest passwd or group file that is read.
const LARGEST: u64 = 16 << 20;

/// A text file inside a root; links lead nowhere outside. Empty if there is none.
fn text(rootfs: &Path, name: &std::ffi::CStr) -> Result<String> {
    let shown = || format!("{} in {}", name.to_string_lossy(), rootfs.display());
    let root = c_path(rootfs)?;
    let fail = |errno| Error::sys("read", shown(), errno);
    let root = file::openat(libc::AT_FDCWD, &root, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map(Fd)
        .map_err(fail)?;
    let opened = match file::openat2(
        root.0,
        name,
        libc::O_RDONLY | libc::O_NONBLOCK,
        0,
        RESOLVE_IN_ROOT,
    ) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        other => other.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    let read = std::fs::File::from(crate::sys::socket::owned(opened))
        .take(LARGEST)
        .read_to_end(&mut bytes);
    read.map_err(|error| Error::io("read", shown(), &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| plain && *id != u32::MAX)
}

/// Works out `USER[:GROUP]`, each a name or a number; the user's own group, or 0, where no group is
/// said.
///
/// # Errors
/// A name that the container's files do not have; a number out of range.
pub fn find(rootfs: &Path, said: &str) -> Result<Who> {
    let (user, group) = said
        .split_once(':')
        .map_or((said, None), |(user, group)| (user, Some(group)));
    if user.is_empty() || group == Some("") {
        return Err(Error::new(format!(
            "-u {said:?}: empty; say a user, or USER:GROUP"
        )));
    }
    let passwd = text(rootfs, c"etc/passwd")?;
    let groups = text(rootfs, c"etc/group")?;
    let known = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (
            *fields.first()?,
            number(fields.get(2)?)?,
            number(fields.get(3)?)?,
        );
        (name == user || number(user) == Some(uid)).then(|| (name.to_owned(), uid, gid))
    });
    let (name, uid, own) = match (known, number(user)) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => {
            return Err(Error::new(format!(
                "-u {said:?}: there is no user {user:?} in the container's /etc/passwd"
            )));
        }
    };
    let entry = |line: &str| {
        let fields: Vec<String> = line.split(':').map(String::from).collect();
        Some((
            fields.first()?.clone(),
            number(fields.get(2)?)?,
            fields.get(3).cloned().unwrap_or_default(),
        ))
    };
    let list: Vec<(String, u32, String)> = groups.lines().filter_map(entry).collect();
    if let Some(group) = group {
        let found = list
            .iter()
            .find(|(name, gid, _)| name == group || number(group) == Some(*gid))
            .map(|(_, gid, _)| *gid);
        let gid = found.or_else(|| number(group));
        let gid = gid.ok_or_else(|| {
            Error::new(format!(
                "-u {said:?}: there is no group {group:?} in the container's /etc/group"
            ))
        })?;
        return Ok(Who {
            uid,
            gid,
            groups: Vec::new(),
        });
    }
    let member = |members: &str| {
        name.as_deref()
            .is_some_and(|name| members.split(',').any(|member| member == name))
    };
    let groups = list
        .iter()
        .filter(|(_, gid, members)| *gid != own && member(members))
        .map(|(_, gid, _)| *gid)
        .collect();
    Ok(Who {
        uid,
        gid: own,
        groups,
    })
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
    fn names_come_from_the_roots_own_files() {
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
        // An absolute link stays inside.
        std::os::unix::fs::symlink("/etc/real", root.0.join("etc/group")).unwrap();
        let who = |uid, gid, groups: &[u32]| Who {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        assert_eq!(find(&root.0, "ada").unwrap(), who(1000, 100, &[29]));
        assert_eq!(find(&root.0, "1000").unwrap(), who(1000, 100, &[29]));
        assert_eq!(find(&root.0, "ada:audio").unwrap(), who(1000, 29, &[]));
        assert_eq!(find(&root.0, "77").unwrap(), who(77, 0, &[]));
        assert_eq!(find(&root.0, "77:88").unwrap(), who(77, 88, &[]));
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
