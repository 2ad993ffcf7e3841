//! Errors in the bundle, in `config.json`, in arguments and on the disk: one error message, the
//! right exit status, and nothing left behind.

use crate::support::users::private_mounts;
use crate::support::{Bundle, fixture, runtime};
use nix::mount::MsFlags;
use serde_json::{Value, json};
use std::fs;

tests![
    missing_bundle,
    bundle_without_config,
    unreadable_config,
    config_that_is_a_directory,
    empty_config,
    wrong_json_names_line_and_column,
    deeply_nested_config,
    huge_config,
    wrong_types_everywhere,
    unknown_fields_are_ignored,
    missing_version,
    supported_and_unsupported_versions,
    missing_root,
    missing_process,
    missing_linux_section,
    root_that_is_missing,
    root_that_is_a_file,
    bad_ids,
    longest_id,
    missing_arguments,
    superfluous_arguments,
    program_that_is_missing,
    program_that_is_not_executable,
    program_that_is_a_directory,
    contradictory_namespaces,
    mappings_that_overlap,
    mapping_without_the_process_user,
    exec_with_a_bad_process,
    exec_with_a_bad_user,
    kill_with_a_bad_signal,
    destination_that_is_relative,
    mount_below_a_file,
    full_disk_at_the_state,
    full_disk_at_the_pid_file,
    read_only_state_directory,
    corrupt_state_is_an_error,
    failed_create_leaves_the_id_free,
    console_size_and_terminal_of_wrong_type,
];

/// Asserts that `run` fails with status 1 and one error message, and leaves no record and no
/// cgroup; the error.
#[track_caller]
fn fails(b: &Bundle) -> String {
    let out = b.run();
    assert_eq!(out.status, 1, "{out:?}");
    // runc's text log puts a backslash before each quotation mark.
    let error = out.failure().replace("\\\"", "\"");
    let lines = error
        .trim()
        .lines()
        .filter(|l| !l.contains("level=warning") && !l.contains("warning:"))
        .count();
    assert!(
        lines <= 1 || !runtime::drives_hull(),
        "more than one line:\n{error}"
    );
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
    assert!(!b.cgroup_dir("memory").exists(), "the cgroup is left");
    error
}

/// The number of containers in the state directory: the names of hull's own caches begin with `@`.
fn containers_of(b: &Bundle) -> usize {
    let entries = fs::read_dir(&b.runtime.state)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('@'))
        .count()
}

/// Asserts that `run` fails with status 1 for a configuration that is given as text; the error.
#[track_caller]
fn text_fails(text: &str) -> String {
    let b = Bundle::new();
    fs::write(b.dir.join("config.json"), text).unwrap();
    let out = b.call(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    assert_eq!(out.status, 1, "{out:?}");
    out.failure()
}

fn missing_bundle() {
    let b = Bundle::new();
    let error = b
        .call(&["create", "--bundle", "/no/such/bundle", "some"])
        .failure();
    assert_has!(error, "/no/such/bundle");
    assert_has!(error, "no such file or directory");
}

fn bundle_without_config() {
    let b = Bundle::new();
    let error = b
        .call(&["create", "--bundle", b.dir.to_str().unwrap(), "some"])
        .failure();
    assert_has!(error, "config.json");
}

fn unreadable_config() {
    let b = Bundle::of_ordinary_user();
    b.write();
    fs::set_permissions(
        b.dir.join("config.json"),
        std::os::unix::fs::PermissionsExt::from_mode(0o000),
    )
    .unwrap();
    std::os::unix::fs::chown(b.dir.join("config.json"), Some(0), Some(0)).unwrap();
    assert_has!(
        b.call(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id])
            .failure(),
        "permission denied"
    );
}

fn config_that_is_a_directory() {
    let b = Bundle::new();
    fs::create_dir(b.dir.join("config.json")).unwrap();
    assert_has!(
        b.call(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id])
            .failure(),
        "is a directory"
    );
}

fn empty_config() {
    text_fails("");
    text_fails("{}");
    only_hull!("runc 1.1.5 panics with null and a list");
    text_fails("null");
    text_fails("[]");
}

