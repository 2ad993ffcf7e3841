//! `process.terminal` and `process.consoleSize`: the pty of the program and of `exec`, the console
//! socket, sizes and settings.

use crate::support::console::{FdSocket, Received, Terminal};
use crate::support::{Bundle, Container, fixture, until};
use rustix::termios::{OutputModes, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize};
use serde_json::json;
use std::fs;

tests![
    create_sends_the_terminal,
    program_has_the_terminal_as_its_own,
    console_is_the_terminal,
    terminal_passes_text_both_ways,
    interrupt_reaches_the_program,
    console_size_is_set,
    resize_reaches_the_program,
    output_settings_are_the_kernels,
    terminal_without_console_socket_is_an_error,
    console_socket_without_terminal_is_an_error,
    console_socket_that_is_missing_is_an_error,
    console_socket_may_have_a_long_path,
    exec_has_a_terminal_of_its_own,
    exec_with_a_process_file_has_a_terminal,
    terminal_belongs_to_the_user,
    terminal_in_a_user_namespace,
    terminal_of_an_ordinary_user,
    run_detached_with_a_terminal,
    run_on_a_terminal_copies_it,
    hang_up_comes_with_the_end,
];

fn with_terminal(script: &str) -> Bundle {
    let mut b = Bundle::sh(script);
    b.set("/process/terminal", json!(true));
    b
}

fn created<'a>(b: &'a Bundle, socket: &FdSocket) -> Container<'a> {
    let (c, out) = b.try_create(&["--console-socket", socket.path.to_str().unwrap()]);
    out.success();
    c.unwrap()
}

/// A container that runs, and its terminal.
fn on_terminal(b: &Bundle) -> (Container<'_>, Terminal) {
    let socket = FdSocket::new();
    let c = created(b, &socket);
    let t = socket.terminal();
    c.start();
    (c, t)
}

fn create_sends_the_terminal() {
    let b = with_terminal("echo hello from the box");
    let socket = FdSocket::new();
    let c = created(&b, &socket);
    let Received {
        text: name, fds, ..
    } = socket.receive();
    assert_eq!(fds.len(), 1);
    assert!(!name.is_empty(), "the message carries the terminal's name");
    let mut t = Terminal(fs::File::from(fds.into_iter().next().unwrap()));
    c.start();
    t.read_until("hello from the box\r\n");
}

fn program_has_the_terminal_as_its_own() {
    let b = with_terminal(
        "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; awk '{print $7}' /proc/1/stat; \
            echo up > /dev/tty; echo over",
    );
    let (_c, mut t) = on_terminal(&b);
    let text = t.read_until("over");
    assert_has!(text, "all three");
    assert_has!(text, "\nup\r");
    assert!(
        text.contains("/dev/pts/0") || text.contains("/dev/console"),
        "{text}"
    );
    assert!(
        !text.contains("\n0\r"),
        "it has a controlling terminal: {text}"
    );
}

// Attack: CVE-2025-52565
fn console_is_the_terminal() {
    let b = with_terminal(
        "stat -c '%F %t:%T' /dev/console; echo words > /dev/console; grep -c ' /dev/console ' \
            /proc/self/mountinfo; echo over",
    );
    let (_c, mut t) = on_terminal(&b);
    let text = t.read_until("over");
    assert_has!(text, "character special file 88:0\r\nwords\r\n1\r\n");
}

fn terminal_passes_text_both_ways() {
    let b = with_terminal("echo ready; read line; echo got $line");
    let (c, mut t) = on_terminal(&b);
    t.read_until("ready");
    t.write("some words\n");
    t.read_until("got some words");
    c.wait_for("stopped");
}

fn interrupt_reaches_the_program() {
    let b =
        with_terminal("trap 'echo caught; exit 0' INT; echo ready; while :; do sleep 0.05; done");
    let (c, mut t) = on_terminal(&b);
    t.read_until("ready");
    t.write("\x03");
    t.read_until("caught");
    c.wait_for("stopped");
}

fn console_size_is_set() {
    let mut b = with_terminal("stty size; echo over");
    b.set(
        "/process/consoleSize",
        json!({ "height": 33, "width": 111 }),
    );
    let socket = FdSocket::new();
    let c = created(&b, &socket);
    let mut t = socket.terminal();
    assert_eq!(tcgetwinsize(&t.0).unwrap().ws_row, 33);
    c.start();
    assert_has!(t.read_until("over"), "33 111");
}

