//! Programs of the host by their names, as a shell finds them.

use std::path::{Path, PathBuf};

/// The directories of hull's own PATH; without one, those that every distribution has.
pub fn path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).collect()
}

/// The first plain file of a name in some directories.
pub fn find(
    name: impl AsRef<Path>,
    directories: impl IntoIterator<Item = PathBuf>,
) -> Option<PathBuf> {
    directories
        .into_iter()
        .map(|directory| directory.join(name.as_ref()))
        .find(|path| path.is_file())
}

/// The first plain file of a name in hull's own PATH.
pub fn in_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    find(name, path())
}

/// The same with the directories that the PATH of an ordinary user, or of a service, may lack.
pub fn in_path_or_sbin(name: impl AsRef<Path>) -> Option<PathBuf> {
    const MORE: [&str; 5] = [
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/bin",
        "/usr/bin",
    ];
    find(name, path().into_iter().chain(MORE.map(PathBuf::from)))
}
