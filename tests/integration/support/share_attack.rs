//! Attacks on a guest's share, run in the guest as `/bin/probe --probe attack DIRECTORY`. DIRECTORY
//! is one of the host that is not shared; its files begin with [`MARK`]. `/v` is a shared
//! directory, in which the host exchanges a directory and a link meanwhile; `/l` is shared
//! read-only. Each line of the output is a count or an error; a line that begins with `leak` is an
//! attack that succeeded.

use super::raw;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The beginning of the host's files. (This program contains it too: the attacks read short files
/// only.)
pub const MARK: &str = "of the host alone: ";
/// How long the race lasts.
const RACE: Duration = Duration::from_secs(3);

/// Runs all attacks.
pub fn attack(unshared: &str) {
    // The host exchanges /v/theirs and /v/theirs-link.
    fs::create_dir("/v/own").unwrap();
    fs::write("/v/own/secret", "of the guest").unwrap();
    symlink(unshared, "/v/own-link").unwrap();
    symlink(format!("../../../../../../..{unshared}"), "/v/own-up").unwrap();
    race(&["/v/own", "/v/own-up", "/v/theirs"]);
    links(unshared);
    renames();
    handles();
    second_mount();
}

/// Whether a file can be read; prints a leak where it is the host's.
fn check(what: &str, path: &Path) -> bool {
    let short = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() < 4096);
    let Some(text) = short.then(|| fs::read(path).ok()).flatten() else {
        return false;
    };
    if text.starts_with(MARK.as_bytes()) {
        println!("leak: {what} read {}", path.display());
    }
    true
}

/// One thread exchanges names, and this one reads and writes by them.
fn race(directories: &[&str]) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !done.load(Ordering::Relaxed) {
                for link in ["/v/own-link", "/v/own-up"] {
                    swaps += u64::from(
                        renameat_with(CWD, "/v/own", CWD, link, RenameFlags::EXCHANGE).is_ok(),
                    );
                }
            }
            swaps
        });
        let (mut reads, mut tries, end) = (0_u64, 0_u64, Instant::now() + RACE);
        while Instant::now() < end || reads == 0 {
            for directory in directories {
                let directory = Path::new(directory);
                tries += 1;
                reads += u64::from(check("a race", &directory.join("secret")));
                if let Ok(mut file) = fs::File::options()
                    .append(true)
                    .open(directory.join("secret"))
                {
                    let _ = file.write_all(b" and written");
                }
                let _ = fs::write(directory.join("new"), "by the guest");
                let _ = fs::create_dir(directory.join("directory"));
            }
        }
        done.store(true, Ordering::Relaxed);
        println!(
            "race: {tries} tries, {reads} reads, {} swaps",
            swapper.join().unwrap()
        );
    });
}

/// Hard links to what is not shared or is on another share, by name and by descriptor.
fn links(unshared: &str) {
    let link = |what: &str, result: rustix::io::Result<()>| match result {
        Ok(()) => println!("leak: linked {what}"),
        Err(errno) => println!("link {what}: {errno}"),
    };
    link(
        "by name",
        linkat(
            CWD,
            format!("{unshared}/secret"),
            CWD,
            "/v/linked",
            AtFlags::empty(),
        ),
    );
    link(
        "by a link",
        linkat(
            CWD,
            "/v/their-file-link",
            CWD,
            "/v/linked",
            AtFlags::SYMLINK_FOLLOW,
        ),
    );
    let held = openat(CWD, "/l/file", OFlags::PATH, Mode::empty()).unwrap();
    link(
        "of another share",
        linkat(&held, "", CWD, "/v/linked", AtFlags::EMPTY_PATH),
    );
    link(
        "by /proc",
        linkat(
            CWD,
            format!("/proc/self/fd/{}", held.as_raw_fd()),
            CWD,
            "/v/linked",
            AtFlags::SYMLINK_FOLLOW,
        ),
    );
    // A descriptor of O_PATH must not open for writing on a read-only share.
    match fs::File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
    {
        Ok(_) => println!("leak: a read-only share opened for writing"),
        Err(error) => println!("reopened: {error}"),
    }
}

/// Renames out of the shared directory.
fn renames() {
    fs::write("/v/mine", "of the guest").unwrap();
    for to in [
        "/v/../mine",
        "/l/mine",
        "/v/own-up/mine",
        "/v/own-link/mine",
    ] {
        match fs::rename("/v/mine", to) {
            // One of the three names that the race has left is the directory.
            Ok(())
                if fs::rename(to, "/v/mine").is_ok()
                    && fs::symlink_metadata(Path::new(to).parent().unwrap())
                        .unwrap()
                        .is_dir() =>
            {
                println!("rename to {to}: in the share")
            }
            Ok(()) => println!("leak: renamed to {to}"),
            Err(error) => println!("rename to {to}: {error}"),
        }
    }
}

/// Handles of files that nobody has opened: each number that the share server may have given.
fn handles() {
    let place = openat(CWD, "/v", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let Ok((kind, bytes)) = raw::name_to_handle("/v/mine") else {
        println!("handles: none are given");
        return;
    };
    let mut opened = 0;
    for number in 0..256_u32 {
        for generation in 0..2_u32 {
            let mut forged = bytes.clone();
            for (at, value) in [0, number, generation].iter().enumerate() {
                if let Some(place) = forged.get_mut(at * 4..at * 4 + 4) {
                    place.copy_from_slice(&value.to_ne_bytes());
                }
            }
            if let Ok(held) = raw::open_by_handle(place.as_fd(), kind, &forged) {
                opened += 1;
                let path = format!("/proc/self/fd/{}", held.as_raw_fd());
                check("a handle", Path::new(&path));
                // A handle of a directory would reach its parents as well.
                check(
                    "a handle's parent",
                    &Path::new(&path).join("../../../secret"),
                );
            }
        }
    }
    println!("handles: {opened} opened");
}

/// A second mount of the share by its tag, and the files that it shows.
fn second_mount() {
    fs::create_dir_all("/mnt2").unwrap();
    if let Err(errno) = mount("hull", "/mnt2", "virtiofs", MountFlags::empty(), None) {
        println!("second mount: {errno}");
        return;
    }
    let mut seen = 0;
    for start in ["/mnt2", "/mnt2/..", "/mnt2/../../.."] {
        seen += walk(Path::new(start), 0);
    }
    println!("second mount: {seen} files seen");
}

fn walk(directory: &Path, depth: u32) -> u64 {
    let mut seen = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kernels = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|name| path.ends_with(name.trim_start_matches('/')));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 6 && !kernels => seen += walk(&path, depth + 1),
            Ok(kind) if kind.is_file() => seen += u64::from(check("a second mount", &path)),
            _ => {}
        }
    }
    seen
}