fn wrong_json_names_line_and_column() {
    let error = text_fails("{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": }\n");
    only_hull!("runc 1.1.5 names neither line nor column");
    assert_has!(error, "line 3");
    assert_has!(error, "column 14");
}

fn deeply_nested_config() {
    let depth = 100_000;
    text_fails(&format!(
        "{{\"annotations\": {}{}}}",
        "[".repeat(depth),
        "]".repeat(depth)
    ));
}

fn huge_config() {
    let mut b = Bundle::new();
    let many: serde_json::Map<String, Value> = (0..20_000)
        .map(|n| (format!("key.{n}"), json!("value".repeat(10))))
        .collect();
    b.set("/annotations", Value::Object(many));
    assert_eq!(b.output_of("hostname"), "box");
}

/// Every value of the default configuration in turn, with a wrong type.
fn wrong_types_everywhere() {
    let b = Bundle::new();
    let mut paths = vec![];
    walk(&b.spec, String::new(), &mut paths);
    // One wrong type for each value: all of them would be too many processes.
    for (n, path) in paths.iter().enumerate() {
        let kind = kind_of(b.spec.pointer(path).unwrap());
        let wrong = [
            json!("text"),
            json!(-7),
            json!({ "some": "object" }),
            json!(["list"]),
            json!(true),
        ];
        let wrong: Vec<&Value> = wrong.iter().filter(|w| kind_of(w) != kind).collect();
        let mut spec = b.spec.clone();
        crate::support::spec::set(&mut spec, path, wrong[n % wrong.len()].clone());
        fs::write(b.dir.join("config.json"), spec.to_string()).unwrap();
        let out = b.call(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
        assert_eq!(
            out.status,
            1,
            "{path} as {}: {out:?}",
            wrong[n % wrong.len()]
        );
        out.failure();
    }
    assert!(paths.len() > 30, "{}", paths.len());
}

fn kind_of(v: &Value) -> u8 {
    match v {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn walk(v: &Value, path: String, paths: &mut Vec<String>) {
    match v {
        Value::Object(members) => {
            for (key, value) in members {
                paths.push(format!("{path}/{key}"));
                walk(value, format!("{path}/{key}"), paths);
            }
        }
        Value::Array(items) if !items.is_empty() => walk(&items[0], format!("{path}/0"), paths),
        _ => {}
    }
}

fn unknown_fields_are_ignored() {
    let mut b = Bundle::new();
    for place in [
        "",
        "/process",
        "/linux",
        "/root",
        "/linux/resources",
        "/process/user",
        "/mounts/0",
        "/linux/namespaces/0",
    ] {
        b.set(
            &format!("{place}/x-unknown-field"),
            json!({ "some": ["thing"] }),
        );
    }
    assert_eq!(b.output_of("hostname"), "box");
}

fn missing_version() {
    only_hull!("runc 1.1.5 does not check the version");
    let mut b = Bundle::new();
    b.remove("/ociVersion");
    assert_has!(fails(&b), "ociversion");
}

fn supported_and_unsupported_versions() {
    for good in [
        "1.0.0",
        "1.0.2-dev",
        "1.1.0+dev",
        "1.2.1",
        "1.3.0",
        "1.99.0",
    ] {
        assert_eq!(
            Bundle::new()
                .set("/ociVersion", json!(good))
                .output_of("hostname"),
            "box",
            "{good}"
        );
    }
    only_hull!("runc 1.1.5 does not check the version");
    for bad in ["2.0.0", "0.9.0", "one", ""] {
        let mut b = Bundle::new();
        b.set("/ociVersion", json!(bad));
        assert_has!(fails(&b), "ociversion");
    }
}

fn missing_root() {
    let mut b = Bundle::new();
    b.remove("/root");
    assert_has!(fails(&b), "root");
}

fn missing_process() {
    let mut b = Bundle::new();
    b.remove("/process");
    assert_has!(fails(&b), "process");
}

fn missing_linux_section() {
    let mut b = Bundle::new();
    b.remove("/linux");
    // Without it there is no mount namespace in which to set the root up.
    fails(&b);
}

fn root_that_is_missing() {
    let mut b = Bundle::new();
    b.set("/root/path", json!("no-such-root"));
    let error = fails(&b);
    assert_has!(error, "no-such-root");
}

fn root_that_is_a_file() {
    let mut b = Bundle::new();
    fs::write(b.dir.join("file"), "").unwrap();
    b.set("/root/path", json!("file"));
    let error = fails(&b);
    assert_has!(error, "not a directory");
}

fn bad_ids() {
    let b = Bundle::sleeper();
    b.write();
    let long = "x".repeat(1025);
    for id in [
        "",
        ".",
        "..",
        "a/b",
        "../up",
        "/abs",
        "a b",
        "a\nb",
        "a%b",
        "ü",
        long.as_str(),
    ] {
        let out = b.call(&["create", "--bundle", b.dir.to_str().unwrap(), id]);
        assert_ne!(out.status, 0, "{id:?}");
        out.failure();
    }
    assert_eq!(containers_of(&b), 0);
}

fn longest_id() {
    let mut b = Bundle::sh("echo here");
    b.id = "a".repeat(255);
    only_hull!("runc 1.1.5 has limits of its own");
    let out = b.run();
    assert!(
        out.status == 0 || out.stderr.contains("too long") || out.stderr.contains("longer"),
        "{out:?}"
    );
    b.id = "A+b_c-d.e0".into();
    assert_eq!(
        b.run().success().stdout,
        "here\n",
        "an id with every kind of character that runc allows"
    );
}

fn missing_arguments() {
    let b = Bundle::new();
    for command in [
        "create", "start", "state", "kill", "delete", "exec", "ps", "pause", "resume", "update",
        "events",
    ] {
        assert_ne!(b.call(&[command]).status, 0, "{command}");
    }
}

fn superfluous_arguments() {
    let b = Bundle::sleeper();
    let c = b.started();
    for command in ["start", "state", "pause", "resume", "create"] {
        assert_ne!(
            b.call(&[command, &b.id, "superfluous"]).status,
            0,
            "{command}"
        );
    }
    assert_eq!(c.status(), "running");
}

fn program_that_is_missing() {
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    let error = fails(&b);
    assert_has!(
        error,
        "exec: \"/no/such/program\": stat /no/such/program: no such file or directory"
    );
    b.args(&["nosuchprogram"]);
    assert_has!(
        fails(&b),
        "exec: \"nosuchprogram\": executable file not found in $path"
    );
}

fn program_that_is_not_executable() {
    let mut b = Bundle::new();
    b.args(&["/etc/passwd"]);
    assert_has!(fails(&b), "exec: \"/etc/passwd\": permission denied");
}

fn program_that_is_a_directory() {
    let mut b = Bundle::new();
    b.args(&["/etc"]);
    let error = fails(&b);
    assert!(
        error.contains("permission denied") || error.contains("is a directory"),
        "{error}"
    );
}

fn contradictory_namespaces() {
    let mut b = Bundle::new();
    b.without_namespace("mount");
    fails(&b);
    let mut b = Bundle::new();
    b.push("/linux/namespaces", json!({ "type": "nosuch" }));
    assert_has!(fails(&b), "nosuch");
    let mut b = Bundle::new();
    b.push("/linux/namespaces", json!({ "type": "user" }));
    fails(&b);
}

fn mappings_that_overlap() {
    let mut b = Bundle::with_user_namespace();
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 10 }, { "containerID": 5, "hostID": 300_000, "size": 10 }]);
    b.set("/linux/uidMappings", map);
    fails(&b);
}

