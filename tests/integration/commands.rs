//! Commands that report (`list`, `ps`, `spec`, `features`, `--version`, `--help`), global options,
//! and the log that engines read.

use crate::support::backend::is_vm;
use crate::support::{Bundle, fixture, runtime, until};
use serde_json::Value;
use std::fs;
use std::process::Command;

tests![
    version_has_the_lines_that_docker_reads,
    help_of_every_command,
    unknown_command_is_an_error,
    unknown_flag_is_an_error,
    list_as_table_json_and_quiet,
    list_of_no_state_directory_is_empty,
    ps_as_table_and_json,
    ps_takes_options_of_ps,
    spec_writes_a_config_that_runs,
    spec_rootless_runs_as_an_ordinary_user,
    spec_does_not_overwrite,
    features_is_a_document,
    log_in_json_has_one_object_with_the_error,
    log_as_text,
    log_is_appended_to,
    without_log_the_error_is_on_standard_error,
    log_that_cannot_be_opened_is_an_error,
    debug_says_more,
    successful_commands_say_nothing,
    a_reader_that_leaves_ends_the_command_quietly,
    root_is_made_where_it_is_missing,
    rootless_flag_is_accepted,
    systemd_cgroup_without_systemd_is_an_error,
    spec_has_a_cgroup_namespace_where_runc_has_one,
    without_a_cgroup_manager_the_container_stays_in_the_callers_cgroup,
    exec_with_an_empty_user_is_the_containers_user,
    console_sockets_may_have_long_paths,
    the_version_is_printed_after_global_options_too,
    errors_name_the_limit_and_the_characters_of_an_id,
];

fn plain(args: &[&str]) -> runtime::Output {
    let mut c = Command::new(runtime::path());
    c.args(args).stdin(std::process::Stdio::null());
    runtime::finish(c, runtime::LIMIT)
}

fn version_has_the_lines_that_docker_reads() {
    let text = plain(&["--version"]).success().stdout;
    let lines: Vec<&str> = text.lines().collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(words[1], "version", "{text}");
    assert!(words[2].starts_with(|c: char| c.is_ascii_digit()), "{text}");
    assert!(lines.iter().any(|l| l.starts_with("commit: ")), "{text}");
    assert!(lines.iter().any(|l| l.starts_with("spec: 1.")), "{text}");
    assert!(
        lines.iter().any(|l| l.starts_with("libseccomp: 2.")),
        "{text}"
    );
    assert_eq!(plain(&["-v"]).success().stdout, text);
}

fn help_of_every_command() {
    let text = plain(&["--help"]).success().stdout;
    let commands = [
        "create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "pause",
        "resume", "update", "events", "spec", "features",
    ];
    for command in commands {
        assert_has!(text, command);
        assert_has!(plain(&[command, "--help"]).success().stdout, command);
    }
}

fn unknown_command_is_an_error() {
    // runc prints its help to standard output.
    let out = plain(&["nosuchcommand"]);
    assert_ne!(out.status, 0);
    assert_has!(format!("{}{}", out.stdout, out.stderr), "nosuchcommand");
}

fn unknown_flag_is_an_error() {
    let b = Bundle::sleeper();
    b.write();
    let out = b.call(&[
        "create",
        "--no-such-flag",
        "--bundle",
        b.dir.to_str().unwrap(),
        &b.id,
    ]);
    assert_ne!(out.status, 0);
    assert_has!(format!("{}{}", out.stdout, out.stderr), "no-such-flag");
}

fn list_as_table_json_and_quiet() {
    let b = Bundle::sleeper();
    let c = b.started();
    let table = b.call(&["list"]).success().stdout;
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        row[..4],
        [
            &b.id,
            &c.pid().to_string(),
            "running",
            b.dir.to_str().unwrap()
        ]
    );
    assert_eq!(row[5], "root");
    assert_eq!(
        b.call(&["list", "--quiet"]).success().stdout,
        format!("{}\n", b.id)
    );
    let list: Value =
        serde_json::from_str(&b.call(&["list", "--format", "json"]).success().stdout).unwrap();
    assert_eq!(list[0]["id"], b.id.as_str());
    assert_eq!(list[0]["status"], "running");
    assert_eq!(list[0]["pid"], c.pid());
    assert_eq!(list[0]["owner"], "root");
    assert_has!(b.call(&["list", "--format", "xml"]).failure(), "format");
}

fn list_of_no_state_directory_is_empty() {
    let b = Bundle::new();
    let out = b.call(&["list", "--format", "json"]).success().stdout;
    assert!(matches!(out.trim(), "null" | "[]"), "{out}");
    assert_eq!(b.call(&["list", "--quiet"]).success().stdout, "");
}

