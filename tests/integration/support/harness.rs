//! Runs each test in a process of its own. A test may therefore change its namespaces and its user;
//! the harness kills a test that hangs, and blames what is left behind (a mount, a cgroup, a
//! process, a state directory) on the test that left it.

use super::{backend, fixture, leaks};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A test: its name with its module's, and its function. It fails by a panic.
#[derive(Clone, Copy)]
pub struct Test {
    /// `integration::module::function`
    pub name: &'static str,
    /// The test itself.
    pub run: fn(),
}

impl Test {
    fn short(&self) -> &'static str {
        self.name
            .split_once("::")
            .map_or(self.name, |(_, rest)| rest)
    }
}

/// The longest that one test may take before the harness kills it as hung.
const LIMIT: Duration = Duration::from_secs(240);

struct Skip(String);

/// Ends the test as skipped.
pub fn skip(reason: String) -> ! {
    std::panic::panic_any(Skip(reason))
}

struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    jobs: usize,
    list: bool,
    nocapture: bool,
    child: Option<String>,
}

fn options() -> Options {
    let mut o = Options {
        filters: vec![],
        skips: vec![],
        jobs: 3,
        list: false,
        nocapture: false,
        child: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => o.list = true,
            "--nocapture" => o.nocapture = true,
            "--skip" => o.skips.extend(args.next()),
            "--jobs" | "--test-threads" => {
                o.jobs = args
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("--jobs needs a number")
            }
            "--child" => o.child = args.next(),
            flag if flag.starts_with('-') => {}
            _ => o.filters.push(arg),
        }
    }
    o
}

/// The suite's entry point.
pub fn main(modules: &[&[Test]]) -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--probe") {
        return super::raw::probe();
    }
    if std::env::args().nth(1).as_deref() == Some("swrk") {
        return super::programs::criu_double();
    }
    let o = options();
    let all = modules.iter().flat_map(|m| m.iter().copied());
    if let Some(name) = &o.child {
        let test = all
            .into_iter()
            .find(|t| t.short() == name)
            .expect("no such test");
        return child(test);
    }
    let chosen: VecDeque<Test> = all
        .filter(|t| {
            o.filters.is_empty() || o.filters.iter().any(|f| t.short().contains(f.as_str()))
        })
        .filter(|t| !o.skips.iter().any(|s| t.short().contains(s.as_str())))
        .collect();
    if o.list {
        chosen.iter().for_each(|t| println!("{}", t.short()));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("the suite needs root: it makes cgroups, namespaces and ordinary users");
        return ExitCode::FAILURE;
    }
    parent(chosen, &o)
}

/// In the test's own process: runs the test. The exit status tells the result.
fn child(test: Test) -> ExitCode {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .expect("cannot become a subreaper");
    let not_applicable = backend::is_vm()
        .then(|| backend::not_applicable(test.short()))
        .flatten();
    if let Some(reason) = not_applicable {
        println!("SKIP not applicable in VM mode: {reason}");
        return ExitCode::from(77);
    }
    super::runtime::prepare_view();
    super::runtime::start_reaper();
    let old = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<Skip>().is_none() {
            old(info);
        }
    }));
    match std::panic::catch_unwind(test.run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(payload) => match payload.downcast_ref::<Skip>() {
            Some(Skip(reason)) => {
                println!("SKIP {reason}");
                ExitCode::from(77)
            }
            None => ExitCode::from(101),
        },
    }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<Test>,
    skipped: usize,
}

/// Up to this many tests that failed beside others are tried once more, alone: a broken test fails
/// again, and one that suffered from two busy cores does not. The harness prints both results.
const SECOND_TRIES: usize = 6;

impl Tally {
    fn second_tries(&mut self) -> Vec<Test> {
        if self.failed.len() > SECOND_TRIES {
            vec![]
        } else {
            std::mem::take(&mut self.failed)
        }
    }
}

fn parent(chosen: VecDeque<Test>, o: &Options) -> ExitCode {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .expect("cannot become a subreaper");
    let scratch = fixture::make_suite_scratch();
    let before = leaks::Host::now();
    let (queue, tally) = (Mutex::new(chosen), Mutex::new(Tally::default()));
    std::thread::scope(|s| {
        for _ in 0..o.jobs {
            s.spawn(|| {
                while let Some(test) = { queue.lock().unwrap().pop_front() } {
                    one_or_failed(test, &scratch, o.nocapture, &tally);
                }
            });
        }
    });
    let once_more = tally
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .second_tries();
    for test in &once_more {
        println!("AGAIN {}", test.short());
        one_or_failed(*test, &scratch, o.nocapture, &tally);
    }
    let mut t = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    std::fs::remove_dir_all(&scratch).ok();
    let mut failed: Vec<&str> = t.failed.iter().map(Test::short).collect();
    let left = before.left_since();
    if left.is_empty() {
        println!("PASS nothing_left_behind");
        t.passed += 1;
    } else {
        println!("FAIL nothing_left_behind\n  {}", left.join("\n  "));
        failed.push("nothing_left_behind");
    }
    if !failed.is_empty() {
        println!("\nfailed:\n  {}", failed.join("\n  "));
    }
    let second: Vec<&str> = once_more
        .iter()
        .map(Test::short)
        .filter(|name| !failed.contains(name))
        .collect();
    if !second.is_empty() {
        println!(
            "\npassed at the second try only:\n  {}",
            second.join("\n  ")
        );
    }
    println!(
        "{} passed, {} failed, {} skipped",
        t.passed,
        failed.len(),
        t.skipped
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one test. Where the harness itself fails (no process can be made, the disk is full), that
/// fails the test, and the suite goes on.
fn one_or_failed(test: Test, scratch: &Path, nocapture: bool, tally: &Mutex<Tally>) {
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        one(test, scratch, nocapture, tally)
    }));
    if ran.is_err() {
        println!("FAIL {} (the harness itself)", test.short());
        tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .failed
            .push(test);
    }
}

