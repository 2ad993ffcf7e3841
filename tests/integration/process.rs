//! `process`: the user, working directory, environment, limits, scheduling and labels of the
//! program, and how the program is found. (`capabilities` and `terminal` have files of their own.)

use crate::support::users::Holder;
use crate::support::{Bundle, fixture, runtime, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

tests![
    user_and_group,
    additional_groups,
    no_additional_groups_means_none,
    umask,
    working_directory,
    missing_working_directory_is_made,
    working_directory_that_is_a_file_is_an_error,
    working_directory_of_the_users_own,
    working_directory_that_hull_may_enter_and_the_user_may_not,
    relative_working_directory_is_an_error,
    environment_is_what_was_given,
    home_comes_from_the_containers_passwd,
    home_that_was_given_is_kept,
    home_that_was_given_and_emptied_is_looked_up,
    path_is_searched_for_the_program,
    program_is_taken_from_the_working_directory,
    rlimits,
    rlimit_that_is_unknown_is_an_error,
    rlimit_given_twice_is_an_error,
    no_new_privileges,
    oom_score_adjust,
    oom_score_adjust_of_exec,
    scheduler,
    scheduler_with_impossible_fields_is_an_error,
    io_priority,
    exec_cpu_affinity,
    the_callers_cpu_affinity_is_not_inherited,
    a_joined_user_namespace_may_deny_setgroups,
    script_with_interpreter,
    missing_interpreter_is_an_error,
    program_for_another_architecture_is_an_error,
    empty_args_are_an_error,
    signals_have_their_default_dispositions,
    first_process_leads_a_session,
    apparmor_profile_is_an_error_where_it_is_off,
    apparmor_profile_confines,
    selinux_label_is_an_error_where_it_is_off,
    memory_policy,
];

fn user_and_group() {
    let mut b = Bundle::new();
    b.set("/process/user", json!({ "uid": 1000, "gid": 29 }));
    assert_eq!(
        b.output_of("id -u; id -g; grep -E '^[UG]id' /proc/self/status"),
        "1000\n29\nUid:\t1000\t1000\t1000\t1000\nGid:\t29\t29\t29\t29"
    );
}

fn additional_groups() {
    let mut b = Bundle::new();
    b.set(
        "/process/user",
        json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 10, 4_000_000] }),
    );
    assert_eq!(
        b.output_of("grep Groups /proc/self/status").trim(),
        "Groups:\t5 10 4000000"
    );
}

fn no_additional_groups_means_none() {
    let mut b = Bundle::new();
    assert_eq!(
        b.output_of("grep Groups /proc/self/status").trim(),
        "Groups:"
    );
}

fn umask() {
    let mut b = Bundle::new();
    assert_eq!(b.output_of("umask"), "0022", "the default");
    b.set("/process/user/umask", json!(0o027));
    assert_eq!(b.output_of("umask"), "0027");
}

fn working_directory() {
    assert_eq!(
        Bundle::new()
            .set("/process/cwd", json!("/usr/bin"))
            .output_of("pwd; readlink /proc/self/cwd"),
        "/usr/bin\n/usr/bin"
    );
}

fn missing_working_directory_is_made() {
    let mut b = Bundle::new();
    b.writable().set("/process/cwd", json!("/some/where/new"));
    assert_eq!(
        b.output_of("pwd; stat -c '%a %u' ."),
        "/some/where/new\n755 0"
    );
}

fn working_directory_that_is_a_file_is_an_error() {
    let mut b = Bundle::new();
    b.set("/process/cwd", json!("/etc/passwd"));
    assert_has!(b.run().failure(), "not a directory");
}

