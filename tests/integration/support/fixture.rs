//! Directories: the suite's scratch directory, a test's own below it, and root filesystems made of
//! Debian's static busybox.

use nix::mount::MsFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const BUSYBOX: &[&str] = &[
    "/usr/bin/busybox",
    "/bin/busybox",
    "/usr/lib/busybox/busybox",
];

const APPLETS: &str = "sh ash awk base64 basename cat chgrp chmod chown chroot cmp cp cut date dd \
    df diff dirname dmesg echo env expr false find \
    fold free getty grep groups halt head hexdump hostname id ifconfig ionice ip kill killall \
    less ln losetup ls md5sum mkdir \
    mkfifo mknod mktemp more mount mv nc netstat nproc nsenter od passwd pidof printf ps pwd \
    readlink realpath renice reset rm \
    rmdir route sed seq setpriv setsid sha256sum sleep sort stat stty su sync sysctl tail tar \
    taskset tee test time timeout top \
    touch tr true truncate tty umount uname uniq unlink unshare uptime usleep vi wc which whoami \
    xargs xxd yes";

/// Makes the suite's scratch directory, which ordinary users may enter, with a copy of busybox.
pub fn make_suite_scratch() -> PathBuf {
    let base =
        std::env::var_os("HULL_TEST_TMP").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let dir = base.join(format!("hull-test-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("cannot make the scratch directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let busybox = BUSYBOX
        .iter()
        .find(|p| Path::new(p).exists())
        .expect("the package busybox-static is not installed");
    fs::copy(busybox, dir.join("busybox")).expect("cannot copy busybox");
    fs::set_permissions(dir.join("busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    // The suite's own program is static: in a container it makes the system calls that no applet
    // makes.
    fs::copy(std::env::current_exe().unwrap(), dir.join("probe")).expect("cannot copy the probe");
    dir
}

/// The suite's scratch directory.
pub fn suite_scratch() -> PathBuf {
    PathBuf::from(
        std::env::var_os("HULL_TEST_SCRATCH").expect("a test runs only below the harness"),
    )
}

/// The test's own directory below it.
pub fn test_scratch() -> PathBuf {
    let dir = suite_scratch().join(std::process::id().to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A number that no other call in this process returns.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A new empty directory of the test's own, which everyone may enter.
pub fn new_dir(name: &str) -> PathBuf {
    let dir = test_scratch().join(format!("{}-{name}", unique()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Fills `root` with busybox and what a small system has: users, groups, mount points.
pub fn fill_rootfs(root: &Path) {
    for d in [
        "bin", "dev", "etc", "home/ada", "mnt", "proc", "root", "run", "sbin", "sys", "tmp",
        "usr/bin", "usr/sbin", "var",
    ] {
        fs::create_dir_all(root.join(d)).unwrap();
    }
    fs::hard_link(suite_scratch().join("busybox"), root.join("bin/busybox"))
        .expect("cannot link busybox");
    fs::hard_link(suite_scratch().join("probe"), root.join("bin/probe"))
        .expect("cannot link the probe");
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\nada:x:1000:1000::/home/ada:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwheel:x:10:ada\nada:x:1000:\naudio:x:29:ada\nnogroup:x:65534:\n").unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// Changes the owner of the directories and plain files below `root` (not of busybox, which the
/// tests share).
pub fn give_to(root: &Path, uid: u32, gid: u32) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for e in entries.flatten() {
        let Ok(meta) = e.metadata() else { continue };
        if meta.is_dir() {
            give_to(&e.path(), uid, gid);
        } else if meta.is_file() && meta.nlink() == 1 {
            chown(e.path(), Some(uid), Some(gid)).unwrap();
        }
    }
    chown(root, Some(uid), Some(gid)).unwrap();
}

/// Replaces a file that root filesystems share by hard links (busybox and the probe) by a copy.
pub fn make_private(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    fs::rename(copy, path).unwrap();
}

/// Writes an executable file.
pub fn write_executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Mounts a tmpfs. The test needs a mount namespace of its own (`users::private_mounts`).
pub fn mount_tmpfs(dir: &Path, flags: MsFlags, data: Option<&str>) {
    nix::mount::mount(Some("tmpfs"), dir, Some("tmpfs"), flags, data)
        .expect("cannot mount a tmpfs");
}
