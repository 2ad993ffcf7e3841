//! What tmpfs mounts hold, over a checkpoint.

use crate::checkpoint_world::{Saved, bundle, guard, started, with_runc};
use crate::support::{Bundle, runtime, until};
use serde_json::json;
use std::fs;

tests![
    what_is_in_memory_comes_back,
    a_true_tars_images_are_brought_back
];

/// Fills two of them: one with a bit of all that there is, the other with what is large and what
/// has several names.
const FILL: &str = "umask 022; cd /small; mkdir -p dir/below empty; echo text >dir/file; chown \
    12:34 dir/file; chmod 4750 dir/file; \
    ln -s ../nowhere dir/link; mkfifo -m 620 fifo; touch -d '2001-02-03 04:05:06' \
    dir/below/$(printf '%0130d' 7) dir/below; chown 5:6 empty; chmod 1701 empty dir; \
    cd /large; dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\\0' x >big; echo two >one; ln one \
    two; : >/tmp/filled; while true; do sleep 1; done";

/// All of both, and the devices, as `stat` has it, with the sums of the files' contents.
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

/// Whether an image's data are stored in gzip's frame, and not compressed: by the first block's
/// kind (RFC 1951, 3.2.3).
fn stored(saved: &Saved) -> Vec<bool> {
    let images = fs::read_dir(&saved.images)
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

fn what_is_in_memory_comes_back() {
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
        let saved = Saved::round(&b, &[], &[]);
        assert_eq!(list(), before);
        if runtime::drives_hull() {
            let stored = stored(&saved);
            assert_eq!(
                stored.iter().filter(|stored| !**stored).count(),
                1,
                "the large one alone is the true tar's: {stored:?}"
            );
        }
    }
    assert!(!b.runtime.state.join(&b.id).join("criu-path").exists());
}

/// runc's images are by tar and gzip; and hull's are for them.
fn a_true_tars_images_are_brought_back() {
    let b = filled();
    let runc = with_runc(&b);
    let c = started(&runc);
    until("the files", || b.rootfs().join("tmp/filled").exists());
    let before = c.exec(&["sh", "-c", LIST]).success().stdout;
    let saved = Saved::new();
    saved.dumped(&runc, &[]);
    assert!(!stored(&saved).contains(&true));
    drop(c);
    let c = guard(&b);
    saved.restore(&b, &[]).success();
    assert_eq!(c.exec(&["sh", "-c", LIST]).success().stdout, before);
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    drop(c);
    let c = guard(&runc);
    saved.restore(&runc, &[]).success();
    assert_eq!(c.exec(&["sh", "-c", LIST]).success().stdout, before);
}