fn working_directory_of_the_users_own() {
    let mut b = Bundle::new();
    let private = b.rootfs().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(
        &private,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    std::os::unix::fs::chown(&private, Some(1000), Some(1000)).unwrap();
    b.set("/process/cwd", json!("/private"))
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(b.output_of("pwd"), "/private");
}

fn relative_working_directory_is_an_error() {
    let mut b = Bundle::new();
    b.set("/process/cwd", json!("tmp"));
    assert_has!(b.run().failure(), "cwd");
}

fn environment_is_what_was_given() {
    let mut b = Bundle::sleeper();
    b.runtime
        .env
        .push(("SECRET_OF_THE_HOST".into(), "1".into()));
    b.set(
        "/process/env",
        json!(["PATH=/bin", "EMPTY=", "A=b=c", "HOME=/h", "WITH SPACE=x y"]),
    );
    let c = b.started();
    assert_eq!(
        c.proc_file("environ"),
        "PATH=/bin\0EMPTY=\0A=b=c\0HOME=/h\0WITH SPACE=x y\0"
    );
    let out = c
        .exec_with(&["--env", "A=second"], &["env"])
        .success()
        .stdout;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "A=second",
            "EMPTY=",
            "HOME=/h",
            "PATH=/bin",
            "WITH SPACE=x y"
        ]
    );
}

fn home_comes_from_the_containers_passwd() {
    let mut b = Bundle::new();
    assert_eq!(b.output_of("echo $HOME"), "/root");
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(b.output_of("echo $HOME"), "/home/ada");
    b.set("/process/user", json!({ "uid": 4242, "gid": 1000 }));
    assert_eq!(b.output_of("echo $HOME"), "/");
}

fn home_that_was_given_is_kept() {
    let mut b = Bundle::new();
    b.push("/process/env", json!("HOME=/elsewhere"));
    assert_eq!(b.output_of("echo $HOME"), "/elsewhere");
}

fn path_is_searched_for_the_program() {
    let mut b = Bundle::new();
    fixture::write_executable(&b.rootfs().join("var/tool"), "#!/bin/sh\necho found $0\n");
    b.set("/process/env", json!(["PATH=/none:/var:/bin"]))
        .args(&["tool"]);
    assert_eq!(b.run().success().stdout, "found /var/tool\n");
}

fn program_is_taken_from_the_working_directory() {
    let mut b = Bundle::new();
    fixture::write_executable(&b.rootfs().join("var/tool"), "#!/bin/sh\necho found\n");
    b.set("/process/cwd", json!("/var")).args(&["./tool"]);
    assert_eq!(b.run().success().stdout, "found\n");
}

fn rlimits() {
    let mut b = Bundle::new();
    let all = [
        ("CORE", "core file size", 0_u64, 0_u64),
        ("NOFILE", "open files", 100, 200),
        ("NPROC", "processes", 500, 600),
        ("CPU", "cpu time", 60, 70),
        ("FSIZE", "file size", 1 << 20, 1 << 21),
        ("DATA", "data size", 1 << 30, 1 << 31),
        ("STACK", "stack size", 1 << 22, 1 << 23),
        ("RSS", "resident set", 1 << 30, 1 << 30),
        ("AS", "address space", 1 << 33, 1 << 34),
        ("MEMLOCK", "locked memory", 4096, 8192),
        ("LOCKS", "file locks", 10, 20),
        ("SIGPENDING", "pending signals", 30, 40),
        ("MSGQUEUE", "msgqueue size", 1000, 2000),
        ("NICE", "nice priority", 0, 0),
        ("RTPRIO", "realtime priority", 0, 0),
        ("RTTIME", "realtime timeout", 1000, 2000),
    ];
    let list: Vec<_> = all.iter().map(|(name, _, soft, hard)| json!({ "type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard })).collect();
    b.set("/process/rlimits", json!(list));
    let text = b.output_of("cat /proc/self/limits");
    for (name, words, soft, hard) in all {
        let line = text
            .lines()
            .find(|l| l.contains(words))
            .unwrap_or_else(|| panic!("no {words} in\n{text}"));
        let numbers: Vec<&str> = line[26..].split_whitespace().collect();
        assert_eq!(
            numbers[..2],
            [soft.to_string(), hard.to_string()],
            "RLIMIT_{name}"
        );
    }
    let b = {
        b.args(&["sleep", "1000"]);
        b
    };
    let c = b.started();
    let of_exec = |flags| {
        c.exec(&["sh", "-c", &format!("ulimit -S{flags}; ulimit -H{flags}")])
            .success()
            .stdout
    };
    assert_eq!(of_exec("s"), "4096\n8192\n");
    only_hull!("runc 1.1.5 raises exec's soft limit of open files, by a bug of Go");
    assert_eq!(of_exec("n"), "100\n200\n");
}

fn rlimit_that_is_unknown_is_an_error() {
    let mut b = Bundle::new();
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1 }]),
    );
    assert_has!(b.run().failure(), "rlimit");
}

