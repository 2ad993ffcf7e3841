//! What criu need not do with cgroups, as it is there already.

use crate::cgroups::tree::{Tree, Version};
use crate::checkpoint::files::fields;
use std::path::Path;

/// A directory in which each hierarchy is mounted under the name that criu gives it (criu(8),
/// `--cgroup-yard`); none where there is no such one, and criu mounts them all for itself. It has
/// to wait for the kernel then: a mount of cgroup2 beside v1 hierarchies takes a lock with a grace
/// period in it (`cgroup_favor_dynmods`), while the container stands still.
pub fn yard(tree: &Tree, own: &str) -> Option<String> {
    let parent = |point: &str| point.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    let directory = parent(&tree.hierarchies.first()?.mount_point)?;
    let fits = tree.hierarchies.iter().all(|hierarchy| {
        let name = match hierarchy.version {
            Version::V1 => hierarchy
                .controllers
                .iter()
                .map(|name| name.strip_prefix("name=").unwrap_or(name))
                .collect::<Vec<_>>()
                .join(","),
            Version::V2 => "unified".to_owned(),
        };
        hierarchy.root == "/" && hierarchy.mount_point == format!("{directory}/{name}")
    });
    (fits && tree.hierarchies.len() == own.lines().count()).then_some(directory)
}

/// The same of this machine.
pub fn of_machine() -> Option<String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    yard(&Tree::probe(0, false).ok()?, &own)
}

/// `IMG_COMMON_MAGIC` and `CGROUP_MAGIC`.
const MAGIC: [u8; 8] = [0x19, 0x43, 0x56, 0x54, 0x30, 0x33, 0x38, 0x59];

/// Whether all saved processes were in one cgroup that had none below it, and in no cgroup
/// namespace: where hull makes that cgroup and criu is born in it, nothing is left for criu to do.
pub fn is_flat(images: &Path) -> bool {
    std::fs::read(images.join("cgroup.img")).is_ok_and(|image| flat(&image) == Some(true))
}

/// `cgroup_entry`: 1 the sets of cgroups that processes are in (2 their members, with 3 the length
/// of a cgroup namespace's prefix), 2 the controllers (2 their cgroups, with 2 those below).
fn flat(image: &[u8]) -> Option<bool> {
    let (length, entry) = image.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    let entry = fields(entry.get(..u32::from_le_bytes(*length) as usize)?)?;
    let inner = |number: u64, message: &[u8]| {
        fields(message).map(|all| {
            all.into_iter()
                .filter(|field| field.number == number)
                .map(|field| field.bytes.to_vec())
                .collect::<Vec<_>>()
        })
    };
    let (mut sets, mut simple) = (0, true);
    for field in &entry {
        for part in inner(2, field.bytes)? {
            match field.number {
                1 => simple &= fields(&part)?.iter().all(|field| field.number != 3),
                _ => simple &= inner(2, &part)?.is_empty(),
            }
        }
        sets += usize::from(field.number == 1);
    }
    Some(simple && sets == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yard_has_each_hierarchy_by_its_name() {
        let own = "5:cpu,cpuacct:/a\n3:name=systemd:/\n0::/\n";
        let mount = |point: &str, fstype: &str, options: &str| {
            format!(
                "32 31 0:{} / {point} rw - {fstype} x rw,{options}\n",
                point.len()
            )
        };
        let cpu = mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct");
        let systemd = mount("/sys/fs/cgroup/systemd", "cgroup", "name=systemd");
        let of = |unified: &str| {
            yard(
                &Tree::parse(
                    &format!("{cpu}{systemd}{}", mount(unified, "cgroup2", "nsdelegate")),
                    own,
                ),
                own,
            )
        };
        assert_eq!(
            of("/sys/fs/cgroup/unified").as_deref(),
            Some("/sys/fs/cgroup")
        );
        assert_eq!(of("/sys/fs/cgroup"), None);
        // One hierarchy is mounted nowhere.
        assert_eq!(yard(&Tree::parse(&systemd, own), own), None);
    }

    fn message(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn image(parts: &[Vec<u8>]) -> Vec<u8> {
        let entry = parts.concat();
        [&MAGIC[..], &(entry.len() as u32).to_le_bytes(), &entry].concat()
    }

    #[test]
    fn one_cgroup_without_others_below_is_flat() {
        let member = [message(1, b"pids"), message(2, b"/c")].concat();
        let set = message(1, &[vec![0x08, 2], message(2, &member)].concat());
        let dir = [message(1, b"c"), message(3, b"")].concat();
        let controller = |dir: &[u8]| message(2, &[message(1, b"pids"), message(2, dir)].concat());
        assert_eq!(flat(&image(&[set.clone(), controller(&dir)])), Some(true));
        let below = [dir.clone(), message(2, &message(1, b"below"))].concat();
        assert_eq!(
            flat(&image(&[set.clone(), controller(&below)])),
            Some(false)
        );
        assert_eq!(
            flat(&image(&[set.clone(), set, controller(&dir)])),
            Some(false)
        );
        let in_namespace = [member, vec![0x18, 2]].concat();
        let set = message(1, &[vec![0x08, 2], message(2, &in_namespace)].concat());
        assert_eq!(flat(&image(&[set, controller(&dir)])), Some(false));
        assert_eq!(flat(&[0; 20]), None);
    }
}
