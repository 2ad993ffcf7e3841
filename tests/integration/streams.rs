//! What hull relays between its own stdio and a container's: the end of an input, line ends, a
//! terminal that is closed for a while; and whose the objects of stdio stay.

use crate::support::console::Terminal;
use crate::support::fixture::{fill_rootfs, give_to, new_dir};
use crate::support::leaks;
use crate::support::runtime::{LIMIT, Runtime, wait};
use crate::support::users::ORDINARY;
use crate::support::{Bundle, until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

tests![
    the_end_of_a_pipe_reaches_the_program_through_its_terminal,
    a_line_editor_sees_the_end_of_a_pipe,
    lines_of_a_terminal_end_in_a_file_as_they_were_written,
    lines_of_a_terminal_end_once_where_stdin_is_a_pipe,
    a_program_may_close_its_terminal_and_open_it_again,
    a_log_goes_on_after_a_terminal_was_closed,
    a_detached_container_has_the_stdin_that_was_asked_for,
    exec_has_the_window_from_its_beginning,
    the_end_of_an_exec_is_no_hangup,
    files_and_devices_of_the_caller_keep_their_owner,
    a_damaged_record_is_listed_and_deleted_by_force,
    a_container_that_is_being_created_is_creating,
];

fn hull() -> Runtime {
    only_hull!("runc has no run --rootfs");
    Runtime::new(new_dir("state"))
}

fn small_root() -> PathBuf {
    let root = new_dir("root");
    fill_rootfs(&root);
    root
}

/// A pseudo-terminal with 33 rows and 101 columns: its master, and its other end.
fn pty() -> (Terminal, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, vec![]).unwrap().into_string().unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 33,
        ws_col: 101,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let other = File::options().read(true).write(true).open(name).unwrap();
    (Terminal(File::from(master)), other)
}

/// `run -it` of a shell script.
fn run_it(runtime: &Runtime, root: &Path, script: &str) -> Command {
    let root = root.to_str().unwrap();
    runtime.command(&["run", "-it", "--rootfs", root, "--", "sh", "-c", script])
}

/// Runs a command with this file as stdin and a terminal as stdout, to its end.
fn with_input(mut command: Command, text: &str) -> String {
    let path = new_dir("stdin").join("input");
    fs::write(&path, text).unwrap();
    let (mut terminal, other) = pty();
    command
        .stdin(File::open(path).unwrap())
        .stdout(other.try_clone().unwrap())
        .stderr(other);
    let child = leaks::spawn(&mut command).unwrap();
    drop(command);
    let said = terminal.read_to_end();
    wait(child, LIMIT);
    said
}

fn the_end_of_a_pipe_reaches_the_program_through_its_terminal() {
    let (runtime, root) = (hull(), small_root());
    for text in ["words\n", "words", ""] {
        let command = run_it(&runtime, &root, "stty -echo; cat; cat; echo over");
        let said = with_input(command, text);
        assert!(said.contains("over"), "{text:?}: {said:?}");
        assert_eq!(said.contains("words"), !text.is_empty(), "{said:?}");
    }
}

fn a_line_editor_sees_the_end_of_a_pipe() {
    let (runtime, root) = (hull(), small_root());
    let said = with_input(run_it(&runtime, &root, "exec sh -i"), "echo $((40+2))\n");
    assert!(said.contains("42"), "{said:?}");
}

fn lines_of_a_terminal_end_in_a_file_as_they_were_written() {
    let (runtime, root) = (hull(), small_root());
    let path = new_dir("out").join("file");
    let (_terminal, other) = pty();
    let mut command = run_it(&runtime, &root, "echo one; echo two");
    command.stdin(other).stdout(File::create(&path).unwrap());
    let child = leaks::spawn(&mut command).unwrap();
    assert_eq!(wait(child, LIMIT), 0);
    assert_eq!(fs::read_to_string(path).unwrap(), "one\ntwo\n");
}

fn lines_of_a_terminal_end_once_where_stdin_is_a_pipe() {
    let (runtime, root) = (hull(), small_root());
    let said = with_input(run_it(&runtime, &root, "echo one; echo two"), "");
    assert!(said.contains("one\r\ntwo\r\n"), "{said:?}");
}

const REOPEN: &str = "exec <&- >&- 2>&-; sleep 1; exec </dev/console >/dev/console 2>&1; echo back";

fn a_program_may_close_its_terminal_and_open_it_again() {
    let (runtime, root) = (hull(), small_root());
    let (mut terminal, other) = pty();
    let script = format!("{REOPEN}; read line; echo got $line");
    let mut command = run_it(&runtime, &root, &script);
    command
        .stdin(other.try_clone().unwrap())
        .stdout(other.try_clone().unwrap())
        .stderr(other);
    let child = leaks::spawn(&mut command).unwrap();
    drop(command);
    terminal.read_until("back");
    terminal.write("words\n");
    terminal.read_until("got words");
    assert_eq!(wait(child, LIMIT), 0);
}

