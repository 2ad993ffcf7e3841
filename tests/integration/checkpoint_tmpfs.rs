//! The contents of tmpfs mounts in a checkpoint: every kind of file is restored, and runc reads
//! hull's images of them as hull reads runc's.

use crate::support::checkpoint::{Checkpoint, bundle, started, with_runc};
use crate::support::{Bundle, Container, runtime, until};
use serde_json::json;
use std::fs;

tests![
    tmpfs_contents_are_restored,
    images_of_tar_are_exchanged_with_runc
];

/// Fills two tmpfs mounts: one with a file of each kind, the other with a large file and a file
/// with several names.
const FILL: &str = "umask 022; cd /small; mkdir -p dir/below empty; echo text >dir/file; chown \
    12:34 dir/file; chmod 4750 dir/file; \
    ln -s ../nowhere dir/link; mkfifo -m 620 fifo; touch -d '2001-02-03 04:05:06' \
    dir/below/$(printf '%0130d' 7) dir/below; chown 5:6 empty; chmod 1701 empty dir; \
    cd /large; dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\\0' x >big; echo two >one; ln one \
    two; : >/tmp/filled; while true; do sleep 1; done";

/// Lists both, and the devices, with `stat` and the checksums of the files.
const LIST: &str = "{ find /small /large ! -type s; find /dev -maxdepth 1 ! -type d; } | sort \
    >/tmp/list; while read f; do stat -c '%N %f %u %g %t %T %h %Y' $f; done </tmp/list; find \
    /small /large -type f -exec md5sum {} + | sort";

fn filled() -> Bundle {
    let mut b = bundle(FILL);
    for name in ["/small", "/large"] {
        b.mount(name, "tmpfs", "tmpfs", &["mode=0711", "size=16m"]);
    }
    for name in ["CAP_CHOWN", "CAP_FSETID", "CAP_FOWNER"] {
        for set in ["bounding", "effective", "permitted"] {
            b.push(&format!("/process/capabilities/{set}"), json!(name));
        }
    }
    b
}

/// Of each image of a tmpfs, whether its gzip stream holds the data uncompressed: by the type of
/// the first block (RFC 1951, 3.2.3).
fn stored(checkpoint: &Checkpoint) -> Vec<bool> {
    let images = fs::read_dir(&checkpoint.images)
        .unwrap()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("tmpfs-dev-")
        });
    let all: Vec<bool> = images
        .map(|entry| fs::read(entry.path()).unwrap()[10] >> 1 & 3 == 0)
        .collect();
    assert!(all.len() > 3, "{all:?}");
    all
}

fn tmpfs_contents_are_restored() {
    let b = filled();
    let c = started(&b);
    until("the files", || b.rootfs().join("tmp/filled").exists());
    let list = || c.exec(&["sh", "-c", LIST]).success().stdout;
    let before = list();
    for part in [
        "/small/dir/file 89e8 12 34 ",
        "0000007 ",
        "/small/fifo 1190 ",
        "/large/two ",
        "/dev/null 21b6 0 0 1 3 ",
    ] {
        assert!(before.contains(part), "{part} in\n{before}");
    }
    for _ in 0..2 {
        let checkpoint = Checkpoint::round(&b, &[], &[]);
        assert_eq!(list(), before);
        if runtime::drives_hull() {
            let stored = stored(&checkpoint);
            assert_eq!(
                stored.iter().filter(|stored| !**stored).count(),
                1,
                "tar has written the large one only: {stored:?}"
            );
        }
    }
    assert!(!b.runtime.state.join(&b.id).join("criu-path").exists());
}

/// tar and gzip write the images of runc's criu; they must be able to read hull's.
fn images_of_tar_are_exchanged_with_runc() {
    let b = filled();
    let runc = with_runc(&b);
    let c = started(&runc);
    until("the files", || b.rootfs().join("tmp/filled").exists());
    let before = c.exec(&["sh", "-c", LIST]).success().stdout;
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&runc, &[]);
    assert!(!stored(&checkpoint).contains(&true));
    drop(c);
    let c = Container::new(&b);
    checkpoint.restored(&b, &[]);
    assert_eq!(c.exec(&["sh", "-c", LIST]).success().stdout, before);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    drop(c);
    let c = Container::new(&runc);
    checkpoint.restored(&runc, &[]);
    assert_eq!(c.exec(&["sh", "-c", LIST]).success().stdout, before);
}
