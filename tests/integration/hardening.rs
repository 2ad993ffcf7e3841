//! Attacks that succeeded against other runtimes, named after their CVEs; and rules that protect
//! the host. (`races` has the attacks that need a race.)

use crate::support::console::FdSocket;
use crate::support::runtime::Runtime;
use crate::support::users::ORDINARY;
use crate::support::{Bundle, fixture, runtime, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

tests![
    cve_2016_9962_exec_is_not_dumpable,
    cve_2019_5736_entrypoint_is_proc_self_exe,
    cve_2019_5736_interpreter_is_proc_self_exe,
    cve_2019_5736_exec_of_proc_self_exe,
    cve_2019_5736_own_binary_cannot_be_written,
    cve_2019_19921_proc_is_a_symlink,
    cve_2019_18837_farm_of_symlinks,
    cve_2022_29162_inheritable_is_empty,
    cve_2023_25809_cgroup_is_read_only,
    cve_2025_31133_dev_null_is_a_symlink,
    cve_2026_41579_dev_is_a_symlink,
    cve_2026_88264_nodes_of_dev_are_symlinks,
    cve_2025_52881_sysctls_under_a_planted_tmpfs,
    bind_of_the_hosts_root,
    hostile_passwd_does_not_matter,
    hostile_libraries_do_not_matter,
    program_is_not_dumpable_before_its_start,
    created_container_waits_with_its_own_rights_only,
    mounts_are_made_below_the_root_only,
    run_as_root_without_capabilities_cannot_change_the_host,
    exec_does_not_trust_the_containers_proc,
    a_store_of_another_user_is_refused,
    the_lock_of_the_networks_is_hulls_alone,
    annotations_take_no_isolation_away,
    a_sparse_passwd_ends_exec_soon,
    a_fifo_as_a_namespace_is_an_error,
    unified_values_move_no_process,
    descriptors_of_a_number_out_of_range_are_an_error,
    sockets_of_another_process_are_not_passed_on,
    a_child_of_a_killed_hull_holds_up_no_delete,
    a_pid_file_follows_no_planted_link,
    host_names_are_one_word,
    what_hull_prints_cannot_speak_to_the_terminal,
    a_device_in_the_place_of_passwd_is_not_opened,
    a_mount_point_of_any_bytes_is_unmounted,
];

/// The size, time and inode of the runtime's own file, which a change of the file would change.
fn fingerprint() -> [i128; 3] {
    let meta = fs::metadata(runtime::path()).unwrap();
    [
        meta.size().into(),
        meta.mtime_nsec().into(),
        meta.ino().into(),
    ]
}

/// The container looks at every process that it can see, and reads the program of each: it must not
/// be able to do so for a process of hull that joins it.
// Attack: CVE-2016-9962
fn cve_2016_9962_exec_is_not_dumpable() {
    // The files of /proc/PID belong to root of the host where a process is not dumpable: in the
    // user namespace, to nobody.
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) \
        if e=$(readlink $p/exe 2>/dev/null); then case $e in /bin/*) ;; *) echo \"$p $e\" >> \
        /dev/shm/seen;; esac; fi;; esac; done; done";
    let mut b = Bundle::with_user_namespace();
    b.args(&["/bin/sh", "-c", script]);
    let all = json!([
        "CAP_SYS_PTRACE",
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_ADMIN",
        "CAP_KILL"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        b.set(&format!("/process/capabilities/{set}"), all.clone());
    }
    let c = b.started();
    for _ in 0..30 {
        c.exec(&["/bin/true"]).success();
    }
    let seen = runtime::text(format!("/proc/{}/root/dev/shm/seen", c.pid()));
    assert_eq!(
        seen, "",
        "the container read the program of a process that joined it"
    );
}

// Attack: CVE-2019-5736
fn cve_2019_5736_entrypoint_is_proc_self_exe() {
    let before = fingerprint();
    let mut b = Bundle::new();
    b.writable().args(&["/proc/self/exe", "--version"]);
    let out = b.run();
    // The result does not matter, as long as the container cannot write to the binary.
    assert!(out.status != 0 || out.stdout.contains("version"), "{out:?}");
    assert_eq!(fingerprint(), before);
}

// Attack: CVE-2019-5736
fn cve_2019_5736_interpreter_is_proc_self_exe() {
    let before = fingerprint();
    let mut b = Bundle::new();
    b.writable();
    fixture::write_executable(&b.rootfs().join("bin/evil"), "#!/proc/self/exe\n");
    b.args(&["/bin/evil"]);
    b.run();
    let mut b = Bundle::sleeper();
    fixture::write_executable(&b.rootfs().join("bin/evil"), "#!/proc/self/exe\n");
    b.writable();
    let c = b.started();
    c.exec(&["/bin/evil"]);
    assert_eq!(fingerprint(), before);
}

/// The container looks for the runtime's process, and opens its binary for writing as soon as it is
/// not busy.
// Attack: CVE-2019-5736
fn cve_2019_5736_exec_of_proc_self_exe() {
    let before = fingerprint();
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) \
        (exec 9>>$p/exe && echo overwritten >&9 && echo $p >> /dev/shm/won) 2>/dev/null;; esac; \
        done; done";
    let mut b = Bundle::sh(script);
    b.writable();
    for set in ["bounding", "effective", "permitted"] {
        b.set(
            &format!("/process/capabilities/{set}"),
            json!([
                "CAP_SYS_PTRACE",
                "CAP_DAC_OVERRIDE",
                "CAP_SYS_ADMIN",
                "CAP_DAC_READ_SEARCH"
            ]),
        );
    }
    // The attack also opens the shell's own program: a copy, or it would overwrite the suite's
    // busybox.
    let busybox = b.rootfs().join("bin/busybox");
    fixture::make_private(&busybox);
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o555)).unwrap();
    let c = b.started();
    for _ in 0..30 {
        c.exec(&["/proc/self/exe", "--help"]);
    }
    assert_eq!(fingerprint(), before, "the host's binary was changed");
}

// Attack: CVE-2019-5736
fn cve_2019_5736_own_binary_cannot_be_written() {
    let b = Bundle::sleeper();
    let c = b.create();
    // Until start, the first process is the runtime: its binary is sealed, or on a read-only mount.
    let result = fs::OpenOptions::new()
        .append(true)
        .open(format!("/proc/{}/exe", c.pid()))
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"x"));
    assert!(
        result.is_err(),
        "the runtime's program could be written through /proc"
    );
}

// Attack: CVE-2019-19921
fn cve_2019_19921_proc_is_a_symlink() {
    let hosts = fixture::new_dir("hosts");
    let mut b = Bundle::new();
    fs::remove_dir(b.rootfs().join("proc")).unwrap();
    symlink(&hosts, b.rootfs().join("proc")).unwrap();
    b.args(&["true"]);
    assert_has!(b.run().failure(), "proc");
    fs::remove_file(b.rootfs().join("proc")).unwrap();
    symlink("var", b.rootfs().join("proc")).unwrap();
    assert_has!(b.run().failure(), "proc");
    assert_eq!(fs::read_dir(hosts).unwrap().count(), 0);
}

/// Every path that the runtime uses for the set-up is a symlink to a directory of the host,
/// absolute and relative; nothing in it may change.
// Attack: CVE-2019-18837
fn cve_2019_18837_farm_of_symlinks() {
    only_hull!("runc 1.1.5 is open to it where /dev is a symlink");
    for climb in [String::new(), "../".repeat(20)] {
        let hosts = fixture::new_dir("hosts");
        fs::write(hosts.join("file"), "hosts").unwrap();
        for name in ["dev", "sys", "mnt", "run", "tmp", "home"] {
            let target = format!(
                "{climb}{}",
                if climb.is_empty() {
                    hosts.to_str().unwrap()
                } else {
                    &hosts.to_str().unwrap()[1..]
                }
            );
            let mut b = Bundle::new();
            let link = b.rootfs().join(name);
            fs::remove_dir_all(&link).unwrap();
            symlink(&target, &link).unwrap();
            b.writable()
                .mount(&format!("/{name}/new"), "tmpfs", "tmpfs", &[]);
            b.mount(&format!("/{name}/file"), "bind", "/etc/hostname", &["bind"]);
            b.push("/linux/maskedPaths", json!(format!("/{name}/file")));
            b.push("/linux/readonlyPaths", json!(format!("/{name}")));
            b.push(
                "/linux/devices",
                json!({ "path": format!("/{name}/device"), "type": "c", "major": 1, "minor": 3 }),
            );
            b.set("/process/cwd", json!(format!("/{name}/work")));
            b.args(&["true"]);
            b.run();
            let names: Vec<_> = fs::read_dir(&hosts)
                .unwrap()
                .map(|d| d.unwrap().file_name())
                .collect();
            assert_eq!(
                names,
                ["file"],
                "with /{name} as a symlink, something was made on the host"
            );
            assert_eq!(fs::read_to_string(hosts.join("file")).unwrap(), "hosts");
        }
    }
}

// Attack: CVE-2022-29162
fn cve_2022_29162_inheritable_is_empty() {
    let b = Bundle::sleeper();
    let c = b.started();
    assert_eq!(c.status_line("CapInh"), "0000000000000000");
    assert_has!(
        c.exec(&["grep", "CapInh", "/proc/self/status"])
            .success()
            .stdout,
        "0000000000000000"
    );
}

// Attack: CVE-2023-25809
fn cve_2023_25809_cgroup_is_read_only() {
    // hull also makes the tmpfs read-only that has the hierarchies, which is the container's own.
    let places = if runtime::drives_hull() {
        "/sys/fs/cgroup /sys/fs/cgroup/*"
    } else {
        "/sys/fs/cgroup/*"
    };
    let try_it = &format!(
        "for d in {places}; do mkdir $d/hull-escape 2>/dev/null && echo made $d; done; true"
    );
    assert_eq!(Bundle::new().output_of(try_it), "");
    assert_eq!(Bundle::with_user_namespace().output_of(try_it), "");
    assert_eq!(Bundle::of_ordinary_user().output_of(try_it), "");
    for mut b in [
        Bundle::new(),
        Bundle::with_user_namespace(),
        Bundle::of_ordinary_user(),
    ] {
        b.push("/linux/namespaces", json!({ "type": "cgroup" }));
        assert_eq!(b.output_of(try_it), "", "in a cgroup namespace");
    }
}

// Attack: CVE-2025-31133
fn cve_2025_31133_dev_null_is_a_symlink() {
    only_hull!("runc 1.1.5 is open to it");
    let mut b = Bundle::new();
    // The image's own /dev, with no tmpfs over it.
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", b.rootfs().join("dev/null")).unwrap();
    b.writable().args(&[
        "/bin/sh",
        "-c",
        "cat /proc/keys | wc -c; stat -c '%t:%T' /proc/keys",
    ]);
    let host = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let out = b.run();
    // Either the device replaces the link, or it is an error; hull must not bind the file of proc
    // on the masked path.
    assert!(out.status != 0 || out.stdout == "0\n1:3\n", "{out:?}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        host
    );
}

// Attack: CVE-2026-41579
fn cve_2026_41579_dev_is_a_symlink() {
    only_hull!("runc 1.1.5 is open to it");
    let hosts = fixture::new_dir("hosts");
    let mut b = Bundle::new();
    fs::remove_dir_all(b.rootfs().join("dev")).unwrap();
    symlink(&hosts, b.rootfs().join("dev")).unwrap();
    b.args(&["true"]);
    b.run();
    assert_eq!(fs::read_dir(&hosts).unwrap().count(), 0);
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    b.writable();
    b.run();
    assert_eq!(
        fs::read_dir(&hosts).unwrap().count(),
        0,
        "with no tmpfs on /dev"
    );
}
/// Where nothing is mounted on `/dev`, the image's own has the nodes: each is a link to a file of the
/// host, with a terminal and without.
// Attack: CVE-2026-41579
fn cve_2026_88264_nodes_of_dev_are_symlinks() {
    only_hull!("runc 1.1.5 is open to it");
    let hosts = fixture::new_dir("hosts");
    let up = format!("../../../../../../../../..{}", hosts.display());
    let nodes = [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd",
        "stdin", "stdout", "stderr",
    ];
    for node in nodes {
        fs::write(hosts.join(node), "as it was").unwrap();
    }
    let seen = || -> Vec<(String, u32, u32)> {
        let stat = |node: &&str| {
            let path = hosts.join(node);
            let stat = fs::symlink_metadata(&path).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            (text, stat.mode(), stat.uid())
        };
        nodes.iter().map(stat).collect()
    };
    let before = seen();
    let mut started = 0;
    let places = [hosts.to_str().unwrap(), &up];
    let links = nodes
        .iter()
        .flat_map(|node| places.map(|place| (node, place)));
    for ((node, place), terminal) in links.flat_map(|link| [(link, false), (link, true)]) {
        let mut b = Bundle::new();
        b.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        let path = b.rootfs().join("dev").join(node);
        let _ = fs::remove_dir_all(&path);
        symlink(format!("{place}/{node}"), path).unwrap();
        b.set("/process/terminal", json!(terminal));
        b.set("/process/user", json!({ "uid": 0, "gid": 5 }));
        b.writable().args(&["/bin/sleep", "100"]);
        let socket = FdSocket::new();
        let console = ["--console-socket", socket.path.to_str().unwrap()];
        let (c, _) = b.try_create(if terminal { &console } else { &[] });
        if let Some(c) = c {
            started += 1;
            c.start();
            c.exec(&["/bin/sh", "-c", "for n in /dev/*; do echo words > $n; done"]);
        }
        assert_eq!(seen(), before, "terminal {terminal}, {node}, {place}");
        assert_eq!(fs::read_dir(&hosts).unwrap().count(), nodes.len());
    }
    assert!(started > 0, "no container was made");
}

/// CVE-2025-52881 without the race: a tmpfs covers the directory that hull writes to. The value
/// reaches the kernel, or the container is refused.
// Attack: CVE-2025-52881
fn cve_2025_52881_sysctls_under_a_planted_tmpfs() {
    only_hull!("runc 1.1.5 is open to it");
    let mut started = 0;
    for place in ["/proc/sys", "/proc/sys/net", "/proc/self", "/proc"] {
        let mut b = Bundle::sleeper();
        b.push(
            "/mounts",
            json!({ "destination": place, "type": "tmpfs", "source": "tmpfs" }),
        );
        b.set("/linux/sysctl", json!({ "net.ipv4.ip_default_ttl": "77" }));
        b.remove("/linux/readonlyPaths");
        b.remove("/linux/maskedPaths");
        let (c, out) = b.try_create(&[]);
        let Some(c) = c else {
            out.failure();
            continue;
        };
        started += 1;
        let seen = std::process::Command::new("nsenter")
            .args(["--net", "--target", &c.pid().to_string()])
            .args(["cat", "/proc/sys/net/ipv4/ip_default_ttl"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "77\n", "{place}");
    }
    assert!(started > 0, "every tmpfs was refused: nothing was written");
}

/// The host's root as a volume. (Another runtime resolved a path after setns, in the wrong mount
/// namespace.)
// Attack: crun issue 2262
fn bind_of_the_hosts_root() {
    let mut b = Bundle::new();
    b.mount("/mnt", "bind", "/", &["rbind", "ro", "rprivate"]);
    assert_eq!(
        b.output_of("ls -d /mnt/proc /mnt/etc; hostname"),
        "/mnt/etc\n/mnt/proc\nbox"
    );
}

// Attack: CVE-2019-14271
fn hostile_passwd_does_not_matter() {
    let mut b = Bundle::new();
    // runc fails with a line of a mebibyte.
    let length = if runtime::drives_hull() {
        1 << 20
    } else {
        1 << 10
    };
    let long = format!("root:x:0:0:{}:/root:/bin/sh\n", "x".repeat(length));
    for text in [
        "",
        ":::::::\n\n::\n",
        "root:x:99999999999999999999:0::/evil:/bin/sh\n",
        "root\nroot:x\n",
        long.as_str(),
        "\0\0\0",
    ] {
        fs::write(b.rootfs().join("etc/passwd"), text).unwrap();
        assert_eq!(
            b.output_of("id -u"),
            "0",
            "{:?}",
            &text[..text.len().min(40)]
        );
    }
    fs::remove_file(b.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(b.output_of("id -u"), "0");
    symlink("/dev/zero", b.rootfs().join("etc/passwd")).unwrap();
    only_hull!("runc 1.1.5 reads a device without end");
    b.args(&["true"]);
    b.run().success();
}

/// CVE-2019-14271: no process with rights on the host loads a library of the image.
// Attack: CVE-2019-14271
fn hostile_libraries_do_not_matter() {
    let mut b = Bundle::new();
    for d in ["lib", "lib64", "lib/x86_64-linux-gnu", "etc"] {
        fs::create_dir_all(b.rootfs().join(d)).unwrap();
    }
    for f in [
        "lib/libnss_files.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib64/ld-linux-x86-64.so.2",
        "etc/ld.so.preload",
        "etc/ld.so.cache",
    ] {
        fs::write(b.rootfs().join(f), "not a library").unwrap();
    }
    assert_eq!(b.output_of("hostname"), "box");
}

// Attack: CVE-2016-9962
fn program_is_not_dumpable_before_its_start() {
    let b = Bundle::sleeper();
    let c = b.create();
    // The files in /proc of a process that is not dumpable belong to root, whatever its user is.
    let mut user = Bundle::sleeper();
    user.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let waiting = user.create();
    let owner = fs::metadata(format!("/proc/{}/environ", waiting.pid()))
        .unwrap()
        .uid();
    assert_eq!(owner, 0, "the user can trace the waiting process");
    drop(c);
}

/// The process that waits for start is in the container's root, and has no descriptor of a
/// directory of the host.
fn created_container_waits_with_its_own_rights_only() {
    let b = Bundle::sleeper();
    let c = b.create();
    for fd in fs::read_dir(format!("/proc/{}/fd", c.pid()))
        .unwrap()
        .flatten()
    {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        let number: u32 = fd.file_name().to_str().unwrap().parse().unwrap();
        let is_directory = fs::metadata(fd.path()).is_ok_and(|m| m.is_dir());
        assert!(
            number <= 2 || !is_directory,
            "descriptor {number} is the directory {}",
            target.display()
        );
    }
    let root = fs::metadata(format!("/proc/{}/root/.", c.pid())).unwrap();
    assert_eq!(root.ino(), fs::metadata(b.rootfs()).unwrap().ino());
    assert_eq!(c.status_line("CapInh"), "0000000000000000");
}

fn mounts_are_made_below_the_root_only() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let b = Bundle::sleeper();
    let c = b.started();
    let own = |text: String| {
        text.lines()
            .filter(|l| l.contains(b.dir.to_str().unwrap()))
            .count()
    };
    assert_eq!(
        own(fs::read_to_string("/proc/self/mountinfo").unwrap()),
        own(before)
    );
    drop(c);
}

fn run_as_root_without_capabilities_cannot_change_the_host() {
    let mut b = Bundle::new();
    b.writable()
        .add_caps(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    let text = b.output_of(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger \
        /proc/sys/vm/swappiness; do (echo 1 > $f) 2>/dev/null && echo wrote $f; done; true",
    );
    assert_eq!(text, "");
}

/// The container may have mounted anything on its /proc before an exec.
// Attack: CVE-2019-19921, CVE-2025-52881
fn exec_does_not_trust_the_containers_proc() {
    let mut b = Bundle::sh(
        "mount -t tmpfs tmpfs /proc && mkdir -p /proc/self/attr /proc/self/fd /proc/1 && echo \
            fake > /proc/self/status && echo >/tmp/made; exec sleep 1000",
    );
    b.writable();
    b.add_caps(&["CAP_SYS_ADMIN"]);
    let c = b.started();
    let fake = || c.exec(&["cat", "/proc/self/status"]);
    until("the false proc", || {
        fs::exists(b.rootfs().join("tmp/made")).unwrap()
    });
    let out = c.exec(&["echo", "words"]);
    assert!(out.status != 0 || out.stdout == "words\n", "{out:?}");
    assert!(out.status != 0 || fake().stdout == "fake\n", "{:?}", fake());
}

/// Without XDG_RUNTIME_DIR an ordinary user's store is in /tmp, where anybody may make it first.
// Attack: planted files
fn a_store_of_another_user_is_refused() {
    only_hull!("runc's store is its own matter");
    let directory = fixture::new_dir("store");
    let planted = directory.join("planted");
    fs::create_dir(&planted).unwrap();
    let mut runtime = Runtime::new(planted.clone());
    runtime.user = Some(ORDINARY);
    for (owner, mode) in [(0, 0o777), (ORDINARY, 0o777)] {
        std::os::unix::fs::chown(&planted, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(mode)).unwrap();
        for args in [&["list"][..], &["state", "x"], &["delete", "--force", "x"]] {
            assert_has!(runtime.call(args).failure(), "cannot be trusted");
        }
    }
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o700)).unwrap();
    runtime.call(&["list"]).success();
}

// Attack: locks of others
fn the_lock_of_the_networks_is_hulls_alone() {
    only_hull!("runc has no networks");
    let runtime = Runtime::new(fixture::new_dir("state"));
    let networks = runtime.state.join("@networks");
    fs::create_dir_all(&networks).unwrap();
    fs::write(networks.join("lock"), "").unwrap();
    runtime.call(&["network", "create", "one"]);
    let mode = fs::metadata(networks.join("lock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    runtime.call(&["network", "rm", "one"]);
}

/// Annotations come with images. Under the name hull-vm they lead back to the host's kernel only
/// where hull's own config says so.
// Attack: CVE-2026-84042
fn annotations_take_no_isolation_away() {
    only_hull!("runc has one backend");
    let mut b = Bundle::new();
    b.args(&["true"]);
    let program = fixture::new_dir("vm").join("hull-vm");
    std::os::unix::fs::symlink(&b.runtime.program, &program).unwrap();
    b.runtime.program = program;
    let chosen = |b: &Bundle| {
        b.write();
        let out = b.call(&["plan", b.dir.to_str().unwrap()]);
        format!("{}{}", out.stdout, out.stderr)
    };
    b.set("/annotations", json!({ "org.hull.backend": "namespaces" }));
    assert_has!(chosen(&b), "has no effect");
    b.set(
        "/annotations",
        json!({ "io.kubernetes.cri.container-type": "sandbox" }),
    );
    assert_has!(chosen(&b), "allow it in hull's config");
    b.runtime
        .set_defaults("annotations = [\"io.kubernetes.cri.container-type\"]\n");
    let plan = chosen(&b);
    assert!(!plan.contains("allow it"), "{plan}");
    assert_has!(plan, "pivot");
}

// Attack: files without end
fn a_sparse_passwd_ends_exec_soon() {
    let mut b = Bundle::sleeper();
    only_hull!("runc reads all of it");
    let passwd = fs::File::create(b.rootfs().join("etc/passwd")).unwrap();
    passwd.set_len(1 << 40).unwrap();
    b.set("/root/readonly", json!(true));
    let c = b.started();
    assert_eq!(c.exec(&["sh", "-c", "echo $HOME"]).success().stdout, "/\n");
}

// Attack: files without end
fn a_fifo_as_a_namespace_is_an_error() {
    only_hull!("runc waits for a writer");
    let fifo = fixture::new_dir("fifo").join("net");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let mut b = Bundle::new();
    b.args(&["true"]);
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({ "type": "network", "path": fifo }));
    b.run().failure();
}

// Attack: cgroup.procs
fn unified_values_move_no_process() {
    let mut b = Bundle::new();
    b.args(&["true"]);
    for file in ["cgroup.procs", "cgroup.kill", "cgroup.subtree_control"] {
        b.set("/linux/resources/unified", json!({ file: "1" }));
        assert_has!(b.run().failure(), "unified");
    }
}

// Attack: CVE-2024-21626
fn descriptors_of_a_number_out_of_range_are_an_error() {
    only_hull!("runc has other words");
    let mut b = Bundle::new();
    b.args(&["true"]);
    for count in ["4294967295", "4294967293", "2147483647"] {
        let error = b.run_with(&["--preserve-fds", count]).failure();
        assert_has!(error, "preserve-fds");
    }
}

fn sockets_of_another_process_are_not_passed_on() {
    let mut b = Bundle::new();
    for pid in ["", "1"] {
        b.runtime.env = vec![
            ("LISTEN_FDS".into(), "1".into()),
            ("LISTEN_PID".into(), pid.into()),
        ];
        assert_eq!(b.output_of("echo [$LISTEN_FDS]"), "[]");
    }
}

/// In a directory of everybody another user may put a link in the place of a file that hull is about
/// to make.
// Attack: planted files
fn a_pid_file_follows_no_planted_link() {
    let directory = fixture::new_dir("shared");
    let victim = directory.join("victim");
    fs::write(&victim, "as it was").unwrap();
    let file = directory.join("pid");
    let b = Bundle::sleeper();
    b.write();
    for link in ["pid", ".pid", "pid~", ".pid~", "pid.tmp"] {
        let link = directory.join(link);
        if !link.exists() {
            symlink(&victim, link).unwrap();
        }
    }
    let (c, out) = b.try_create(&["--pid-file", file.to_str().unwrap()]);
    out.success();
    let c = c.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&file).unwrap(), c.pid().to_string());
}

/// A line end in a host name would be a line of its neighbours' hosts files.
// Attack: control characters
fn host_names_are_one_word() {
    only_hull!("runc writes no hosts files");
    let mut b = Bundle::new();
    b.args(&["true"]);
    for name in ["a\n192.0.2.1 bank.example", "a\u{1b}[2J", "a\u{9b}2J"] {
        b.set("/hostname", json!(name));
        assert_has!(b.run().failure(), "has a control character");
    }
}

/// Names come from images, configs and containers, and a terminal obeys them.
// Attack: control characters
fn what_hull_prints_cannot_speak_to_the_terminal() {
    only_hull!("runc prints names as they are");
    let strange = "x\u{1b}]0;owned\u{7}\u{9b}2J\nhull: second line";
    let silent = |text: &str, what: &str| {
        let loud = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(loud), "{what}: {text:?}");
        assert!(!text.contains("\nhull: second"), "{what}: {text:?}");
    };
    let mut b = Bundle::sleeper();
    let directory = b.dir.parent().unwrap().join(format!("{strange}-bundle"));
    b.set(
        "/annotations",
        json!({ strange: strange, "org.hull.vm.memory": strange }),
    );
    b.set("/process/args/0", json!(strange));
    silent(&b.run().failure(), "run");
    let plan = b.call(&["plan", b.dir.to_str().unwrap()]);
    silent(&plan.stderr, "plan's warnings");
    silent(&plan.stdout, "plan");
    b.args(&["sleep", "1000"]);
    fs::rename(&b.dir, &directory).unwrap();
    b.dir.clone_from(&directory);
    let c = b.started();
    let list = c.bundle.call(&["list"]);
    let state = c.bundle.call(&["state", &c.bundle.id]);
    silent(&list.success().stdout, "list");
    let state = state.success().stdout;
    silent(&state, "state");
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["bundle"], directory.to_str().unwrap());
}

/// Opening a device may do something by itself: it rewinds a tape, or starts a watchdog.
// Attack: files without end
fn a_device_in_the_place_of_passwd_is_not_opened() {
    only_hull!("runc has no containers from flags");
    let b = Bundle::new();
    let root = b.rootfs();
    let passwd = root.join("etc/passwd");
    let _ = fs::remove_file(&passwd);
    // No driver has this number: open(2) of the device is an error.
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    let device = nix::sys::stat::makedev(240, 77);
    nix::sys::stat::mknod(&passwd, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
    let run = |user: &str| {
        let root = root.to_str().unwrap();
        b.runtime
            .call(&["run", "--rootfs", root, "-u", user, "--", "/bin/id", "-u"])
    };
    assert_eq!(run("77").success().stdout, "77\n");
    assert_has!(run("ada").failure(), "no user");
}

/// A file's name is bytes: `delete` finds the mounts of a container without a mount namespace also
/// where a name is no text.
// Attack: planted files
fn a_mount_point_of_any_bytes_is_unmounted() {
    use std::os::unix::ffi::OsStrExt;
    only_hull!("runc leaves such mounts");
    crate::support::users::private_mounts();
    let mut b = Bundle::sleeper();
    b.without_namespace("mount");
    b.remove("/linux/maskedPaths");
    b.remove("/linux/readonlyPaths");
    b.set("/mounts", json!([]));
    let name = std::ffi::OsStr::from_bytes(b"strange \xff\xfe\nname");
    let point = b.rootfs().join(name);
    fs::create_dir(&point).unwrap();
    let c = b.started();
    nix::mount::mount(
        Some("tmpfs"),
        &point,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    b.call(&["delete", "--force", &c.bundle.id]).success();
    fs::remove_dir(&point).unwrap();
}

/// The lock on a container's directory comes with the clone: a child that lives on when hull was
/// killed must not keep it.
// Attack: locks of others
fn a_child_of_a_killed_hull_holds_up_no_delete() {
    for kind in ["createRuntime", "createContainer"] {
        let mut b = Bundle::sleeper();
        let mark = fixture::new_dir("mark").join("began");
        let script = format!("echo $$ > {}; exec sleep 300", mark.display());
        b.push(
            &format!("/hooks/{kind}"),
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script] }),
        );
        b.write();
        let mut hull = b
            .runtime
            .command(&["create", "--bundle", b.dir.to_str().unwrap(), &b.id])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("the hook has begun", || {
            fs::read_to_string(&mark).is_ok_and(|text| text.ends_with('\n'))
        });
        hull.kill().unwrap();
        hull.wait().unwrap();
        let began = std::time::Instant::now();
        b.call(&["delete", "--force", &b.id]).success();
        let took = began.elapsed();
        // A hook on the host is in no cgroup of the container's: nobody ends it but its own end.
        if kind == "createRuntime" {
            let hook = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
            let hook = nix::unistd::Pid::from_raw(hook);
            nix::sys::signal::kill(hook, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        assert!(took < std::time::Duration::from_secs(5), "{kind}: {took:?}");
    }
}