fn ps_as_table_and_json() {
    let b = Bundle::sh("sleep 999 & sleep 1000; true");
    let c = b.started();
    until("both children", || {
        b.cgroup_file("pids", "cgroup.procs").lines().count() == 3
    });
    let out = c.call(&["ps", "--format", "json"]).success();
    let mut pids: Vec<i32> = serde_json::from_str(&out.stdout).unwrap();
    pids.sort_unstable();
    let text = b.cgroup_file("pids", "cgroup.procs");
    let mut expected: Vec<i32> = text.lines().map(|l| l.parse().unwrap()).collect();
    expected.sort_unstable();
    // In VM mode, ps prints pids of the guest, and the cgroup file has those of the container.
    assert!(
        if is_vm() {
            pids.len() == expected.len()
        } else {
            pids == expected
        },
        "{pids:?} {expected:?}"
    );
    assert_eq!(out.stderr, "");
    let table = c.call(&["ps"]).success().stdout;
    assert_has!(table.lines().next().unwrap(), "PID");
    assert_eq!(table.lines().count(), 4);
    assert_has!(table, "sleep 999");
}

fn ps_takes_options_of_ps() {
    let b = Bundle::sleeper();
    let _c = b.started();
    let out = b.call(&["ps", &b.id, "-o", "pid,comm"]).success().stdout;
    assert_has!(out, "sleep");
    assert_eq!(out.lines().count(), 2, "{out}");
}

fn spec_in(b: &Bundle, flags: &[&str]) -> runtime::Output {
    let mut c = b.runtime.command(&[&["spec"], flags].concat());
    c.current_dir(&b.dir);
    runtime::finish(c, runtime::LIMIT)
}

