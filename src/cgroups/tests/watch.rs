//! Counters, OOM kills and the cgroup of an exec, on the host's tree.

use super::fake::{request, resources};
use super::kernel::{Name, Program, RootControl, has_v1, may_write, planned};
use crate::cgroups::group::Group;
use crate::cgroups::oom::{Oom, OomEvents};
use crate::cgroups::plan::plan;
use crate::cgroups::stats::types::Stats;
use crate::cgroups::tree::{Tree, Version};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn counters_count() {
    if !has_v1("cpuacct") || !has_v1("memory") || !has_v1("pids") || !has_v1("cpu") {
        return;
    }
    let name = Name::new();
    let r = resources(
        r#"{"memory":{"limit":134217728},"cpu":{"quota":5000,"period":50000},"pids":{"limit":9}}"#,
    );
    let plan = planned(&request(Some(&name.0), Some(&r)));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let program = Program::new("while :; do :; done");
    group.add(program.pid()).unwrap();
    until("throttling", || {
        group.stats().unwrap().cpu.throttling.throttled_time > 0
    });
    let stats = group.stats().unwrap();
    assert!(stats.cpu.usage.total > 0 && stats.cpu.throttling.throttled_periods > 0);
    assert!(!stats.cpu.usage.percpu.is_empty());
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 9));
    assert_eq!(stats.memory.usage.limit, 134_217_728);
    assert!(stats.memory.raw.contains_key("total_rss"));
    assert_eq!(stats.cpuset.mems, [0]);
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats);
}

#[test]
fn an_idle_groups_document_has_runcs_fields() {
    let json = serde_json::to_value(Stats::default()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
            "cpuset": {"cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0,
                "memory_migrate": 0, "memory_spread_page": 0,
                "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0,
                    "sched_relax_domain_level": 0},
            "memory": {"usage": {"limit": 0, "failcnt": 0}, "swap": {"limit": 0, "failcnt": 0},
                "kernel": {"limit": 0, "failcnt": 0},
                "kernelTCP": {"limit": 0, "failcnt": 0}},
            "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
        })
    );
}

/// A cgroup with a limit of 16 MiB, its OOM events, and a program that is killed because it needs
/// more.
fn oom(name: &Name) -> (Group, OomEvents, Program) {
    let r = resources(r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    let plan = planned(&request(Some(&name.0), Some(&r)));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let mut events = group.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), Oom::Nothing);
    let procs = format!("{}/cgroup.procs", group.dir("memory").unwrap());
    // The shell itself grows, and so is killed.
    let program = Program::new(&format!(
        "echo $$ > {procs}; x=$(head -c 67108864 /dev/zero | tr '\\0' x); echo alive"
    ));
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::try_from(30_000).unwrap()).unwrap(),
        1,
        "nothing within 30 s"
    );
    (group, events, program)
}

#[test]
fn an_oom_kill_is_told_when_it_happens_and_the_end_too() {
    if !has_v1("memory") {
        return;
    }
    let name = Name::new();
    let (mut group, mut events, mut program) = oom(&name);
    assert!(matches!(events.read().unwrap(), Oom::Kills(1..)));
    let _ = program.0.wait();
    group.kill(Signal::SIGKILL).unwrap();
    group.remove().unwrap();
    until("the end", || events.read().unwrap() == Oom::Gone);
}

#[test]
fn a_kill_and_the_end_at_once_are_both_told() {
    if !has_v1("memory") {
        return;
    }
    let name = Name::new();
    let (mut group, mut events, mut program) = oom(&name);
    let _ = program.0.wait();
    group.kill(Signal::SIGKILL).unwrap();
    group.remove().unwrap();
    assert!(matches!(events.read().unwrap(), Oom::Kills(1..)));
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::try_from(30_000).unwrap()).unwrap(),
        1,
        "the removal wakes no poll(2)"
    );
    assert_eq!(events.read().unwrap(), Oom::Gone);
}