fn one(test: Test, scratch: &Path, nocapture: bool, tally: &Mutex<Tally>) {
    let log_path = scratch.join(format!("{}.log", test.short().replace("::", ".")));
    let log = File::create(&log_path).expect("cannot make the test's log");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--child", test.short()])
        .env("HULL_TEST_SCRATCH", scratch)
        .stdin(Stdio::null())
        .process_group(0);
    if !nocapture {
        command.env("RUST_BACKTRACE", "0");
        command.stdout(log.try_clone().unwrap()).stderr(log);
    }
    let mut process = leaks::spawn(&mut command).expect("cannot start the test's process");
    let pid = process.id();
    // Not `patience` times: after two hung tests an emulated host must have time for the others.
    let limit = LIMIT * super::runtime::patience().min(2);
    let hung_processes = if ends_within(&process, limit) {
        vec![]
    } else {
        leaks::hung_processes(&scratch.join(pid.to_string()))
    };
    let hung = !wait_within(&mut process, Duration::ZERO);
    let code = process.wait().expect("cannot wait for the test").code();
    leaks::own().remove(&pid.cast_signed());
    let left = leaks::after_test(pid, &scratch.join(pid.to_string()));
    // What a hung test leaves behind must not fail the suite as well.
    hung_processes.iter().for_each(leaks::Hung::end);
    let said = std::fs::read_to_string(&log_path).unwrap_or_default();
    let mut t = tally.lock().unwrap_or_else(PoisonError::into_inner);
    record(test, code.filter(|_| !hung && left.is_empty()), &said);
    match (hung, code, left.is_empty()) {
        (false, Some(0), true) => {
            t.passed += 1;
            println!("PASS {}", test.short());
        }
        (false, Some(77), true) => {
            t.skipped += 1;
            let reason = said
                .lines()
                .rev()
                .find_map(|l| l.strip_prefix("SKIP "))
                .unwrap_or("no reason given");
            println!("SKIP {} ({reason})", test.short());
        }
        _ => {
            t.failed.push(test);
            println!("FAIL {}{}", test.short(), if hung { " (hung)" } else { "" });
            said.lines()
                .filter(|l| !l.starts_with("note: "))
                .for_each(|l| println!("  {l}"));
            hung_processes
                .iter()
                .for_each(|process| println!("  hung: {}", process.line));
            left.iter().for_each(|l| println!("  left behind: {l}"));
        }
    }
}

/// Adds a line to the file that `HULL_TEST_RESULTS` names: the test, its result, and the reason
/// where it was skipped.
fn record(test: Test, code: Option<i32>, said: &str) {
    let Some(path) = std::env::var_os("HULL_TEST_RESULTS") else {
        return;
    };
    let (result, reason) = match code {
        Some(0) => ("pass", ""),
        Some(77) => (
            "skip",
            said.lines()
                .rev()
                .find_map(|l| l.strip_prefix("SKIP "))
                .unwrap_or_default(),
        ),
        _ => ("fail", ""),
    };
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("cannot open the file of results");
    writeln!(file, "{}\t{result}\t{reason}", test.short())
        .expect("cannot write the file of results");
}

/// Whether a child ends in the time given.
fn ends_within(process: &Child, limit: Duration) -> bool {
    pidfd_open(Pid::from_child(process), PidfdFlags::empty())
        .is_ok_and(|fd| readable_within(&fd, limit))
}

/// Waits for a child's end; kills it, through its pidfd, when the time is over. False if killed.
pub fn wait_within(process: &mut Child, limit: Duration) -> bool {
    let pid = Pid::from_child(process);
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    if readable_within(&fd, limit) {
        return true;
    }
    pidfd_send_signal(&fd, Signal::KILL).ok();
    false
}

/// Whether a descriptor becomes readable (or its other side is closed) in the time given.
pub fn readable_within(fd: &impl std::os::fd::AsFd, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let until = std::time::Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}
