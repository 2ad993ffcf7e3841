//! Names and paths in the form of the runtime spec.

/// The runtime spec's name of a kind of namespace (`CLONE_NEW*`).
pub fn kind_name(kind: u32) -> &'static str {
    match kind as i32 {
        libc::CLONE_NEWNS => "mount",
        libc::CLONE_NEWCGROUP => "cgroup",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "network",
        _ => "time",
    }
}

/// A path as the container sees it: absolute, without `.`, `..` and repeated slashes. (config.md
/// still allows a relative `destination`, which is relative to `/`.)
pub fn inside_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}
