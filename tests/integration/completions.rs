//! Shell completions (`completions`), manual pages (`man`), and output without colours where it
//! does not go to a terminal.

use crate::support::fixture::new_dir;
use crate::support::runtime::{LIMIT, Runtime, finish, text};
use std::fs;

tests![
    completions_know_the_commands,
    manual_pages_for_all_commands,
    no_colours_without_a_terminal
];

fn hull() -> Runtime {
    only_hull!("runc does not have these commands");
    Runtime::new(new_dir("state"))
}

fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = hull().call(&["completions", shell]).success().stdout;
        for word in ["checkpoint_is_none", "keep-changes", "create", "logs"] {
            assert_eq!(
                script.contains(word),
                word != "checkpoint_is_none",
                "{shell}: {word}"
            );
        }
    }
    // bash itself completes with it.
    let script = hull().call(&["completions", "bash"]).success().stdout;
    let path = new_dir("completions").join("hull.bash");
    fs::write(&path, script).unwrap();
    let ask = format!(
        "source {}; COMP_WORDS=(hull del); COMP_CWORD=1; _hull hull del hull; echo \
            ${{COMPREPLY[*]}}",
        path.display()
    );
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", &ask]);
    assert_eq!(finish(bash, LIMIT).success().stdout.trim(), "delete");
    assert_has!(
        hull().call(&["completions", "csh"]).failure(),
        "possible values"
    );
}

fn manual_pages_for_all_commands() {
    let dir = new_dir("man");
    hull().call(&["man", dir.to_str().unwrap()]).success();
    let help = hull().call(&["--help"]).success().stdout;
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let commands: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 15, "{help}");
    for name in &commands {
        let page = text(dir.join(format!("hull-{name}.1")));
        assert_has!(page, ".TH");
        assert_has!(page, "hull");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), commands.len() + 1);
    assert_has!(text(dir.join("hull-run.1")), "keep");
    let refused = hull().call(&["man", "/proc/hull-man"]).failure();
    assert_has!(refused, "make /proc/hull-man");
}

fn no_colours_without_a_terminal() {
    let mut runtime = hull();
    runtime.env.push(("TERM".into(), "xterm-256color".into()));
    for args in [
        &["state", "nobody"][..],
        &["run", "--rootfs", "/none", "--", "x"],
        &["--help"],
        &["no-such-command"],
        &["list"],
    ] {
        let out = runtime.call(args);
        assert!(
            !out.stdout.contains('\u{1b}') && !out.stderr.contains('\u{1b}'),
            "{args:?}: {out:?}"
        );
        assert!(!out.stderr.contains("hint:"), "{args:?}");
    }
}
