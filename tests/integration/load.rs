//! Many commands at once on a busy host: every exit status is right, no command hangs, nothing is
//! left behind.

use crate::support::{Bundle, Container, fixture, leaks, runtime};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

tests![
    run_four_at_a_time,
    life_four_at_a_time,
    exec_four_at_a_time,
    parallel_starts_of_one_container
];

/// The number of runs: few by default; SPECIFICATION.md promises `HULL_LOAD_RUNS=1000`.
fn runs() -> u32 {
    std::env::var("HULL_LOAD_RUNS").map_or(100, |n| n.parse().expect("HULL_LOAD_RUNS is a number"))
}

/// Processes that use the CPUs while the test runs.
struct Burners(Vec<Child>);

impl Burners {
    fn new() -> Self {
        let one = || {
            leaks::spawn(
                Command::new("sh")
                    .args(["-c", "while :; do :; done"])
                    .stdin(Stdio::null()),
            )
            .unwrap()
        };
        Self((0..3).map(|_| one()).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Calls `work` with each number, on four threads.
fn four_at_a_time(count: u32, work: impl Fn(u32) + Sync) {
    let next = AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    work(n);
                }
            });
        }
    });
}

// Attack: youki hang of run
fn run_four_at_a_time() {
    let _burners = Burners::new();
    let bundles: Vec<_> = (0..4)
        .map(|n| Bundle::sh(&format!("exit {}", [0, 1, 42, 255][n])))
        .collect();
    bundles.iter().for_each(Bundle::write);
    four_at_a_time(runs(), |n| {
        let which = usize::try_from(n % 4).unwrap();
        let b = &bundles[which];
        // The runs share the bundles, but each has a config of its own with another cgroup.
        let dir = fixture::new_dir("run");
        let mut spec = b.spec.clone();
        spec["root"]["path"] = b.rootfs().to_str().unwrap().into();
        spec["linux"]["cgroupsPath"] = format!("{}x{n}", b.cgroup).into();
        std::fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        let out = runtime::finish(
            b.runtime.command(&[
                "run",
                "--bundle",
                dir.to_str().unwrap(),
                &format!("load-{n}"),
            ]),
            runtime::LIMIT,
        );
        assert_eq!(out.status, [0, 1, 42, 255][which], "run {n}: {out:?}");
        std::fs::remove_dir_all(dir).unwrap();
    });
    assert_eq!(
        std::fs::read_dir(&bundles[0].runtime.state).map_or(0, Iterator::count),
        0
    );
}

fn life_four_at_a_time() {
    let _burners = Burners::new();
    four_at_a_time(runs() / 4, |_| {
        let b = Bundle::sh("exit 3");
        let c = b.create();
        c.start();
        c.wait_for("stopped");
        c.call(&["delete"]).success();
    });
}

fn exec_four_at_a_time() {
    let _burners = Burners::new();
    let b = Bundle::sleeper();
    let c: Container = b.started();
    four_at_a_time(runs(), |n| {
        let status = i32::try_from(n % 200).unwrap();
        let out = c.exec(&["sh", "-c", &format!("echo {n}; exit {status}")]);
        assert_eq!(
            (out.status, out.stdout.as_str()),
            (status, format!("{n}\n").as_str()),
            "{out:?}"
        );
    });
    assert_eq!(c.status(), "running");
}

/// Of several `start` of one container, one succeeds, and the others report an error.
fn parallel_starts_of_one_container() {
    only_hull!("runc 1.1.5 hangs in the starts that come second");
    let b = Bundle::sleeper();
    let c = b.create();
    let won = AtomicU32::new(0);
    four_at_a_time(4, |_| {
        let out = c.call(&["start"]);
        if out.status == 0 {
            won.fetch_add(1, Ordering::Relaxed);
        } else {
            out.failure();
        }
    });
    assert_eq!(won.into_inner(), 1);
    assert_eq!(c.status(), "running");
}
