//! An image of the root file system: EROFS, made by mkfs.erofs(1), and kept in the store by what it
//! holds.
//!
//! What a directory holds is told without reading its files: every name with its mode, owner, size,
//! inode number and time of change, which no user can set (inode(7), ctime). A file that is written
//! to has another.

use crate::store::Store;
use crate::sys::replace::{Lasting, Replacement};
use crate::{Context, Error, Result};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// How long an image that nobody boots is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The image of a directory, out of the store or made now.
///
/// # Errors
/// mkfs.erofs is not installed, or fails; the directory changes meanwhile.
pub fn find_or_make(store: &Store, root: &Path) -> Result<PathBuf> {
    let directory = store.cache("vm")?;
    let before = fingerprint(root)?;
    let path = directory.join(format!("root-{before:016x}.erofs"));
    if let Ok(file) = fs::File::options().append(true).open(&path) {
        file.set_modified(SystemTime::now())
            .on("mark", path.display())?;
        return Ok(path);
    }
    let new = Replacement::new(&path, 0o644)?;
    make(new.path(), root)?;
    if fingerprint(root)? != before {
        return Err(Error::new(format!(
            "{} changes while its image is made",
            root.display()
        )));
    }
    new.commit(Lasting::Process)?;
    forget_old(&directory);
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
            Error::new("an image of the root file system needs mkfs.erofs: install erofs-utils")
        }
        _ => Error::io("run", "mkfs.erofs", &error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "mkfs.erofs of {}: {}",
        root.display(),
        said.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    )))
}

/// What a directory holds, as a number.
fn fingerprint(root: &Path) -> Result<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    add(root, &mut hasher)?;
    Ok(hasher.finish())
}

fn add(path: &Path, hasher: &mut impl Hasher) -> Result<()> {
    let meta = fs::symlink_metadata(path).on("look at", path.display())?;
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

/// A machine that runs holds its image open: it may be removed.
fn forget_old(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT));
        if old && entry.file_name().to_string_lossy().starts_with("root-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_kind_is_another_image() {
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