fn mapping_without_the_process_user() {
    let mut b = Bundle::with_user_namespace();
    b.set("/process/user", json!({ "uid": 70_000, "gid": 0 }));
    fails(&b);
}

fn exec_with_a_bad_process() {
    let b = Bundle::sleeper();
    let c = b.started();
    for process in [
        json!({}),
        json!([]),
        json!({ "args": "sh" }),
        json!({ "cwd": "/", "user": {}, "args": [] }),
        json!({ "cwd": "relative", "user": {}, "args": ["true"] }),
    ] {
        assert_ne!(c.exec_process(&process).status, 0, "{process}");
    }
    c.exec_with(&["--process", "/no/such/file"], &[]).failure();
    assert_ne!(c.exec(&[]).status, 0, "no program at all");
    c.exec_with(
        &["--cwd", "/no/such/directory/in/a/read-only/root"],
        &["true"],
    )
    .failure();
}

fn exec_with_a_bad_user() {
    let b = Bundle::sleeper();
    let c = b.started();
    // runc lets a number of 33 bits overflow to 0, and ignores the text after a second colon.
    let stricter = [
        "4294967296",
        "4294967295",
        "1:4294967296",
        "1:2:3",
        "+1",
        "0x1",
    ];
    let more = if runtime::drives_hull() {
        &stricter[..]
    } else {
        &[]
    };
    for user in ["root", "-1", "1:x", "x:1", " 1", "1 "].iter().chain(more) {
        let out = c.exec_with(&["--user", user], &["id", "-u"]);
        assert_ne!(out.status, 0, "{user:?}: {out:?}");
    }
    let ids = |user| {
        c.exec_with(&["--user", user], &["sh", "-c", "id -u; id -g"])
            .success()
            .stdout
    };
    assert_eq!(ids("7"), "7\n0\n");
    assert_eq!(ids("7:9"), "7\n9\n");
}

