//! What a guest tries on its share, run inside as `/bin/probe --probe attack OUTSIDE`. OUTSIDE is a
//! folder of the host's that is not shared; its files begin with [`MARK`]. `/v` is a shared folder
//! in which the host exchanges a folder and a link too. Each line that is printed is a count or a
//! refusal; `leak` begins a line that should not be.

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

/// What the host's files begin with. Longer files are not looked at: this program has it in itself.
pub const MARK: &str = "of the host alone: ";
/// How long names are exchanged.
const RACE: Duration = Duration::from_secs(3);

/// All of it.
pub fn attack(outside: &str) {
    // The host's swapper has /v/theirs and /v/theirs-link.
    fs::create_dir("/v/own").unwrap();
    fs::write("/v/own/secret", "inside").unwrap();
    symlink(outside, "/v/own-link").unwrap();
    symlink(format!("../../../../../../..{outside}"), "/v/own-up").unwrap();
    race(&["/v/own", "/v/own-up", "/v/theirs"]);
    links(outside);
    renames();
    handles();
    second_mount();
}

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

/// One thread exchanges names, and this one reads and writes through them.
fn race(folders: &[&str]) {
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
            for folder in folders {
                tries += 1;
                reads += u64::from(check("a race", &Path::new(folder).join("secret")));
                if let Ok(mut file) = fs::File::options()
                    .append(true)
                    .open(Path::new(folder).join("secret"))
                {
                    let _ = file.write_all(b" and written");
                }
                let _ = fs::write(Path::new(folder).join("new"), "by the guest");
                let _ = fs::create_dir(Path::new(folder).join("folder"));
            }
        }
        done.store(true, Ordering::Relaxed);
        println!(
            "race: {tries} tries, {reads} reads, {} swaps",
            swapper.join().unwrap()
        );
    });
}

/// A hard link to what is not there, or is on another share, by name and by descriptor.
fn links(outside: &str) {
    let link = |what: &str, result: rustix::io::Result<()>| match result {
        Ok(()) => println!("leak: linked {what}"),
        Err(errno) => println!("link {what}: {errno}"),
    };
    link(
        "by name",
        linkat(
            CWD,
            format!("{outside}/secret"),
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
    // What O_PATH holds cannot be opened for writing where the share is read-only.
    match fs::File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
    {
        Ok(_) => println!("leak: a read-only share opened for writing"),
        Err(error) => println!("reopened: {error}"),
    }
}

/// Out of the shared folder.
fn renames() {
    fs::write("/v/mine", "inside").unwrap();
    for to in [
        "/v/../mine",
        "/l/mine",
        "/v/own-up/mine",
        "/v/own-link/mine",
    ] {
        match fs::rename("/v/mine", to) {
            // One of the three names that the race has left is the folder.
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

/// Handles of files that nobody has opened: each number that the server may have given out.
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
                // A folder's parents are no farther away.
                check(
                    "a handle's parent",
                    &Path::new(&path).join("../../../secret"),
                );
            }
        }
    }
    println!("handles: {opened} opened");
}

/// The whole share, by its tag, wherever it leads.
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

fn walk(folder: &Path, depth: u32) -> u64 {
    let mut seen = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
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