fn rlimit_given_twice_is_an_error() {
    only_hull!("runc 1.1.5 takes the last");
    let mut b = Bundle::new();
    b.push(
        "/process/rlimits",
        json!({ "type": "RLIMIT_NOFILE", "soft": 5, "hard": 5 }),
    );
    assert_has!(b.run().failure(), "rlimit_nofile");
}

fn no_new_privileges() {
    let mut b = Bundle::new();
    for (value, seen) in [(true, "1"), (false, "0")] {
        b.set("/process/noNewPrivileges", json!(value));
        assert_eq!(
            b.output_of("grep NoNewPrivs /proc/self/status"),
            format!("NoNewPrivs:\t{seen}")
        );
    }
}

fn oom_score_adjust() {
    let mut b = Bundle::new();
    b.set("/process/oomScoreAdj", json!(321));
    assert_eq!(b.output_of("cat /proc/self/oom_score_adj"), "321");
}

fn oom_score_adjust_of_exec() {
    only_hull!("runc 1.1.5 gives exec the first process's value");
    let b = Bundle::sleeper();
    let c = b.started();
    let process = json!({
        "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"], "args": ["cat", "/proc/self/oom_score_adj"], "oomScoreAdj": 654
    });
    assert_eq!(c.exec_process(&process).success().stdout, "654\n");
}

fn scheduler() {
    only_hull!("runc 1.1.5 has no scheduler");
    let mut b = Bundle::new();
    b.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_BATCH", "nice": 5 }),
    );
    // Fields 19 and 41 of stat: nice and policy; SCHED_BATCH is 3, SCHED_IDLE is 5.
    let stat = "awk '{print $19, $41}' /proc/1/stat";
    assert_eq!(b.output_of(stat), "5 3");
    b.set("/process/scheduler", json!({ "policy": "SCHED_IDLE" }));
    assert_eq!(b.output_of(stat), "0 5");
    b.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_OTHER", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
    );
    assert_eq!(b.output_of(stat), "7 0");
}

fn scheduler_with_impossible_fields_is_an_error() {
    only_hull!("runc 1.1.5 has no scheduler");
    let mut b = Bundle::new();
    for bad in [
        json!({ "policy": "SCHED_NOSUCH" }),
        json!({ "policy": "SCHED_OTHER", "nice": 99 }),
        json!({ "policy": "SCHED_OTHER", "priority": 5 }),
        json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NOSUCH"] }),
    ] {
        b.set("/process/scheduler", bad);
        assert_has!(b.run().failure(), "sched");
    }
}

fn io_priority() {
    only_hull!("runc 1.1.5 has no ioPriority");
    let mut b = Bundle::new();
    b.set(
        "/process/ioPriority",
        json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }),
    );
    assert_eq!(b.output_of("ionice -p 1"), "best-effort: prio 6");
    b.set(
        "/process/ioPriority",
        json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }),
    );
    assert_has!(b.output_of("ionice -p 1"), "idle");
    b.set(
        "/process/ioPriority",
        json!({ "class": "IOPRIO_CLASS_NOSUCH", "priority": 0 }),
    );
    assert_has!(b.run().failure(), "ioprio_class_nosuch");
}

