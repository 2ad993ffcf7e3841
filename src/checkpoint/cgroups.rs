//! What CRIU need not do for cgroups because the host or hull has done it already.

use crate::cgroups::tree::{Tree, Version};
use crate::checkpoint::proto::cgroup::CgroupEntry;
use prost::Message;
use std::path::Path;

/// The host's cgroup yard (criu(8), `--cgroup-yard`): a directory in which each hierarchy is
/// mounted under the name that CRIU expects. `own` is the text of `/proc/self/cgroup`.
///
/// Without one CRIU mounts all hierarchies itself, and waits for the kernel while the container is
/// frozen: a mount of cgroup2 beside v1 hierarchies takes a lock that waits for an RCU grace period
/// (`cgroup_favor_dynmods`).
fn cgroup_yard(tree: &Tree, own: &str) -> Option<String> {
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

/// The cgroup yard of this host, if it has one.
pub fn host_cgroup_yard() -> Option<String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    cgroup_yard(&Tree::probe(0, false).ok()?, &own)
}

/// `IMG_COMMON_MAGIC` and `CGROUP_MAGIC`.
const MAGIC: [u8; 8] = [0x19, 0x43, 0x56, 0x54, 0x30, 0x33, 0x38, 0x59];

/// Whether all dumped processes were in one cgroup that had none below it, and in no cgroup
/// namespace: where hull creates that cgroup and starts CRIU in it, CRIU has nothing to restore.
pub fn is_flat(images: &Path) -> bool {
    std::fs::read(images.join("cgroup.img")).is_ok_and(|image| flat(&image) == Some(true))
}

/// [`is_flat`] of the bytes of `cgroup.img`: two magic numbers, the length of the message, and the
/// message. `None` where they are something else.
fn flat(image: &[u8]) -> Option<bool> {
    let (length, message) = image.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    let message = message.get(..u32::from_le_bytes(*length) as usize)?;
    let entry = CgroupEntry::decode(message).ok()?;
    let one_set = entry.sets.len() == 1;
    let mut members = entry.sets.iter().flat_map(|set| &set.ctls);
    let mut dirs = entry.controllers.iter().flat_map(|all| &all.dirs);
    Some(
        one_set
            && members.all(|member| member.cgns_prefix.is_none())
            && dirs.all(|dir| dir.children.is_empty()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_yard_has_each_hierarchy_by_its_name() {
        let own = "5:cpu,cpuacct:/a\n3:name=systemd:/\n0::/\n";
        let mount = |point: &str, fstype: &str, options: &str| {
            format!(
                "32 31 0:{} / {point} rw - {fstype} x rw,{options}\n",
                point.len()
            )
        };
        let cpu = mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct");
        let systemd = mount("/sys/fs/cgroup/systemd", "cgroup", "name=systemd");
        let tree = |text: &str| Tree::of(&crate::sys::mountinfo::parse(text.as_bytes()), own);
        let of = |unified: &str| {
            let text = format!("{cpu}{systemd}{}", mount(unified, "cgroup2", "nsdelegate"));
            cgroup_yard(&tree(&text), own)
        };
        assert_eq!(
            of("/sys/fs/cgroup/unified").as_deref(),
            Some("/sys/fs/cgroup")
        );
        assert_eq!(of("/sys/fs/cgroup"), None);
        // One hierarchy is mounted nowhere.
        assert_eq!(cgroup_yard(&tree(&systemd), own), None);
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
