//! Images of root filesystems: EROFS, made by mkfs.erofs(1), and cached in the store under a
//! fingerprint of the directory.
//!
//! The fingerprint covers each path with its mode, owner, size, device, inode number and ctime, and
//! does not read the files: a write to a file changes its ctime, which no system call can set
//! (inode(7)).

use crate::store::Store;
use crate::sys::replace::{Lasting, Replacement};
use crate::{Context, Error, Result};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// How long an image is kept after its last use.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The path of the image of a directory, which is made if the cache does not have it.
///
/// # Errors
/// mkfs.erofs is not installed or fails; the directory changes meanwhile; the cache cannot be
/// written.
pub(crate) fn find_or_make(store: &Store, root: &Path) -> Result<PathBuf> {
    let directory = store.cache("vm")?;
    let before = fingerprint(root)?;
    let path = directory.join(format!("root-{before:016x}.erofs"));
    if let Ok(file) = fs::File::options().append(true).open(&path) {
        file.set_modified(SystemTime::now())
            .on("set the time of", path.display())?;
        return Ok(path);
    }
    let new = Replacement::new(&path, 0o644)?;
    make(new.path(), root)?;
    if fingerprint(root)? != before {
        return Err(Error::new(format!(
            "{} has changed while its image was made",
            root.display()
        )));
    }
    new.commit(Lasting::Process)?;
    remove_old(&directory);
    Ok(path)
}

fn make(image: &Path, root: &Path) -> Result<()> {
    let mut command = Command::new("mkfs.erofs");
    command
        .arg("--quiet")
        .arg(image)
        .arg(root)
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new("an image of the root filesystem needs mkfs.erofs: install erofs-utils")
        }
        _ => Error::io("run", "mkfs.erofs", &error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "mkfs.erofs of {}: {}",
        root.display(),
        message
            .lines()
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("; ")
    )))
}

/// A hash of a directory's tree.
fn fingerprint(root: &Path) -> Result<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    add(root, &mut hasher)?;
    Ok(hasher.finish())
}

fn add(path: &Path, hasher: &mut impl Hasher) -> Result<()> {
    let meta = fs::symlink_metadata(path).on("stat", path.display())?;
    path.hash(hasher);
    (
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.size(),
        meta.rdev(),
        meta.dev(),
        meta.ino(),
    )
        .hash(hasher);
    (meta.ctime(), meta.ctime_nsec()).hash(hasher);
    if meta.is_dir() {
        let mut names: Vec<PathBuf> = fs::read_dir(path)
            .on("read", path.display())?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        names.sort();
        names.iter().try_for_each(|name| add(name, hasher))?;
    }
    Ok(())
}

/// Removes images that were not used for [`MAX_AGE`]. A running VM has its image open, so that it
/// may be removed.
fn remove_old(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MAX_AGE));
        if old && entry.file_name().to_string_lossy().starts_with("root-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_changes_the_fingerprint() {
        let root = std::env::temp_dir().join(format!("hull-image-{}", std::process::id()));
        fs::create_dir_all(root.join("directory")).unwrap();
        fs::write(root.join("directory/file"), "one").unwrap();
        let mut seen = vec![fingerprint(&root).unwrap()];
        assert_eq!(fingerprint(&root).unwrap(), seen[0]);
        let mut changed = |what: &str| {
            let now = fingerprint(&root).unwrap();
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(root.join("directory/file"), "two").unwrap();
        changed("content of the same length");
        fs::set_permissions(
            root.join("directory/file"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        changed("mode");
        fs::rename(root.join("directory/file"), root.join("directory/other")).unwrap();
        changed("name");
        std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
        changed("a link");
        fs::remove_dir_all(root).unwrap();
    }
}