#[test]
fn exec_goes_where_it_is_told_or_where_init_is() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let group = Group::create(&planned(&request(Some(&name.0), None))).unwrap();
    let program = Program::new("exec sleep 100");
    group.add(program.pid()).unwrap();
    let target = group.exec_target(program.pid(), &BTreeMap::new()).unwrap();
    assert_eq!(target.dirs, group.dirs().collect::<Vec<_>>());
    let sub = format!("{}/sub", group.dirs().next().unwrap());
    std::fs::create_dir(&sub).unwrap();
    let controller = group.record().places[0].controllers[0].clone();
    let target = group
        .exec_target(
            program.pid(),
            &BTreeMap::from([(controller, "../sub".to_owned())]),
        )
        .unwrap();
    assert_eq!(target.dirs[0], sub);
    assert!(
        group
            .exec_target(
                program.pid(),
                &BTreeMap::from([(String::new(), "none".to_owned())])
            )
            .is_err()
    );
    assert!(
        group
            .exec_target(
                program.pid(),
                &BTreeMap::from([("x".to_owned(), "none".to_owned())])
            )
            .unwrap_err()
            .to_string()
            .contains("unknown controller x")
    );
    group.kill(Signal::SIGKILL).unwrap();
}

#[test]
fn exec_into_a_v2_cgroup_that_has_become_inner() {
    let v2 = super::here()
        .hierarchies
        .into_iter()
        .find(|h| h.version == Version::V2 && h.writable && !h.controllers.is_empty());
    let Some(v2) = v2 else {
        eprintln!("skipped: no cgroup v2 with a controller is mounted, or it may not be written");
        return;
    };
    let controller = v2.controllers[0].clone();
    let _root = RootControl::keep();
    let name = Name::new();
    // As if a limit needed the controller: it is enabled for the container's cgroup, and the
    // container gives it to sub-cgroups.
    let mut plan = plan(
        &request(Some(&name.0), None),
        &Tree {
            hierarchies: vec![v2],
            uid: 0,
        },
    )
    .unwrap();
    plan.places[0].enable = vec![controller.clone()];
    let group = Group::create(&plan).unwrap();
    let dir = group.dirs().next().unwrap().to_owned();
    let program = Program::new("exec sleep 100");
    std::fs::create_dir(format!("{dir}/init")).unwrap();
    std::fs::write(
        format!("{dir}/init/cgroup.procs"),
        program.pid().to_string(),
    )
    .unwrap();
    std::fs::write(
        format!("{dir}/cgroup.subtree_control"),
        format!("+{controller}"),
    )
    .unwrap();
    let target = group.exec_target(program.pid(), &BTreeMap::new()).unwrap();
    assert_eq!(target.dirs, [format!("{dir}/init")]);
    group.kill(Signal::SIGKILL).unwrap();
}

/// Another program, as systemd with a scope, kills the processes and removes the cgroup at any
/// moment while hull works on it. Then there is no process, which is no error for a signal or for
/// the removal, and freezing reports that the cgroup is gone.
#[test]
fn a_v2_cgroup_that_vanishes_meanwhile_is_no_error() {
    let v2 = Tree::probe(
        nix::unistd::geteuid().as_raw(),
        crate::facts::in_user_namespace(),
    )
    .unwrap()
    .hierarchies
    .into_iter()
    .find(|h| h.version == Version::V2 && h.writable);
    let Some(v2) = v2 else {
        eprintln!("skipped: no cgroup v2 is mounted, or it may not be written");
        return;
    };
    let tree = Tree {
        hierarchies: vec![v2],
        uid: 0,
    };
    for round in 0..40_u64 {
        let name = Name::new();
        let mut group =
            Group::create(&plan(&request(Some(&name.0), None), &tree).unwrap()).unwrap();
        let dir = group.dirs().next().unwrap().to_owned();
        let mut program = Program::new("exec sleep 100");
        group.add(program.pid()).unwrap();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(round * 50));
            program.0.kill().unwrap();
            program.0.wait().unwrap();
            until("the removal", || std::fs::remove_dir(&dir).is_ok());
        });
        match group.freeze() {
            Ok(()) => {}
            Err(error) => assert!(error.to_string().contains("cgroup.freeze"), "{error}"),
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            group.kill(signal).unwrap();
        }
        other.join().unwrap();
        assert!(!group.frozen().unwrap() && group.pids(true).unwrap().is_empty());
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            group.kill(signal).unwrap();
        }
        group.remove().unwrap();
    }
}
