//! The id maps of an unprivileged user's container: the user's own id as 0, followed by the range
//! that the host grants (subuid(5)).

use crate::spec::config::IdMapping;

/// The id maps of a user namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// The mappings of user ids.
    pub uid: Vec<IdMapping>,
    /// The mappings of group ids.
    pub gid: Vec<IdMapping>,
}

impl Maps {
    /// The maps that this user may use: with ranges if both `/etc/subuid` and `/etc/subgid` grant
    /// one and the helpers are usable, a single id otherwise.
    pub fn of_user(uid: u32, gid: u32) -> Self {
        let name = host_name_of(uid);
        let range = |file: &str| {
            std::fs::read_to_string(file)
                .ok()
                .and_then(|text| first_range(&text, name.as_deref(), uid))
        };
        // newuidmap refuses a user that has no name.
        let ranges = if name.is_some() && helpers_usable() {
            range("/etc/subuid").zip(range("/etc/subgid"))
        } else {
            None
        };
        let (uids, gids) = ranges.unzip();
        Self {
            uid: with_range(uid, uids),
            gid: with_range(gid, gids),
        }
    }

    /// Whether a user id and a group id of the container are mapped.
    pub fn has(&self, uid: u32, gid: u32) -> bool {
        let in_map = |map: &[IdMapping], id: u32| {
            map.iter()
                .any(|m| id >= m.container_id && id - m.container_id < m.size)
        };
        in_map(&self.uid, uid) && in_map(&self.gid, gid)
    }

    /// Whether a group id of the container is mapped.
    pub fn has_group(&self, gid: u32) -> bool {
        self.has(self.uid.first().map_or(0, |map| map.container_id), gid)
    }

    /// Whether only the user's own id is mapped.
    pub fn is_single(&self) -> bool {
        self.gid.len() == 1
    }
}

fn with_range(own: u32, range: Option<(u32, u32)>) -> Vec<IdMapping> {
    let alone = IdMapping {
        container_id: 0,
        host_id: own,
        size: 1,
    };
    match range {
        Some((first, count)) => vec![
            alone,
            IdMapping {
                container_id: 1,
                host_id: first,
                size: count,
            },
        ],
        None => vec![alone],
    }
}

/// The first range of a user in the text of `/etc/subuid`, by name or number: each line is
/// `name:first:count`.
fn first_range(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    let number = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let own = Some(owner) == name || owner == number;
        (own && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    })
}

fn host_name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)? == &uid.to_string()).then(|| (*fields.first().unwrap_or(&"")).to_owned())
    })
}

/// Whether newuidmap(1) and newgidmap(1) are installed and usable: they gain their privilege at
/// execve(2), which no_new_privs forbids.
fn helpers_usable() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bound = status
        .lines()
        .any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"]));
    let installed = |name: &str| crate::sys::search::in_path(name).is_some();
    !bound && installed("newuidmap") && installed("newgidmap")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let text = "bob:100000:65536\nada:165536:65536\nada:900000:5\n1001:231072:10\nbroken\n\
            zoe:4294967290:100\n";
        assert_eq!(
            first_range(text, Some("ada"), 1000),
            Some((165_536, 65_536))
        );
        assert_eq!(first_range(text, None, 1001), Some((231_072, 10)));
        assert_eq!(first_range(text, Some("eve"), 1002), None);
        assert_eq!(first_range(text, Some("zoe"), 1003), None);
    }

    #[test]
    fn the_own_id_is_root_and_ranges_follow() {
        let maps = Maps {
            uid: with_range(1000, Some((100_000, 10))),
            gid: with_range(1000, None),
        };
        assert!(maps.has(0, 0) && maps.has(10, 0));
        assert!(!maps.has(11, 0) && !maps.has(0, 1));
    }
}