fn exec_cpu_affinity() {
    only_hull!("runc 1.1.5 has no execCPUAffinity");
    if std::thread::available_parallelism().unwrap().get() < 2 {
        skip!("this host has one CPU only");
    }
    let mut b = Bundle::sleeper();
    b.runtime.set_defaults("[vm]\ncpus = 2\n");
    b.set(
        "/process/execCPUAffinity",
        json!({ "initial": "0", "final": "1" }),
    );
    let c = b.started();
    let process = json!({
        "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"], "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "execCPUAffinity": { "initial": "0", "final": "1" }
    });
    assert_eq!(
        c.exec_process(&process).success().stdout,
        "Cpus_allowed_list:\t1\n"
    );
    assert_eq!(
        c.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"])
            .success()
            .stdout,
        "Cpus_allowed_list:\t1\n",
        "the affinity of the config"
    );
    assert_ne!(
        c.status_line("Cpus_allowed_list"),
        "1",
        "the affinity of exec applies to the first process"
    );
}

fn script_with_interpreter() {
    let mut b = Bundle::new();
    fixture::write_executable(&b.rootfs().join("var/script"), "#!/bin/sh\necho $0 $1\n");
    b.args(&["/var/script", "word"]);
    assert_eq!(b.run().success().stdout, "/var/script word\n");
}

fn missing_interpreter_is_an_error() {
    let mut b = Bundle::new();
    fixture::write_executable(&b.rootfs().join("var/script"), "#!/no/such/shell\n");
    b.args(&["/var/script"]);
    assert_has!(b.run().failure(), "no such file or directory");
}

fn program_for_another_architecture_is_an_error() {
    let mut b = Bundle::new();
    fixture::write_executable(
        &b.rootfs().join("var/foreign"),
        "\x7fELF\x02\x01\x01 not a program of this architecture",
    );
    b.args(&["/var/foreign"]);
    assert_has!(b.run().failure(), "exec format error");
}

fn empty_args_are_an_error() {
    let mut b = Bundle::new();
    b.set("/process/args", json!([]));
    assert_has!(b.run().failure(), "args");
    b.remove("/process/args");
    assert_has!(b.run().failure(), "args");
}

/// Engines start the runtime with SIGPIPE or SIGQUIT ignored; the program must not inherit that.
fn signals_have_their_default_dispositions() {
    // Not by a shell: busybox's ignores SIGQUIT before its exec.
    let mut b = Bundle::new();
    b.args(&["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]);
    b.write();
    let plain = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let mut c = std::process::Command::new("sh");
    c.args(["-c", "trap '' PIPE QUIT USR1; exec \"$@\"", "sh"])
        .arg(plain.get_program())
        .args(plain.get_args());
    let out = runtime::finish(c, runtime::LIMIT).success().stdout;
    assert_has!(out, "SigBlk:\t0000000000000000");
    only_hull!("runc 1.1.5 passes ignored signals on");
    assert_has!(out, "SigIgn:\t0000000000000000");
}

fn first_process_leads_a_session() {
    let mut b = Bundle::new();
    assert_eq!(
        b.output_of("awk '{print $1, $5, $6}' /proc/1/stat"),
        "1 1 1"
    );
}

fn apparmor_profile_is_an_error_where_it_is_off() {
    if Path::new("/sys/kernel/security/apparmor").exists() {
        skip!("AppArmor is on here");
    }
    let mut b = Bundle::new();
    b.set("/process/apparmorProfile", json!("some-profile"));
    assert_has!(b.run().failure(), "apparmor");
}

/// An AppArmor profile of the test's own that denies one file.
fn apparmor_profile_confines() {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y");
    if !on || !Path::new("/sys/kernel/security/apparmor").exists() {
        skip!("AppArmor is off here");
    }
    let name = format!("hull-test-{}", std::process::id());
    let file = fixture::new_dir("profile").join("profile");
    fs::write(
        &file,
        format!(
            "profile {name} flags=(attach_disconnected) {{\n  file,\n  \
        signal,\n  unix,\n  deny /etc/passwd r,\n}}\n"
        ),
    )
    .unwrap();
    let parser = |flag: &str| {
        let mut command = std::process::Command::new("apparmor_parser");
        command.args([flag, file.to_str().unwrap()]);
        runtime::finish(command, runtime::LIMIT)
    };
    parser("-a").success();
    let mut b = Bundle::sleeper();
    b.set("/process/apparmorProfile", json!(name));
    let c = b.started();
    assert_eq!(c.proc_file("attr/current"), format!("{name} (enforce)\n"));
    let out = c.exec(&["cat", "/etc/passwd"]);
    assert_has!(out.stderr, "Permission denied");
    c.exec(&["cat", "/etc/group"]).success();
    drop(c);
    parser("-R").success();
    b.set(
        "/process/apparmorProfile",
        json!("hull-test-no-such-profile"),
    );
    assert_has!(b.run().failure(), "apparmor");
}

fn selinux_label_is_an_error_where_it_is_off() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        skip!("SELinux is on here");
    }
    let mut b = Bundle::new();
    b.set(
        "/process/selinuxLabel",
        json!("system_u:system_r:container_t:s0"),
    );
    assert_has!(b.run().failure(), "selinux");
}

