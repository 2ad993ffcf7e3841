//! Races on names: another process exchanges a directory of the root and a link out of it all the
//! time (as in CVE-2021-30465, CVE-2024-45310, CVE-2019-14271). Nothing on the host may change, and
//! each run succeeds or ends with an error message.

use crate::support::{Bundle, fixture, leaks};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

tests![
    swapped_directory_of_a_tmpfs,
    swapped_directory_of_a_bound_directory,
    swapped_directory_of_a_bound_file,
    swapped_directory_of_a_device,
    swapped_directory_of_protected_paths,
    swapped_working_directory,
    swapped_working_directory_of_exec,
];

/// Exchanges two names until it is dropped.
pub struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapper {
    /// Begins.
    pub fn new(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let swap = move || {
            let mut swaps = 0;
            while !seen.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)
                    .expect("cannot exchange two names");
                swaps += 1;
            }
            swaps
        };
        Self {
            stop,
            thread: Some(std::thread::spawn(swap)),
        }
    }

    /// Ends; the number of exchanges.
    pub fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}

/// The time of each race: `HULL_RACE_SECONDS`. (An attacker would take a minute.)
fn time() -> Duration {
    Duration::from_secs(std::env::var("HULL_RACE_SECONDS").map_or(2, |text| {
        text.parse().expect("HULL_RACE_SECONDS is a number")
    }))
}

/// A directory of the host with a directory and a file, and its listing.
fn hosts_directory() -> (PathBuf, Vec<String>) {
    let dir = fixture::new_dir("hosts");
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "the host's").unwrap();
    let state = listing(&dir);
    (dir, state)
}

fn listing(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        lines.push(format!(
            "{} {:?} {:?}",
            entry.path().display(),
            meta.permissions(),
            meta.modified().unwrap()
        ));
        if meta.is_dir() {
            lines.extend(listing(&entry.path()));
        }
    }
    lines.sort();
    lines
}

/// Runs a bundle while `vol` in its root is a directory and a link out of the root in turns; the
/// link is absolute, then relative.
fn race(b: &mut Bundle) {
    b.writable().args(&["true"]);
    b.write();
    let (hosts, before) = hosts_directory();
    for (number, text) in [
        hosts.clone(),
        Path::new("../../../../../../../..").join(hosts.strip_prefix("/").unwrap()),
    ]
    .iter()
    .enumerate()
    {
        let (vol, evil) = (
            b.rootfs().join("vol"),
            b.rootfs().join(format!("evil{number}")),
        );
        fs::create_dir_all(vol.join("sub")).unwrap();
        fs::write(vol.join("file"), "").unwrap();
        symlink(text, &evil).unwrap();
        let mut swapper = Swapper::new(vol.clone(), evil);
        let (end, mut runs) = (Instant::now() + time() / 2, 0);
        while Instant::now() < end || runs < 3 {
            let run = b.run();
            assert!(run.status == 0 || !run.failure().is_empty());
            assert!(
                leaks::cgroups(b.cgroup.trim_start_matches('/')).is_empty(),
                "a cgroup is left"
            );
            assert_eq!(listing(&hosts), before, "the host's directory has changed");
            runs += 1;
        }
        assert!(
            swapper.end() > 100,
            "the names were exchanged too rarely for a race"
        );
        if fs::symlink_metadata(&vol).unwrap().is_symlink() {
            fs::remove_file(&vol).unwrap();
        }
    }
}

// Attack: CVE-2019-18837
fn swapped_directory_of_a_tmpfs() {
    let mut b = Bundle::new();
    b.mount("/vol/sub", "tmpfs", "tmpfs", &[]).mount(
        "/vol/new/deep",
        "tmpfs",
        "tmpfs",
        &["tmpcopyup"],
    );
    race(&mut b);
}

// Attack: CVE-2019-18837
fn swapped_directory_of_a_bound_directory() {
    let source = fixture::new_dir("source");
    let mut b = Bundle::new();
    for target in ["/vol/sub", "/vol/other/deep"] {
        b.mount(target, "bind", source.to_str().unwrap(), &["bind", "ro"]);
    }
    race(&mut b);
    assert_eq!(fs::read_dir(source).unwrap().count(), 0);
}

// Attack: CVE-2019-18837
fn swapped_directory_of_a_bound_file() {
    let source = fixture::new_dir("source").join("one");
    fs::write(&source, "bound").unwrap();
    let mut b = Bundle::new();
    for target in ["/vol/file", "/vol/third/file"] {
        b.mount(target, "bind", source.to_str().unwrap(), &["bind"]);
    }
    race(&mut b);
    assert_eq!(fs::read_to_string(source).unwrap(), "bound");
}

// Attack: CVE-2019-18837
fn swapped_directory_of_a_device() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/vol/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438 }),
    );
    b.push(
        "/linux/devices",
        json!({ "path": "/vol/dev/fifo", "type": "p" }),
    );
    race(&mut b);
}

// Attack: CVE-2019-18837
fn swapped_directory_of_protected_paths() {
    let mut b = Bundle::new();
    for (kind, path) in [
        ("maskedPaths", "/vol/file"),
        ("maskedPaths", "/vol/sub"),
        ("readonlyPaths", "/vol"),
        ("readonlyPaths", "/vol/sub"),
    ] {
        b.push(&format!("/linux/{kind}"), json!(path));
    }
    race(&mut b);
}

// Attack: CVE-2024-21626
fn swapped_working_directory() {
    let mut b = Bundle::new();
    b.set("/process/cwd", json!("/vol/work/here"));
    race(&mut b);
}

/// The link leads to a descriptor of hull's while it enters the container (CVE-2024-21626).
// Attack: CVE-2024-21626
fn swapped_working_directory_of_exec() {
    let mut b = Bundle::sleeper();
    b.writable();
    let c = b.started();
    let (vol, evil) = (b.rootfs().join("vol"), b.rootfs().join("evil"));
    fs::create_dir(&vol).unwrap();
    for descriptor in 3..9 {
        symlink(format!("/proc/self/fd/{descriptor}"), &evil).unwrap();
        let mut swapper = Swapper::new(vol.clone(), evil.clone());
        let end = Instant::now() + time() / 6;
        while Instant::now() < end {
            let out = c.exec_with(&["--cwd", "/vol"], &["readlink", "/proc/self/cwd"]);
            if out.status == 0 {
                // The directory has the other name half of the time.
                assert!(
                    ["/vol", "/evil"].contains(&out.stdout.trim()),
                    "descriptor {descriptor}: {}",
                    out.stdout
                );
            } else {
                out.failure();
            }
        }
        swapper.end();
        if fs::symlink_metadata(&vol).unwrap().is_symlink() {
            renameat_with(CWD, &vol, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
        }
        fs::remove_file(&evil).unwrap();
    }
}
