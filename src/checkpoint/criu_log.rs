//! CRIU's log: the line that tells why it failed, and what the user can do about it.

use std::path::Path;

/// The first error in the log that made CRIU fail, without time stamp and source line; the errors
/// after it are its consequences. `None` where the log has no such line or cannot be read.
pub fn first_error(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    // "FILE:LINE): MESSAGE"
    let message = |rest: &str| {
        rest.split_once("): ")
            .map_or(rest, |(_, message)| message)
            .trim()
            .to_owned()
    };
    let errors = text
        .lines()
        .filter_map(|line| line.split_once("Error (").map(|(_, rest)| message(rest)));
    let mut errors: Vec<String> = errors
        .filter(|line| !HARMLESS.iter().any(|known| line.starts_with(known)))
        .collect();
    let first = errors
        .iter()
        .position(|line| !line.starts_with(PROGRAM_FAILED))
        .unwrap_or(0);
    (first < errors.len()).then(|| errors.swap_remove(first))
}

/// Errors after which CRIU continues.
const HARMLESS: [&str; 2] = [
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    "tun: Unable to create tun",
];
/// A program that CRIU executed failed; the next error tells what it was needed for.
const PROGRAM_FAILED: &str = "exited, status=";

/// What the user can do about an error of CRIU's, where hull knows it; `version` is CRIU's, such as
/// 40201 for 4.2.1.
pub fn hint(line: &str, version: u32) -> Option<String> {
    let has = |part: &str| line.contains(part);
    let kernel = || {
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    if has("vdso")
        || has("vDSO")
        || has("VDSO")
        || has("rseq")
        || has("robust list") && version < 40_000
    {
        return Some(format!(
            "this criu is too old for kernel {}: name a newer one with --criu PATH",
            kernel()
        ));
    }
    if has("Connected TCP socket") || has("tcp-established") {
        return Some(
            "an open TCP connection is dumped with --tcp-established, or closed with --tcp-close"
                .into(),
        );
    }
    if has("External socket is used") || has("ext-unix-sk") {
        return Some(
            "a Unix socket whose peer is outside the container is allowed with --ext-unix-sk"
                .into(),
        );
    }
    if has("file-locks") || has("Some file locks are hold") {
        return Some("file locks are dumped with --file-locks".into());
    }
    if has("shell-job")
        || has("its parent pid")
        || has("leader of its session")
        || (has("Can't lookup mount") && has("path=/dev/pts/"))
    {
        return Some("a program on the caller's own terminal is dumped with --shell-job".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_that_is_not_harmless_is_found() {
        let path = std::env::temp_dir().join(format!("hull-log-{}", std::process::id()));
        std::fs::write(
            &path,
            "(00.001) Running\n(00.002) Error (criu/tty.c:12): tty: Found \
            dangling tty\n(00.003) Error (criu/cr-dump.c:9): Dumping FAILED.\n",
        )
        .unwrap();
        assert_eq!(
            first_error(&path).as_deref(),
            Some("tty: Found dangling tty")
        );
        std::fs::write(
            &path,
            "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for \
            self: no\nError (criu/util.c:657): exited, status=1\n",
        )
        .unwrap();
        assert_eq!(first_error(&path).as_deref(), Some("exited, status=1"));
        std::fs::write(
            &path,
            "Error (criu/util.c:657): exited, status=1\nError \
            (criu/filesystems.c:460): Can't restore tmpfs content\n",
        )
        .unwrap();
        assert_eq!(
            first_error(&path).as_deref(),
            Some("Can't restore tmpfs content")
        );
        std::fs::write(
            &path,
            "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for \
            self: no\n(00.001) fine\n",
        )
        .unwrap();
        assert_eq!(first_error(&path), None);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn hints_say_what_to_do() {
        assert!(
            hint(
                "inet: Connected TCP socket, consider using --tcp-established option.",
                40_201
            )
            .unwrap()
            .contains("--tcp-close")
        );
        assert!(
            hint("vdso: Can't find vdso", 31_701)
                .unwrap()
                .contains("too old")
        );
        assert!(
            hint("Can't lookup mount=29 for fd=0 path=/dev/pts/0", 40_201)
                .unwrap()
                .contains("--shell-job")
        );
        assert_eq!(hint("no space left", 40_201), None);
    }
}
