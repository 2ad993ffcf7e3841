//! Detached containers of people: their output is kept, shown, and gone with them.

use crate::support::fixture::{fill_rootfs, new_dir};
use crate::support::runtime::{Output, Runtime, text, until};
use std::fs;
use std::path::PathBuf;

tests![
    output_is_kept_and_shown,
    following_ends_with_the_container,
    the_caller_is_not_held,
    nothing_of_the_keeper_reaches_the_container,
    a_terminals_output_is_kept,
    a_log_is_capped,
    with_rm_nothing_stays,
    a_failed_start_leaves_nothing,
    others_have_no_log,
];

struct Place {
    runtime: Runtime,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        only_hull!("runc keeps no logs");
        let root = new_dir("root");
        fill_rootfs(&root);
        Self {
            runtime: Runtime::new(new_dir("state")),
            root,
        }
    }

    fn detached(&self, id: &str, options: &[&str], script: &str) -> Output {
        let root = self.root.to_str().unwrap();
        self.runtime.call(
            &[
                &["run", "-d", "--name", id, "--rootfs", root],
                options,
                &["--", "sh", "-c", script],
            ]
            .concat(),
        )
    }

    fn stopped(&self, id: &str) {
        until("the end of the container", || {
            self.runtime.call(&["state", id]).stdout.contains("stopped")
        });
    }

    fn delete(&self, id: &str) {
        self.runtime.call(&["delete", "--force", id]).success();
        assert!(!self.runtime.state.join(id).exists());
    }
}

fn output_is_kept_and_shown() {
    let place = Place::new();
    let started = place
        .detached(
            "people-log",
            &[],
            "echo two >&2; sleep 0.5; echo one; echo three; printf end; exit 3",
        )
        .success();
    assert_eq!(started.stdout, "people-log\n");
    place.stopped("people-log");
    let shown = place.runtime.call(&["logs", "-f", "people-log"]).success();
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        ("one\nthree\nend", "two\n")
    );
    assert_eq!(
        place
            .runtime
            .call(&["logs", "--tail", "1", "people-log"])
            .success()
            .stdout,
        "end"
    );
    let timed = place
        .runtime
        .call(&["logs", "-t", "people-log"])
        .success()
        .stdout;
    let year = text("/proc/driver/rtc").lines().find_map(|line| {
        line.strip_prefix("rtc_date\t: ")
            .map(|date| date[..4].to_owned())
    });
    let first = timed.lines().next().unwrap();
    assert!(
        first.ends_with("Z one") && year.is_none_or(|year| first.starts_with(&year)),
        "{first}"
    );
    assert_has!(place.runtime.call(&["list"]).success().stdout, "stopped");
    for bad in ["x", "-1", "1.5"] {
        assert!(
            place
                .runtime
                .call(&["logs", &format!("--tail={bad}"), "people-log"])
                .failure()
                .contains("number of lines")
        );
    }
    place.delete("people-log");
}

fn following_ends_with_the_container() {
    let place = Place::new();
    place
        .detached(
            "people-follow",
            &[],
            "for n in 1 2 3 4; do echo line $n; sleep 0.3; done",
        )
        .success();
    let shown = place
        .runtime
        .call(&["logs", "-f", "people-follow"])
        .success();
    assert_eq!(shown.stdout, "line 1\nline 2\nline 3\nline 4\n");
    place.delete("people-follow");
}

/// `call` reads its pipes to their end: whoever held them would hold it for the time of the sleep,
/// past its limit.
fn the_caller_is_not_held() {
    let place = Place::new();
    place.detached("people-held", &[], "sleep 1000").success();
    let lock = text(place.runtime.state.join("people-held/log.lock"));
    assert_eq!(lock, "");
    place.delete("people-held");
}

fn nothing_of_the_keeper_reaches_the_container() {
    let place = Place::new();
    place
        .detached("people-fds", &[], "ls -l /proc/self/fd; ls /proc")
        .success();
    let shown = place
        .runtime
        .call(&["logs", "-f", "people-fds"])
        .success()
        .stdout;
    let descriptors: Vec<&str> = shown
        .lines()
        .skip(1)
        .take_while(|line| line.len() > 20)
        .collect();
    // 3 is the folder that ls itself has open.
    assert_eq!(descriptors.len(), 4, "{shown}");
    assert!(descriptors[3].contains(" 3"), "{shown}");
    assert!(
        descriptors[0].contains("/dev/null")
            && descriptors[1].contains("pipe:")
            && descriptors[2].contains("pipe:"),
        "{shown}"
    );
    place.delete("people-fds");
}

fn a_terminals_output_is_kept() {
    let place = Place::new();
    place
        .detached("people-tty", &["-t"], "tty; echo said")
        .success();
    assert_eq!(
        place
            .runtime
            .call(&["logs", "-f", "people-tty"])
            .success()
            .stdout,
        "/dev/pts/0\r\nsaid\r\n"
    );
    place.delete("people-tty");
}

fn a_log_is_capped() {
    let place = Place::new();
    place.detached("people-big", &[], "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -n 600000; echo last").success();
    place.stopped("people-big");
    assert_eq!(
        place
            .runtime
            .call(&["logs", "-f", "--tail", "1", "people-big"])
            .success()
            .stdout,
        "last\n"
    );
    let folder = place.runtime.state.join("people-big");
    let size = |name: &str| fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
    assert!(
        size("log.1") > 0 && size("log") <= 16 << 20 && size("log.1") <= 16 << 20,
        "{} {}",
        size("log"),
        size("log.1")
    );
    place.delete("people-big");
}

fn with_rm_nothing_stays() {
    let place = Place::new();
    place
        .detached("people-rm", &["--rm"], "echo gone")
        .success();
    until("the container to be removed", || {
        !place.runtime.state.join("people-rm").exists()
    });
}

fn a_failed_start_leaves_nothing() {
    let place = Place::new();
    let root = place.root.to_str().unwrap();
    let out = place.runtime.call(&[
        "run",
        "-d",
        "--name",
        "people-none",
        "--rootfs",
        root,
        "--",
        "no-such-program",
    ]);
    assert_eq!((out.status, out.stdout.as_str()), (127, ""));
    assert_has!(out.failure(), "executable file not found");
    assert!(!place.runtime.state.join("people-none").exists());
}

fn others_have_no_log() {
    let place = Place::new();
    assert_has!(
        place.runtime.call(&["logs", "people-nobody"]).failure(),
        "does not exist"
    );
    let bundle = crate::support::bundle::Bundle::sleeper();
    let container = bundle.started();
    assert_has!(container.call(&["logs"]).failure(), "has no log");
}