/// Reads the configuration that `spec` wrote, and switches its terminal off.
fn read_spec(b: &mut Bundle) {
    b.spec = serde_json::from_str(&fs::read_to_string(b.dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(b.spec["process"]["terminal"], true);
    b.set("/process/terminal", false.into());
}

fn spec_writes_a_config_that_runs() {
    let mut b = Bundle::new();
    spec_in(&b, &[]).success();
    read_spec(&mut b);
    let ours = crate::support::spec::default_spec();
    for part in ["root", "mounts", "process"] {
        let mut part_of_ours = ours[part].clone();
        part_of_ours.as_object_mut().map(|o| o.remove("terminal"));
        b.spec[part].as_object_mut().map(|o| o.remove("terminal"));
        crate::support::spec::remove(&mut b.spec, "/process/capabilities/ambient");
        assert_eq!(b.spec[part], part_of_ours, "{part}");
    }
    let cgroup = b.cgroup.clone();
    b.set("/linux/cgroupsPath", cgroup.into());
    assert_eq!(
        b.output_of("hostname; id -u"),
        format!("{}\n0", b.spec["hostname"].as_str().unwrap())
    );
    let dir = fixture::new_dir("elsewhere");
    b.call(&["spec", "--bundle", dir.to_str().unwrap()])
        .success();
    assert!(dir.join("config.json").exists());
}

fn spec_rootless_runs_as_an_ordinary_user() {
    let mut b = Bundle::of_ordinary_user();
    spec_in(&b, &["--rootless"]).success();
    read_spec(&mut b);
    assert_eq!(
        b.spec["linux"]["uidMappings"][0]["hostID"],
        crate::support::users::ORDINARY
    );
    assert_eq!(b.output_of("id -u"), "0");
}

fn spec_does_not_overwrite() {
    let b = Bundle::new();
    fs::write(b.dir.join("config.json"), "mine").unwrap();
    spec_in(&b, &[]).failure();
    assert_eq!(
        fs::read_to_string(b.dir.join("config.json")).unwrap(),
        "mine"
    );
}

fn features_is_a_document() {
    let text = plain(&["features"]).success().stdout;
    let f: Value = serde_json::from_str(&text).unwrap();
    assert!(f["ociVersionMin"].as_str().unwrap().starts_with("1."));
    assert!(f["ociVersionMax"].as_str().unwrap().starts_with("1."));
    let has = |path: &str, item: &str| {
        let list = f
            .pointer(path)
            .and_then(Value::as_array)
            .unwrap_or_else(|| panic!("{path} is missing"));
        assert!(list.iter().any(|v| v == item), "{item} is not in {path}");
    };
    // The annotation of runc by which engines know that checkpoints are supported.
    assert_eq!(
        f["annotations"]["org.opencontainers.runc.checkpoint.enabled"],
        "true"
    );
    for hook in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        has("/hooks", hook);
    }
    for option in [
        "bind",
        "rbind",
        "ro",
        "rro",
        "nosuid",
        "tmpcopyup",
        "rprivate",
        "rslave",
    ] {
        has("/mountOptions", option);
    }
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        has("/linux/namespaces", namespace);
    }
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    assert_eq!(f["linux"]["cgroup"]["v1"], true);
    assert_eq!(f["linux"]["seccomp"]["enabled"], true);
    if runtime::drives_hull() {
        has("/linux/namespaces", "time");
        has("/mountOptions", "idmap");
        assert_eq!(f["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(!text.contains("null"), "unknown parts must be left out");
    }
}

/// Runs a failing command with the flags of the log; the text of the log.
fn logged(b: &Bundle, format: &[&str]) -> String {
    let log = fixture::new_dir("log").join("log");
    let args = [
        &["--log", log.to_str().unwrap()],
        format,
        &["state", "none"],
    ]
    .concat();
    assert_eq!(b.call(&args).status, 1);
    fs::read_to_string(log).unwrap()
}

fn log_in_json_has_one_object_with_the_error() {
    let text = logged(&Bundle::new(), &["--log-format", "json"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    let object: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(object["level"], "error");
    assert_has!(object["msg"].as_str().unwrap(), "container does not exist");
    assert!(object["time"].as_str().unwrap().contains('T'));
    // The same for a failure in the container's init.
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    b.write();
    let log = fixture::new_dir("log").join("log");
    b.call(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format=json",
        "create",
        "--bundle",
        b.dir.to_str().unwrap(),
        &b.id,
    ]);
    let text = fs::read_to_string(log).unwrap();
    let errors: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|o: &Value| o["level"] == "error")
        .collect();
    assert_has!(
        errors.last().unwrap()["msg"].as_str().unwrap(),
        "no such file or directory"
    );
    if runtime::drives_hull() {
        assert_eq!(
            text.lines().count(),
            1,
            "conmon's reader takes exactly one object: {text}"
        );
    }
}

fn log_as_text() {
    let text = logged(&Bundle::new(), &["--log-format", "text"]);
    assert_has!(text, "level=error");
    assert_has!(text, "container does not exist");
    assert_eq!(
        logged(&Bundle::new(), &[]).matches("level=error").count(),
        1,
        "text is the default"
    );
    assert_has!(
        Bundle::new()
            .call(&["--log-format", "xml", "list"])
            .failure(),
        "xml"
    );
}

fn log_is_appended_to() {
    let b = Bundle::new();
    let log = fixture::new_dir("log").join("log");
    for _ in 0..2 {
        b.call(&[
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "state",
            "none",
        ]);
    }
    assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 2);
}

fn without_log_the_error_is_on_standard_error() {
    let out = Bundle::new().call(&["state", "none"]);
    assert_eq!(out.stdout, "");
    assert_has!(out.failure(), "container does not exist");
}

fn log_that_cannot_be_opened_is_an_error() {
    assert_has!(
        Bundle::new()
            .call(&["--log", "/no/such/directory/log", "list"])
            .failure(),
        "no such file or directory"
    );
}

fn debug_says_more() {
    let b = Bundle::sh("true");
    b.write();
    let out = b
        .call(&["--debug", "run", "--bundle", b.dir.to_str().unwrap(), &b.id])
        .success();
    assert_has!(out.stderr, "level=debug");
}

fn successful_commands_say_nothing() {
    let b = Bundle::sleeper();
    let (c, out) = b.try_create(&[]);
    let c = c.unwrap();
    let mut said = vec![out];
    said.push(c.call(&["start"]));
    said.push(c.exec(&["true"]));
    said.push(c.call(&["pause"]));
    said.push(c.call(&["resume"]));
    said.push(c.call(&["update", "--pids-limit", "30"]));
    said.push(c.kill("KILL"));
    c.wait_for("stopped");
    said.push(c.call(&["delete"]));
    for out in said {
        assert_eq!(
            (out.status, out.stdout.as_str(), out.stderr.as_str()),
            (0, "", "")
        );
    }
}

/// As `state ID | head -0`: the program ends by SIGPIPE, as programs do that do not handle it.
fn a_reader_that_leaves_ends_the_command_quietly() {
    use std::os::unix::process::ExitStatusExt;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = Command::new(runtime::path())
        .arg("features")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(out.status.signal(), Some(libc::SIGPIPE));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}

fn root_is_made_where_it_is_missing() {
    let mut b = Bundle::sh("echo here");
    b.runtime.state = b.dir.join("state/deep/er");
    assert_eq!(b.run().success().stdout, "here\n");
    let mode = fs::metadata(&b.runtime.state).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o077 & !0o011,
        0,
        "the mode of the state directory lets others read it"
    );
    fs::remove_dir_all(b.dir.join("state")).unwrap();
}