fn kill_with_a_bad_signal() {
    let b = Bundle::sleeper();
    let c = b.started();
    for signal in ["NOSUCH", "999", "-1", "9x"] {
        assert_ne!(c.kill(signal).status, 0, "{signal:?}");
    }
    assert_eq!(c.status(), "running");
}

/// The specification demands an absolute path; runc makes the path absolute and warns, and old
/// configurations of engines rely on that.
fn destination_that_is_relative() {
    let mut b = Bundle::new();
    b.mount("mnt", "tmpfs", "tmpfs", &[]);
    assert_eq!(b.output_of("grep -c ' /mnt ' /proc/self/mountinfo"), "1");
}

fn mount_below_a_file() {
    let mut b = Bundle::new();
    b.mount("/etc/passwd/below", "tmpfs", "tmpfs", &[]);
    assert_has!(fails(&b), "not a directory");
}

/// A tmpfs of a few pages, all of which are used.
fn full_directory() -> std::path::PathBuf {
    private_mounts();
    let dir = fixture::new_dir("full");
    fixture::mount_tmpfs(&dir, MsFlags::empty(), Some("size=16k"));
    fs::create_dir(dir.join("state")).unwrap();
    fs::write(dir.join("filler"), vec![0; 1 << 20]).unwrap_err();
    dir
}

fn full_disk_at_the_state() {
    let dir = full_directory();
    let mut b = Bundle::sleeper();
    b.runtime.state = dir.join("state");
    let error = fails(&b);
    if runtime::drives_hull() {
        assert_has!(error, "no space left on device");
    }
    assert_eq!(containers_of(&b), 0);
}

fn full_disk_at_the_pid_file() {
    let dir = full_directory();
    let b = Bundle::sleeper();
    assert_has!(
        b.try_create(&["--pid-file", dir.join("pid").to_str().unwrap()])
            .1
            .failure(),
        "no space left on device"
    );
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
}

fn read_only_state_directory() {
    private_mounts();
    let dir = fixture::new_dir("read-only");
    fixture::mount_tmpfs(&dir, MsFlags::MS_RDONLY, None);
    let mut b = Bundle::sleeper();
    b.runtime.state = dir;
    assert_has!(fails(&b), "read-only file system");
}

fn corrupt_state_is_an_error() {
    let b = Bundle::sleeper();
    let broken = b.runtime.state.join("broken");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("state.json"), "{ not json").unwrap();
    b.call(&["state", "broken"]).failure();
    let c = b.started();
    // A broken record must not hide the others.
    assert_has!(b.call(&["list", "--quiet"]).stdout, b.id);
    drop(c);
    fs::remove_dir_all(broken).unwrap();
}

fn failed_create_leaves_the_id_free() {
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    fails(&b);
    assert_eq!(b.output_of("echo second"), "second");
}

fn console_size_and_terminal_of_wrong_type() {
    let mut b = Bundle::new();
    b.set("/process/consoleSize", json!({ "height": -1, "width": 10 }));
    fails(&b);
    let mut b = Bundle::new();
    b.set("/process/terminal", json!("yes"));
    fails(&b);
}
