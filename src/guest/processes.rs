//! The processes of the container, as `hull ps` shows them.

use crate::vm::channel::message::Process;

/// How much of a process's command line is reported, in bytes.
const COMMAND: usize = 4096;

/// Reads a process's entry in `/proc` (proc(5)); `None` if the process is gone.
pub(super) fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may have blanks. The field after it is the third, `state`.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (ppid, utime, stime) = (number(1), number(11), number(12));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&line[..line.len().min(COMMAND)])
        .trim_end_matches('\0')
        .replace('\0', " ");
    Some(Process {
        pid,
        parent: ppid as i32,
        uid,
        ticks: utime + stime,
        command,
    })
}
