//! What is asked of checkpoint reaches criu; what needs a terminal, a page server or an empty
//! network is carried out.

use crate::checkpoint_world::{
    Double, Saved, bundle, count, counter, criu, guard, passed, started,
};
use crate::support::{Bundle, fixture, leaks, runtime, until};
use prost::encoding::encode_varint;
use serde_json::json;
use std::fs;
use std::process::{Command, Stdio};

tests![
    each_option_reaches_criu,
    criu_is_ready_for_tls_where_it_may_need_it,
    pages_go_to_a_page_server,
    a_network_namespace_is_left_empty_when_asked,
    a_program_on_the_callers_terminal,
    a_bar_is_shown_to_people_alone,
];

/// The test's own program stands for criu and writes the request down. Field numbers of criu's
/// published `rpc.proto`.
fn each_option_reaches_criu() {
    only_hull!("what hull asks of criu");
    let mut b = bundle("sleep 1000");
    let double = Double::of(&mut b);
    let c = started(&b);
    let net = libc::CLONE_NEWNET as u64;
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
        Saved::new().checkpoint(&b, flags).failure();
        let mut asked = vec![];
        encode_varint(*value, &mut asked);
        assert_eq!(double.asked(*field), (vec![1], vec![asked]), "{flags:?}");
    }
    // The network is locked where there may be something to hold back: connections to keep or to
    // close, or a link.
    let lock = |flags: &[&str]| {
        Saved::new().checkpoint(&b, flags).failure();
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

/// criu relies on its library's being ready where pages go over a network, or one of its
/// configuration files may say `tls`.
fn criu_is_ready_for_tls_where_it_may_need_it() {
    only_hull!("what hull spares criu");
    let spared = |config: &str, flags: &[&str]| {
        let mut b = bundle("sleep 1000");
        b.set("/annotations", json!({ "org.criu.config": config }));
        let double = Double::of(&mut b);
        let _c = started(&b);
        Saved::new().checkpoint(&b, flags).failure();
        double.had("GNUTLS_NO_IMPLICIT_INIT=1")
    };
    let own =
        std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".criu/default.conf"));
    let configured = own.is_some_and(|path| path.exists())
        || std::path::Path::new("/etc/criu/default.conf").exists()
        || std::env::var_os("CRIU_CONFIG_FILE").is_some();
    assert_eq!(spared("", &[]), !configured);
    assert!(!spared("", &["--page-server", "127.0.0.1:1717"]));
    let file = fixture::new_dir("conf").join("criu.conf");
    fs::write(&file, "tls\n").unwrap();
    assert!(!spared(file.to_str().unwrap(), &[]));
}

/// criu's own page server, in a network namespace that the test makes.
fn pages_go_to_a_page_server() {
    let b = counter();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let mut up = Command::new("ip");
    up.args(["link", "set", "lo", "up"]);
    runtime::finish(up, runtime::LIMIT).success();
    let c = started(&b);
    let before = passed(&b, 1);
    let (saved, pages) = (Saved::new(), fixture::new_dir("pages"));
    let mut server = Command::new(criu());
    server
        .args([
            "page-server",
            "--address",
            "127.0.0.1",
            "--port",
            "1717",
            "--log-file",
            "log",
            "--images-dir",
        ])
        .arg(&pages);
    let mut server = leaks::spawn(
        server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
    .unwrap();
    // 1717 in state LISTEN (10).
    until("the page server", || {
        runtime::text("/proc/net/tcp")
            .lines()
            .any(|line| line.contains(":06B5 ") && line.contains(" 0A "))
    });
    saved.dumped(&b, &["--page-server", "127.0.0.1:1717"]);
    let pid = server.id().cast_signed();
    assert!(
        server.wait().unwrap().success(),
        "{}",
        runtime::text(pages.join("log"))
    );
    leaks::OWN.lock().unwrap().remove(&pid);
    let is_pages = |name: &str| name.starts_with("pages-");
    let names = |folder: &std::path::Path| -> Vec<String> {
        fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    };
    assert!(
        !names(&saved.images).iter().any(|name| is_pages(name)),
        "the pages are with the server alone"
    );
    assert!(names(&pages).iter().any(|name| is_pages(name)));
    for name in names(&pages).iter().filter(|name| name.starts_with("page")) {
        fs::copy(pages.join(name), saved.images.join(name)).unwrap();
    }
    saved.restore(&b, &[]).success();
    passed(&b, before);
    assert_eq!(c.status(), "running");
}

fn a_network_namespace_is_left_empty_when_asked() {
    let mut b = counter();
    // One that could have changed it.
    b.push("/process/capabilities/bounding", json!("CAP_NET_ADMIN"));
    let _c = started(&b);
    let before = passed(&b, 1);
    let saved = Saved::round(&b, &["--empty-ns", "network"], &["--empty-ns", "network"]);
    passed(&b, before);
    assert!(
        !fs::read_dir(&saved.images)
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("netdev-"))
    );
}

/// A shell script on a terminal of its own; gives what it showed.
fn on_a_terminal(script: &str) -> String {
    let mut command = Command::new("script");
    command
        .args(["-qec", script, "/dev/null"])
        .env("HULL_TEST_DIR", fixture::test_scratch());
    runtime::finish(command, runtime::LIMIT).stdout
}

fn line(b: &Bundle, args: &[&str]) -> String {
    let command = b.runtime.command(args);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn a_program_on_the_callers_terminal() {
    let b = counter();
    b.write();
    let _c = guard(&b);
    let (bundle, saved) = (b.dir.to_str().unwrap(), Saved::new());
    let paths = [
        "--image-path",
        saved.images.to_str().unwrap(),
        "--work-path",
        saved.work.to_str().unwrap(),
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

fn a_bar_is_shown_to_people_alone() {
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