fn rootless_flag_is_accepted() {
    let mut b = Bundle::of_ordinary_user();
    for value in ["auto", "true"] {
        b.runtime.global = vec![format!("--rootless={value}")];
        assert_eq!(b.output_of("id -u"), "0");
    }
    b.runtime.global = vec!["--rootless=maybe".into()];
    b.run().failure();
}

fn systemd_cgroup_without_systemd_is_an_error() {
    if std::path::Path::new("/run/systemd/system").exists() {
        skip!("systemd runs here");
    }
    let mut b = Bundle::sleeper();
    b.runtime.global = vec!["--systemd-cgroup".into()];
    b.set("/linux/cgroupsPath", "system.slice:hull:test".into());
    assert_has!(b.try_create(&[]).1.failure(), "systemd");
}

fn spec_has_a_cgroup_namespace_where_runc_has_one() {
    let b = Bundle::new();
    spec_in(&b, &[]).success();
    let text = fs::read_to_string(b.dir.join("config.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_str(&text).unwrap();
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    let has = namespaces
        .iter()
        .any(|namespace| namespace["type"] == "cgroup");
    assert_eq!(has, crate::support::cgroups::is_pure_v2());
}

fn without_a_cgroup_manager_the_container_stays_in_the_callers_cgroup() {
    only_hull!("it is an option of crun's");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut b = Bundle::new();
    for part in ["resources", "cgroupsPath"] {
        b.spec["linux"].as_object_mut().unwrap().remove(part);
    }
    b.without_namespace("cgroup");
    b.runtime.global = vec!["--cgroup-manager=disabled".into()];
    b.args(&["sleep", "1000"]);
    let c = b.started();
    let of_init = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert_eq!(of_init, own);
    assert_eq!(c.exec(&["echo", "here"]).success().stdout, "here\n");
    c.kill("KILL").success();
    c.wait_for("stopped");
    let mut b = Bundle::new();
    b.runtime.global = vec!["--cgroup-manager=cgroupfs".into()];
    assert_eq!(b.output_of("echo here"), "here");
}

fn exec_with_an_empty_user_is_the_containers_user() {
    only_hull!("runc 1.1.5 refuses it");
    let mut b = Bundle::sleeper();
    b.set(
        "/process/user",
        serde_json::json!({ "uid": 1000, "gid": 29 }),
    );
    let c = b.started();
    let out = c.exec_with(&["-u", ""], &["id", "-u"]).success();
    assert_eq!(out.stdout, "1000\n");
}

fn console_sockets_may_have_long_paths() {
    only_hull!("runc fails with EINVAL");
    let long = fixture::new_dir("long").join("d".repeat(120));
    fs::create_dir(&long).unwrap();
    let directory = fs::File::open(&long).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let short = format!("/proc/self/fd/{number}/socket");
    let listener = std::os::unix::net::UnixListener::bind(short).unwrap();
    let mut b = Bundle::sleeper();
    b.set("/process/terminal", true.into());
    let socket = long.join("socket");
    let (c, out) = b.try_create(&["--console-socket", socket.to_str().unwrap()]);
    out.success();
    let (stream, _) = listener.accept().unwrap();
    let (_, descriptors) = crate::support::console::receive_on(&stream);
    assert_eq!(descriptors.len(), 1);
    drop(c);
}

fn the_version_is_printed_after_global_options_too() {
    let b = Bundle::new();
    let out = b.call(&["--version"]).success().stdout;
    assert_has!(out, "version");
}

fn errors_name_the_limit_and_the_characters_of_an_id() {
    only_hull!("runc has other words");
    let mut b = Bundle::new();
    let limit = serde_json::json!([
        { "type": "RLIMIT_NOFILE", "soft": 99_999_999_999_u64, "hard": 99_999_999_999_u64 },
    ]);
    b.set("/process/rlimits", limit);
    b.args(&["true"]);
    assert_has!(b.run().failure(), "rlimit_nofile");
    b.id = "an id".into();
    assert_has!(b.run().failure(), "letters, digits");
    let mut b = Bundle::new();
    b.args(&["echo", &"x".repeat(3_000_000)]);
    let said = b.run().stderr;
    assert_has!(said, "argument list too long");
}