fn a_log_goes_on_after_a_terminal_was_closed() {
    let (runtime, root) = (hull(), small_root());
    let script = format!("{REOPEN}; sleep 100");
    let root = root.to_str().unwrap();
    let args = [
        "run",
        "-dt",
        "--name",
        "streams-log",
        "--rootfs",
        root,
        "--",
    ];
    let args = [&args[..], &["sh", "-c", &script]].concat();
    runtime.call(&args).success();
    until("the log has the line", || {
        runtime
            .call(&["logs", "streams-log"])
            .stdout
            .contains("back")
    });
    runtime
        .call(&["delete", "--force", "streams-log"])
        .success();
}

fn exec_has_the_window_from_its_beginning() {
    let b = Bundle::sleeper();
    only_hull!("runc sets the size after the program has begun");
    let c = b.started();
    for _ in 0..5 {
        let (mut terminal, other) = pty();
        let mut command = b.runtime.command(&["exec", "-t", &b.id, "stty", "size"]);
        command
            .stdin(other.try_clone().unwrap())
            .stdout(other.try_clone().unwrap())
            .stderr(other);
        let child = leaks::spawn(&mut command).unwrap();
        drop(command);
        terminal.read_until("33 101");
        assert_eq!(wait(child, LIMIT), 0);
    }
    drop(c);
}

fn the_end_of_an_exec_is_no_hangup() {
    let b = Bundle::sleeper();
    let c = b.started();
    for _ in 0..8 {
        let (mut terminal, other) = pty();
        let script = "read line; exec <&- >&- 2>&-; sleep 0.1; exit 7";
        let args = ["exec", "-t", &b.id, "sh", "-c", script];
        let mut command = b.runtime.command(&args);
        command
            .stdin(other.try_clone().unwrap())
            .stdout(other.try_clone().unwrap())
            .stderr(other);
        let child = leaks::spawn(&mut command).unwrap();
        drop(command);
        terminal.write("line\n");
        assert_eq!(wait(child, LIMIT), 7);
    }
    drop(c);
}

fn files_and_devices_of_the_caller_keep_their_owner() {
    only_hull!("runc changes the owner of files too");
    let directory = new_dir("files");
    let (input, output) = (directory.join("in"), directory.join("out"));
    fs::write(&input, "words").unwrap();
    let root = small_root();
    let runtime = hull();
    let (_terminal, device) = pty();
    let before = device.metadata().unwrap().uid();
    for stdin in [File::open(&input).unwrap(), device.try_clone().unwrap()] {
        let root = root.to_str().unwrap();
        let args = ["run", "-i", "-u", "1000", "--rootfs", root, "--", "true"];
        let mut command = runtime.command(&args);
        command
            .stdin(stdin)
            .stdout(File::create(&output).unwrap())
            .stderr(Stdio::null());
        let child = leaks::spawn(&mut command).unwrap();
        assert_eq!(wait(child, LIMIT), 0);
    }
    for path in [&input, &output] {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
    }
    assert_eq!(device.metadata().unwrap().uid(), before);
    give_to(&directory, ORDINARY, ORDINARY);
}

fn a_damaged_record_is_listed_and_deleted_by_force() {
    only_hull!("runc fails to list them");
    for text in ["", "{\"version\":", "[]"] {
        let b = Bundle::sleeper();
        let directory = b.runtime.state.join("broken");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("state.json"), text).unwrap();
        let listed = b.call(&["list"]).success();
        assert_has!(listed.stdout, "broken");
        assert_has!(listed.stdout, "damaged");
        let listed = b.call(&["list", "--format", "json"]).success().stdout;
        assert_has!(listed, "\"damaged\"");
        b.call(&["delete", "broken"]).failure();
        b.call(&["delete", "--force", "broken"]).success();
        assert!(!directory.exists(), "{text:?}");
    }
}

fn a_container_that_is_being_created_is_creating() {
    only_hull!("runc 1.1.5 has no record yet");
    let mut b = Bundle::sleeper();
    let out = b.dir.join("seen");
    let call = format!(
        "{} --root {} state {} > {}",
        b.runtime.program.display(),
        b.runtime.state.display(),
        b.id,
        out.display()
    );
    b.spec["hooks"] = json!({ "createRuntime": [
        { "path": "/bin/sh", "args": ["sh", "-c", call] },
    ] });
    let c = b.create();
    let seen = fs::read_to_string(&out).unwrap();
    assert_has!(seen, "\"creating\"");
    drop(c);
}

fn a_detached_container_has_the_stdin_that_was_asked_for() {
    let (runtime, root) = (hull(), small_root());
    let root = root.to_str().unwrap();
    for (flags, said) in [("-di", "words"), ("-d", "")] {
        let args = [
            "run",
            flags,
            "--name",
            "streams-stdin",
            "--rootfs",
            root,
            "--",
        ];
        let args = [&args[..], &["sh", "-c", "cat; echo over"]].concat();
        runtime.call_with_input(&args, "words").success();
        until("the program ends", || {
            runtime
                .call(&["logs", "streams-stdin"])
                .stdout
                .contains("over")
        });
        assert_eq!(
            runtime.call(&["logs", "streams-stdin"]).stdout,
            format!("{said}over\n")
        );
        runtime
            .call(&["delete", "--force", "streams-stdin"])
            .success();
    }
}
