//! `checkpoint --export` and `restore --import`: a checkpoint of an adhoc container in one file;
//! and `clone`: copies of a running container.

use crate::support::checkpoint::criu;
use crate::support::runtime::Output;
use crate::support::{Bundle, fixture, runtime, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

tests![
    a_file_holds_the_process_and_its_changes,
    a_damaged_file_starts_nothing,
    clones_run_beside_their_source,
    a_writable_volume_is_shared_on_request_only,
];

/// Adhoc containers (`run --rootfs`) on the root filesystem of a bundle: the source, and three ids
/// for restored containers and clones.
struct Adhoc {
    bundle: Bundle,
    ids: Vec<String>,
}

impl Adhoc {
    fn new() -> Self {
        let mut bundle = Bundle::new();
        bundle.runtime.global = vec!["--criu".into(), criu().to_str().unwrap().into()];
        fs::write(
            bundle.rootfs().join("etc/machine-id"),
            "0123456789abcdef0123456789abcdef\n",
        )
        .unwrap();
        fs::write(bundle.rootfs().join("etc/unwanted"), "x").unwrap();
        let ids = ["", "-b", "-c-1", "-c-2"]
            .iter()
            .map(|end| format!("{}{end}", bundle.id))
            .collect();
        Self { bundle, ids }
    }

    fn call(&self, args: &[&str]) -> Output {
        self.bundle.call(args)
    }

    fn run(&self, flags: &[&str]) {
        let script = "rm /etc/unwanted; mkdir /etc/new; echo kept >/etc/new/file; i=0; while \
            true; do i=$((i+1)); echo $i; echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.1; \
            done";
        let root = self.bundle.rootfs();
        let args = [
            "run",
            "--rootfs",
            root.to_str().unwrap(),
            "--name",
            &self.ids[0],
            "-d",
        ];
        self.call(&[&args[..], flags, &["--", "/bin/sh", "-c", script]].concat())
            .success();
    }

    /// The output of a script that `exec` runs.
    fn output_of(&self, id: &str, script: &str) -> String {
        self.call(&["exec", id, "/bin/sh", "-c", script])
            .success()
            .stdout
            .trim()
            .to_owned()
    }

    #[track_caller]
    fn passed(&self, id: &str, number: u64) -> u64 {
        let mut now = 0;
        until("the counter to continue", || {
            let text = self.output_of(id, "cat /tmp/count || true");
            now = text.parse().unwrap_or(0);
            now > number
        });
        now
    }

    fn exists(&self, id: &str) -> bool {
        self.call(&["state", id]).status == 0
    }

    fn file(&self) -> PathBuf {
        fixture::new_dir("export").join("file")
    }
}

impl Drop for Adhoc {
    fn drop(&mut self) {
        for id in &self.ids {
            self.call(&["delete", "--force", id]);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn a_file_holds_the_process_and_its_changes() {
    only_hull!("one file is hull's own");
    let a = Adhoc::new();
    a.run(&[]);
    let before = a.passed(&a.ids[0], 2);
    let file = a.file();
    a.call(&["checkpoint", "--export", text(&file), &a.ids[0]])
        .success();
    assert!(!a.exists(&a.ids[0]));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "a temporary file is left"
    );
    a.call(&["restore", "--detach", "--import", text(&file)])
        .success();
    let then = a.passed(&a.ids[0], before);
    assert_eq!(
        a.output_of(&a.ids[0], "cat /etc/new/file; ls /etc | tr '\\n' ' '"),
        "kept\ngroup machine-id new passwd"
    );
    assert!(
        a.bundle.rootfs().join("etc/unwanted").exists(),
        "the lower directory has changed"
    );
    until("its output in a log", || {
        a.call(&["logs", &a.ids[0]])
            .success()
            .stdout
            .lines()
            .any(|line| line.parse().is_ok_and(|n: u64| n > then))
    });
    // A checkpoint of the restored container, restored under another name.
    a.call(&["checkpoint", "--export", text(&file), &a.ids[0]])
        .success();
    a.call(&[
        "restore",
        "--detach",
        "--import",
        text(&file),
        "--name",
        &a.ids[1],
    ])
    .success();
    a.passed(&a.ids[1], then);
    assert_eq!(
        a.output_of(&a.ids[1], "hostname; cat /etc/new/file"),
        format!("{}\nkept", a.ids[1])
    );
    a.call(&["delete", "--force", &a.ids[1]]).success();
    let left: Vec<_> = fs::read_dir(a.bundle.runtime.state.join("@images"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn a_damaged_file_starts_nothing() {
    only_hull!("one file is hull's own");
    let a = Adhoc::new();
    a.run(&[]);
    let file = a.file();
    a.call(&[
        "checkpoint",
        "--leave-running",
        "--export",
        text(&file),
        &a.ids[0],
    ])
    .success();
    a.call(&["delete", "--force", &a.ids[0]]).success();
    let good = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&file, bytes).unwrap();
        assert_has!(
            a.call(&["restore", "--detach", "--import", text(&file)])
                .failure(),
            words
        );
        assert!(!a.exists(&a.ids[0]));
    };
    refused(&good[..good.len() - 7], "cut off");
    refused(&good[..30], "not a checkpoint");
    let mut changed = good.clone();
    changed[good.len() / 2] ^= 4;
    refused(&changed, "was changed");
    refused(&[b'x'; 1000], "not a checkpoint");
    refused(b"", "not a checkpoint");
    fs::write(&file, &good).unwrap();
    a.call(&["restore", "--detach", "--import", text(&file)])
        .success();
    a.passed(&a.ids[0], 0);
}

fn clones_run_beside_their_source() {
    only_hull!("clone is hull's own");
    let a = Adhoc::new();
    a.run(&[]);
    let before = a.passed(&a.ids[0], 2);
    let pid = runtime::text(a.bundle.runtime.state.join(&a.ids[0]).join("state.json"));
    let out = a
        .call(&[
            "clone",
            "--count",
            "2",
            &a.ids[0],
            &format!("{}-c", a.ids[0]),
        ])
        .success();
    assert_eq!(
        out.stdout.lines().collect::<Vec<_>>(),
        [&a.ids[2], &a.ids[3]]
    );
    assert_eq!(
        runtime::text(a.bundle.runtime.state.join(&a.ids[0]).join("state.json")),
        pid,
        "the source's record has changed"
    );
    let mut machine_ids = vec![];
    for id in [&a.ids[0], &a.ids[2], &a.ids[3]] {
        a.passed(id, before);
        let said = a.output_of(
            id,
            "hostname; cat /etc/new/file /etc/machine-id; ls /etc/unwanted 2>&1 | grep -c No",
        );
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            (lines[0], lines[1], lines[3]),
            (id.as_str(), "kept", "1"),
            "{said}"
        );
        assert_eq!(lines[2].len(), 32);
        machine_ids.push(lines[2].to_owned());
    }
    assert_eq!(machine_ids[0], "0123456789abcdef0123456789abcdef");
    machine_ids.dedup();
    assert_eq!(machine_ids.len(), 3);
    // A clone's changes do not reach the others.
    a.output_of(&a.ids[2], "echo other >/etc/new/file");
    assert_eq!(a.output_of(&a.ids[0], "cat /etc/new/file"), "kept");
    assert_has!(
        a.call(&["clone", &a.ids[0], &a.ids[2]]).failure(),
        "already exists"
    );
}

fn a_writable_volume_is_shared_on_request_only() {
    only_hull!("clone is hull's own");
    let a = Adhoc::new();
    let data = fixture::new_dir("data");
    a.run(&["-v", &format!("{}:/data", data.display())]);
    a.passed(&a.ids[0], 0);
    let said = a.call(&["clone", &a.ids[0], &a.ids[1]]).failure();
    assert_has!(said, "writable volume /data");
    assert!(!a.exists(&a.ids[1]));
    a.call(&["clone", "--share-volumes", &a.ids[0], &a.ids[1]])
        .success();
    a.output_of(&a.ids[1], "echo from the copy >/data/file");
    assert_eq!(runtime::text(data.join("file")), "from the copy\n");
}
