//! The requests that `checkpoint` makes of criu, option by option, by a double of criu; and the
//! options that act on a terminal or on the network namespace, by the real one.

use crate::support::checkpoint::{Checkpoint, Double, bundle, count, counter, passed, started};
use crate::support::{Bundle, Container, fixture, runtime};
use prost::encoding::encode_varint;
use serde_json::json;
use std::fs;
use std::process::Command;

tests![
    each_option_reaches_criu,
    gnutls_is_initialised_where_criu_may_need_it,
    empty_ns_leaves_the_network_namespace_empty,
    shell_job_keeps_the_callers_terminal,
    a_progress_bar_is_shown_on_a_terminal_only,
];

/// The fields have the numbers of criu's published `rpc.proto`.
fn each_option_reaches_criu() {
    only_hull!("it tests hull's requests");
    let mut b = bundle("sleep 1000");
    let double = Double::of(&mut b);
    let c = started(&b);
    let net = libc::CLONE_NEWNET as u64;
    // The flags, the field and its value.
    let table: &[(&[&str], u64, u64)] = &[
        (&["--leave-running"], 3, 1),
        (&["--ext-unix-sk"], 4, 1),
        (&["--tcp-established"], 5, 1),
        (&["--shell-job"], 7, 1),
        (&["--file-locks"], 8, 1),
        (&["--auto-dedup"], 16, 1),
        (&["--link-remap"], 18, 1),
        (&["--manage-cgroups-mode", "ignore"], 34, 0),
        (&["--manage-cgroups-mode", "soft"], 34, 3),
        (&["--manage-cgroups-mode", "full"], 34, 4),
        (&["--manage-cgroups-mode", "strict"], 34, 5),
        (&["--empty-ns", "network"], 38, net),
        (&["--tcp-skip-in-flight"], 46, 1),
        (&["--tcp-close"], 52, 1),
        (&["--network-lock", "iptables"], 64, 1),
        (&["--network-lock", "nftables"], 64, 2),
        (&["--network-lock", "skip"], 64, 3),
    ];
    for (flags, field, value) in table {
        Checkpoint::new().dump(&b, flags).failure();
        let mut asked = vec![];
        encode_varint(*value, &mut asked);
        assert_eq!(double.request(*field), (vec![1], vec![asked]), "{flags:?}");
    }
    // criu locks the network where it must hold packets back: with connections to keep or to close,
    // or with a link.
    let lock = |flags: &[&str]| {
        Checkpoint::new().dump(&b, flags).failure();
        double.option(64)
    };
    assert_eq!(lock(&[]), Some(vec![3]));
    for flag in ["--tcp-established", "--tcp-close", "--tcp-skip-in-flight"] {
        assert_eq!(lock(&[flag]), None, "{flag}");
    }
    let mut link = Command::new("nsenter");
    link.arg(format!("--net=/proc/{}/ns/net", c.pid()))
        .args(["ip", "link", "add", "type", "veth"]);
    runtime::finish(link, runtime::LIMIT).success();
    assert_eq!(lock(&[]), None);
}

/// criu needs GnuTLS where pages go over a network, or where one of its configuration files may
/// have the option `tls`. Elsewhere hull switches off the initialisation of GnuTLS, which takes
/// time.
fn gnutls_is_initialised_where_criu_may_need_it() {
    only_hull!("it tests the environment that hull gives criu");
    let switched_off = |config: &str, flags: &[&str]| {
        let mut b = bundle("sleep 1000");
        b.set("/annotations", json!({ "org.criu.config": config }));
        b.runtime
            .set_defaults("annotations = [\"org.criu.config\"]\n");
        let double = Double::of(&mut b);
        let _c = started(&b);
        Checkpoint::new().dump(&b, flags).failure();
        double.had_variable("GNUTLS_NO_IMPLICIT_INIT=1")
    };
    let own =
        std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".criu/default.conf"));
    let configured = own.is_some_and(|path| path.exists())
        || std::path::Path::new("/etc/criu/default.conf").exists()
        || std::env::var_os("CRIU_CONFIG_FILE").is_some();
    assert_eq!(switched_off("", &[]), !configured);
    assert!(!switched_off("", &["--page-server", "127.0.0.1:1717"]));
    let file = fixture::new_dir("conf").join("criu.conf");
    fs::write(&file, "tls\n").unwrap();
    assert!(!switched_off(file.to_str().unwrap(), &[]));
}

fn empty_ns_leaves_the_network_namespace_empty() {
    let mut b = counter();
    // Without this capability the container could not change its network namespace, and criu would
    // have nothing to dump.
    b.push("/process/capabilities/bounding", json!("CAP_NET_ADMIN"));
    let _c = started(&b);
    let before = passed(&b, 1);
    let checkpoint = Checkpoint::round(&b, &["--empty-ns", "network"], &["--empty-ns", "network"]);
    passed(&b, before);
    assert!(
        !fs::read_dir(&checkpoint.images)
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("netdev-"))
    );
}

/// Runs a shell script on a terminal of its own; the output.
fn on_a_terminal(script: &str) -> String {
    let mut command = Command::new("script");
    command
        .args(["-qec", script, "/dev/null"])
        .env("HULL_TEST_DIR", fixture::test_scratch());
    runtime::finish(command, runtime::LIMIT).stdout
}

/// A command line of the runtime, as a shell takes it.
fn line(b: &Bundle, args: &[&str]) -> String {
    let command = b.runtime.command(args);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn shell_job_keeps_the_callers_terminal() {
    let b = counter();
    b.write();
    let _c = Container::new(&b);
    let (bundle, checkpoint) = (b.dir.to_str().unwrap(), Checkpoint::new());
    let paths = [
        "--image-path",
        checkpoint.images.to_str().unwrap(),
        "--work-path",
        checkpoint.work.to_str().unwrap(),
    ];
    let counted = b.rootfs().join("tmp/count");
    let steps = [
        line(&b, &["run", "--detach", "--bundle", bundle, &b.id]),
        format!("until [ -s {} ]; do sleep 0.1; done", counted.display()),
        format!(
            "! {}",
            line(&b, &[&["checkpoint"], &paths[..], &[&b.id]].concat())
        ),
        line(
            &b,
            &[&["checkpoint", "--shell-job"], &paths[..], &[&b.id]].concat(),
        ),
        line(
            &b,
            &[
                &["restore", "--detach", "--shell-job", "--bundle", bundle],
                &paths[..],
                &[&b.id],
            ]
            .concat(),
        ),
        format!(
            "{{ last=$(cat {0}); until [ $(cat {0}) -gt $((last + 2)) ]; do sleep 0.1; done; }}",
            counted.display()
        ),
        "echo all is well".to_owned(),
    ];
    let shown = on_a_terminal(&steps.join(" && "));
    assert_has!(shown, "all is well");
    assert_has!(shown, "--shell-job");
    assert!(count(&b) > 0);
}

fn a_progress_bar_is_shown_on_a_terminal_only() {
    only_hull!("runc has no --export");
    let b = counter();
    let _c = started(&b);
    passed(&b, 1);
    let file = fixture::new_dir("export").join("file");
    let args = [
        "checkpoint",
        "--leave-running",
        "--export",
        file.to_str().unwrap(),
        &b.id,
    ];
    let shown = on_a_terminal(&line(&b, &args));
    assert_has!(shown, "saving");
    assert!(file.exists());
    fs::remove_file(&file).unwrap();
    let plain = b.call(&args).success();
    assert_eq!((plain.stdout.as_str(), plain.stderr.as_str()), ("", ""));
    assert!(file.exists());
}