fn memory_policy() {
    only_hull!("runc 1.1.5 has no memoryPolicy");
    let mut b = Bundle::sleeper();
    b.set(
        "/linux/memoryPolicy",
        json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }),
    );
    let c = b.started();
    until("numa_maps", || c.proc_file("numa_maps").contains("bind"));
    let of_exec = b
        .call(&["exec", &b.id, "/bin/cat", "/proc/self/numa_maps"])
        .success();
    assert_has!(of_exec.stdout, "bind");
    drop(c);
    b.set(
        "/linux/memoryPolicy",
        json!({ "mode": "MPOL_NOSUCH", "nodes": "0" }),
    );
    assert_has!(b.run().failure(), "mpol_nosuch");
}

fn working_directory_that_hull_may_enter_and_the_user_may_not() {
    only_hull!("runc 1.1.5 does not try with its own privileges at exec");
    let private = |b: &Bundle, name: &str, owner: u32| {
        let path = b.rootfs().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    };
    let mut b = Bundle::new();
    private(&b, "root", 0);
    b.set("/process/cwd", json!("/root"));
    b.set("/process/user", json!({ "uid": 42, "gid": 42 }));
    assert_eq!(b.output_of("pwd"), "/root");
    let mut b = Bundle::sleeper();
    private(&b, "home", 65532);
    b.set("/process/cwd", json!("/home"));
    b.set("/process/capabilities", json!({}));
    let c = b.started();
    let process = json!({
        "cwd": "/home", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"], "args": ["pwd"],
        "capabilities": {},
    });
    assert_eq!(c.exec_process(&process).success().stdout, "/home\n");
}

fn home_that_was_given_and_emptied_is_looked_up() {
    let mut b = Bundle::new();
    b.push("/process/env", json!("HOME=/elsewhere"));
    b.push("/process/env", json!("HOME="));
    assert_eq!(b.output_of("env | grep HOME"), "HOME=/root");
}

fn the_callers_cpu_affinity_is_not_inherited() {
    only_hull!("runc does so from 1.3.1 on");
    if std::thread::available_parallelism().unwrap().get() < 2 {
        skip!("this host has one CPU only");
    }
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = |text: &str| {
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("Cpus_allowed_list"));
        line.unwrap_or_default().to_owned()
    };
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
    let b = Bundle::sleeper();
    let c = b.started();
    let of_init = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    assert_eq!(allowed(&of_init), allowed(&before));
    let of_exec = c.exec(&["cat", "/proc/self/status"]).success().stdout;
    assert_eq!(allowed(&of_exec), allowed(&before));
}

fn a_joined_user_namespace_may_deny_setgroups() {
    only_hull!("runc 1.1.5 fails with EPERM");
    let holder = Holder::new(&["-Ur"]);
    let mut b = Bundle::new();
    let path = holder.path("user");
    b.push("/linux/namespaces", json!({ "type": "user", "path": path }));
    assert_eq!(b.output_of("id -u; cat /proc/self/setgroups"), "0\ndeny");
}