fn resize_reaches_the_program() {
    let b =
        with_terminal("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done");
    let (_c, mut t) = on_terminal(&b);
    t.read_until("ready");
    tcsetwinsize(
        &t.0,
        Winsize {
            ws_row: 44,
            ws_col: 99,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
    t.read_until("44 99");
}

/// runc does not change the settings of the pty. (Another runtime cleared ONLCR, and the lines of
/// the output were not aligned.)
fn output_settings_are_the_kernels() {
    let b = with_terminal("sleep 1000");
    let socket = FdSocket::new();
    let _c = created(&b, &socket);
    let t = socket.terminal();
    let modes = tcgetattr(&t.0).unwrap().output_modes;
    assert!(
        modes.contains(OutputModes::OPOST | OutputModes::ONLCR),
        "{modes:?}"
    );
}

fn terminal_without_console_socket_is_an_error() {
    let b = with_terminal("true");
    assert_has!(b.try_create(&[]).1.failure(), "console socket");
}

fn console_socket_without_terminal_is_an_error() {
    let b = Bundle::sleeper();
    let socket = FdSocket::new();
    let error = b
        .try_create(&["--console-socket", socket.path.to_str().unwrap()])
        .1
        .failure();
    assert_has!(error, "console socket");
}

fn console_socket_that_is_missing_is_an_error() {
    let b = with_terminal("true");
    b.try_create(&["--console-socket", "/no/such/socket"])
        .1
        .failure();
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
}

/// `sockaddr_un` holds 108 bytes; engines' state directories may be deeper.
fn console_socket_may_have_a_long_path() {
    let b = with_terminal("echo from the box; sleep 1000");
    let socket = FdSocket::new();
    let mut long = socket.path.parent().unwrap().join("d".repeat(150));
    std::fs::create_dir(&long).unwrap();
    long.push("s");
    std::fs::rename(&socket.path, &long).unwrap();
    let (c, out) = b.try_create(&["--console-socket", long.to_str().unwrap()]);
    out.success();
    let _terminal = socket.terminal();
    c.unwrap().start();
}

fn exec_has_a_terminal_of_its_own() {
    let b = Bundle::sleeper();
    let c = b.started();
    let socket = FdSocket::new();
    let file = fixture::new_dir("pid").join("pid");
    let flags = [
        "--tty",
        "--detach",
        "--console-socket",
        socket.path.to_str().unwrap(),
        "--pid-file",
        file.to_str().unwrap(),
    ];
    c.exec_with(
        &flags,
        &["sh", "-c", "tty; stty size; read line; echo got $line"],
    )
    .success();
    let mut t = socket.terminal();
    t.write("words\n");
    let text = t.read_until("got words");
    assert_has!(text, "/dev/pts/0");
}

fn exec_with_a_process_file_has_a_terminal() {
    let b = Bundle::sleeper();
    let c = b.started();
    let socket = FdSocket::new();
    let file = fixture::new_dir("process").join("process.json");
    let process = json!({
        "terminal": true, "consoleSize": { "height": 21, "width": 77 }, "cwd": "/", "user": { "uid": 0, "gid": 0 },
        "env": ["PATH=/bin"], "args": ["sh", "-c", "stty size; echo over"]
    });
    fs::write(&file, process.to_string()).unwrap();
    c.call(&[
        "exec",
        "--detach",
        "--process",
        file.to_str().unwrap(),
        "--console-socket",
        socket.path.to_str().unwrap(),
    ])
    .success();
    assert_has!(socket.terminal().read_until("over"), "21 77");
}

fn terminal_belongs_to_the_user() {
    let mut b = with_terminal("stat -c '%u' /dev/pts/0; echo over");
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let (_c, mut t) = on_terminal(&b);
    assert_has!(t.read_until("over"), "1000\r\n");
}

fn terminal_in_a_user_namespace() {
    let mut b = with_terminal("echo words > /dev/console; tty; read line; echo got $line");
    b.add_user_namespace();
    let (_c, mut t) = on_terminal(&b);
    t.read_until("words");
    t.write("something\n");
    t.read_until("got something");
}

fn terminal_of_an_ordinary_user() {
    let mut b = Bundle::of_ordinary_user();
    b.args(&[
        "sh",
        "-c",
        "echo words > /dev/console; read line; echo got $line",
    ])
    .set("/process/terminal", json!(true));
    let (_c, mut t) = on_terminal(&b);
    t.read_until("words");
    t.write("something\n");
    t.read_until("got something");
}

fn run_detached_with_a_terminal() {
    let b = with_terminal("echo words; sleep 1000");
    let socket = FdSocket::new();
    b.run_with(&[
        "--detach",
        "--console-socket",
        socket.path.to_str().unwrap(),
    ])
    .success();
    let c = Container::new(&b);
    socket.terminal().read_until("words");
    assert_eq!(c.status(), "running");
}

/// In the foreground the runtime copies between two terminals.
fn run_on_a_terminal_copies_it() {
    let b = with_terminal(
        "echo ready; until stty size 2>&1 | grep '27 83'; do sleep 0.05; done; read line; echo \
            got $line; exit 9",
    );
    b.write();
    let pty = nix::pty::openpty(
        &nix::pty::Winsize {
            ws_row: 27,
            ws_col: 83,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
        None,
    )
    .unwrap();
    let mut t = Terminal(fs::File::from(pty.master));
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    command
        .stdin(pty.slave.try_clone().unwrap())
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave);
    let mut child = crate::support::leaks::spawn(&mut command).unwrap();
    drop(command);
    let text = t.read_until("ready");
    t.write("words\n");
    let text = text + &t.read_until("got words");
    assert_has!(text, "27 83");
    assert!(
        crate::support::harness::wait_within(&mut child, crate::support::runtime::LIMIT),
        "run hangs on a terminal"
    );
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn hang_up_comes_with_the_end() {
    let b = with_terminal("echo last words");
    let (c, mut t) = on_terminal(&b);
    assert_has!(t.read_to_end(), "last words");
    until("the end", || c.status() == "stopped");
}
