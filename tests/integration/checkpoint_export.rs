//! A checkpoint in one file, and copies of a running container.

use crate::checkpoint_world::criu;
use crate::support::runtime::Output;
use crate::support::{Bundle, fixture, runtime, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

tests![
    a_file_holds_the_program_and_what_it_changed,
    a_bad_file_starts_nothing,
    copies_run_beside_their_source,
    a_writable_volume_is_not_shared_unasked,
];

/// A folder and containers on it, made as a person makes them.
struct People {
    bundle: Bundle,
    ids: Vec<String>,
}

impl People {
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

    fn says(&self, id: &str, script: &str) -> String {
        self.call(&["exec", id, "/bin/sh", "-c", script])
            .success()
            .stdout
            .trim()
            .to_owned()
    }

    #[track_caller]
    fn passed(&self, id: &str, number: u64) -> u64 {
        let mut now = 0;
        until("the counter to go on", || {
            now = self.says(id, "cat /tmp/count || true").parse().unwrap_or(0);
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

impl Drop for People {
    fn drop(&mut self) {
        for id in &self.ids {
            self.call(&["delete", "--force", id]);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn a_file_holds_the_program_and_what_it_changed() {
    only_hull!("one file is hull's own");
    let p = People::new();
    p.run(&[]);
    let before = p.passed(&p.ids[0], 2);
    let file = p.file();
    p.call(&["checkpoint", "--export", text(&file), &p.ids[0]])
        .success();
    assert!(!p.exists(&p.ids[0]));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "nothing half-written beside it"
    );
    p.call(&["restore", "--detach", "--import", text(&file)])
        .success();
    let then = p.passed(&p.ids[0], before);
    assert_eq!(
        p.says(&p.ids[0], "cat /etc/new/file; ls /etc | tr '\\n' ' '"),
        "kept\ngroup machine-id new passwd"
    );
    assert!(
        p.bundle.rootfs().join("etc/unwanted").exists(),
        "the folder below is untouched"
    );
    until("its output in a log", || {
        p.call(&["logs", &p.ids[0]])
            .success()
            .stdout
            .lines()
            .any(|line| line.parse().is_ok_and(|n: u64| n > then))
    });
    // Once more, from the restored one, under another name.
    p.call(&["checkpoint", "--export", text(&file), &p.ids[0]])
        .success();
    p.call(&[
        "restore",
        "--detach",
        "--import",
        text(&file),
        "--name",
        &p.ids[1],
    ])
    .success();
    p.passed(&p.ids[1], then);
    assert_eq!(
        p.says(&p.ids[1], "hostname; cat /etc/new/file"),
        format!("{}\nkept", p.ids[1])
    );
    p.call(&["delete", "--force", &p.ids[1]]).success();
    let left: Vec<_> = fs::read_dir(p.bundle.runtime.state.join("@images"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn a_bad_file_starts_nothing() {
    only_hull!("one file is hull's own");
    let p = People::new();
    p.run(&[]);
    let file = p.file();
    p.call(&[
        "checkpoint",
        "--leave-running",
        "--export",
        text(&file),
        &p.ids[0],
    ])
    .success();
    p.call(&["delete", "--force", &p.ids[0]]).success();
    let good = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&file, bytes).unwrap();
        assert_has!(
            p.call(&["restore", "--detach", "--import", text(&file)])
                .failure(),
            words
        );
        assert!(!p.exists(&p.ids[0]));
    };
    refused(&good[..good.len() - 7], "cut off");
    refused(&good[..30], "no checkpoint");
    let mut changed = good.clone();
    changed[good.len() / 2] ^= 4;
    refused(&changed, "was changed");
    refused(&[b'x'; 1000], "no checkpoint");
    refused(b"", "no checkpoint");
    fs::write(&file, &good).unwrap();
    p.call(&["restore", "--detach", "--import", text(&file)])
        .success();
    p.passed(&p.ids[0], 0);
}

fn copies_run_beside_their_source() {
    only_hull!("clone is hull's own");
    let p = People::new();
    p.run(&[]);
    let before = p.passed(&p.ids[0], 2);
    let pid = runtime::text(p.bundle.runtime.state.join(&p.ids[0]).join("state.json"));
    let out = p
        .call(&[
            "clone",
            "--count",
            "2",
            &p.ids[0],
            &format!("{}-c", p.ids[0]),
        ])
        .success();
    assert_eq!(
        out.stdout.lines().collect::<Vec<_>>(),
        [&p.ids[2], &p.ids[3]]
    );
    assert_eq!(
        runtime::text(p.bundle.runtime.state.join(&p.ids[0]).join("state.json")),
        pid,
        "the source is as it was"
    );
    let mut machines = vec![];
    for id in [&p.ids[0], &p.ids[2], &p.ids[3]] {
        p.passed(id, before);
        let said = p.says(
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
        machines.push(lines[2].to_owned());
    }
    assert_eq!(machines[0], "0123456789abcdef0123456789abcdef");
    machines.dedup();
    assert_eq!(machines.len(), 3);
    // What one changes the others do not see.
    p.says(&p.ids[2], "echo other >/etc/new/file");
    assert_eq!(p.says(&p.ids[0], "cat /etc/new/file"), "kept");
    assert_has!(
        p.call(&["clone", &p.ids[0], &p.ids[2]]).failure(),
        "already exists"
    );
}

fn a_writable_volume_is_not_shared_unasked() {
    only_hull!("clone is hull's own");
    let p = People::new();
    let data = fixture::new_dir("data");
    p.run(&["-v", &format!("{}:/data", data.display())]);
    p.passed(&p.ids[0], 0);
    let said = p.call(&["clone", &p.ids[0], &p.ids[1]]).failure();
    assert_has!(said, "writable volume /data");
    assert!(!p.exists(&p.ids[1]));
    p.call(&["clone", "--share-volumes", &p.ids[0], &p.ids[1]])
        .success();
    p.says(&p.ids[1], "echo from the copy >/data/file");
    assert_eq!(runtime::text(data.join("file")), "from the copy\n");
}
