//! criu's log: the line that says why, and what to do about it.

use std::path::Path;

/// The first line that criu marks as an error and that decides something, without its time stamp:
/// what follows are its consequences. None in a log without one.
pub fn decisive(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    // "file.c:line): what happened"
    let words = |rest: &str| {
        rest.split_once("): ")
            .map_or(rest, |(_, words)| words)
            .trim()
            .to_owned()
    };
    let errors = text
        .lines()
        .filter_map(|line| line.split_once("Error (").map(|(_, rest)| words(rest)));
    let mut errors: Vec<String> = errors
        .filter(|line| !HARMLESS.iter().any(|known| line.starts_with(known)))
        .collect();
    let first = errors
        .iter()
        .position(|line| !line.starts_with(OF_A_PROGRAM))
        .unwrap_or(0);
    (first < errors.len()).then(|| errors.swap_remove(first))
}

/// Lines that criu prints as errors and after which it goes on.
const HARMLESS: [&str; 2] = [
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    "tun: Unable to create tun",
];
/// A program that criu ran has failed; what it was for stands in the next line.
const OF_A_PROGRAM: &str = "exited, status=";

/// What to do, where the line tells it.
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
            "an open TCP connection is saved with --tcp-established, or closed with --tcp-close"
                .into(),
        );
    }
    if has("External socket is used") || has("ext-unix-sk") {
        return Some("a Unix socket to somebody outside is allowed with --ext-unix-sk".into());
    }
    if has("file-locks") || has("Some file locks are hold") {
        return Some("held file locks are saved with --file-locks".into());
    }
    if has("shell-job")
        || has("its parent pid")
        || has("leader of its session")
        || (has("Can't lookup mount") && has("path=/dev/pts/"))
    {
        return Some("a program on the caller's own terminal is saved with --shell-job".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_the_decisive_line() {
        let path = std::env::temp_dir().join(format!("hull-log-{}", std::process::id()));
        std::fs::write(
            &path,
            "(00.001) Running\n(00.002) Error (criu/tty.c:12): tty: Found \
            dangling tty\n(00.003) Error (criu/cr-dump.c:9): Dumping FAILED.\n",
        )
        .unwrap();
        assert_eq!(decisive(&path).as_deref(), Some("tty: Found dangling tty"));
        std::fs::write(
            &path,
            "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for \
            self: no\nError (criu/util.c:657): exited, status=1\n",
        )
        .unwrap();
        assert_eq!(decisive(&path).as_deref(), Some("exited, status=1"));
        std::fs::write(
            &path,
            "Error (criu/util.c:657): exited, status=1\nError \
            (criu/filesystems.c:460): Can't restore tmpfs content\n",
        )
        .unwrap();
        assert_eq!(
            decisive(&path).as_deref(),
            Some("Can't restore tmpfs content")
        );
        std::fs::write(
            &path,
            "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for \
            self: no\n(00.001) fine\n",
        )
        .unwrap();
        assert_eq!(decisive(&path), None);
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
