//! What procfs tells of the system and of a process.

use super::fd::{Fd, c_string};
use super::{Sys, file};
use std::ffi::CStr;

/// Reads a file of procfs that is a single record (`status`, `stat`, a sysctl): the kernel answers
/// it whole to one read(2) with a large enough buffer.
///
/// # Errors
/// open(2) or read(2) fails: ENOENT or ESRCH, the process has exited; EACCES.
pub fn read_record(path: &CStr) -> Sys<Vec<u8>> {
    let file_fd = Fd(file::openat(libc::AT_FDCWD, path, libc::O_RDONLY, 0)?);
    let mut bytes = vec![0; 8192];
    let mut filled = 0;
    loop {
        filled += file::read(file_fd.0, &mut bytes[filled..])?;
        if filled < bytes.len() {
            bytes.truncate(filled);
            return Ok(bytes);
        }
        bytes.resize(filled * 2, 0);
    }
}

/// The kernel's boot id, empty where procfs is not mounted.
pub fn boot_id() -> String {
    let text = read_record(c"/proc/sys/kernel/random/boot_id").unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Whether a program that was started a moment ago has slept for the first time, has ended, or has
/// had 50 ms of CPU time for whatever it does first. CPU time is counted and not the clock, so that
/// a loaded host makes no difference.
pub fn has_begun(pid: i32) -> bool {
    const ENOUGH_TICKS: u64 = 5;
    let Some(text) = c_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|name| read_record(&name).ok())
    else {
        return true;
    };
    let text = String::from_utf8_lossy(&text);
    // proc(5): after the command's name in parentheses comes the state as the third field; user and
    // system time are the 14th and 15th.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, after)| after)
        .split_whitespace()
        .collect();
    let ticks: u64 = fields
        .iter()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    !matches!(fields.first(), Some(&("R" | "D"))) || ticks >= ENOUGH_TICKS
}

/// A process's state letter and its start time in clock ticks since boot (proc_pid_stat(5)); none
/// where there is no such process.
pub fn process_stat(pid: i32) -> Option<(char, u64)> {
    let name = c_string(format!("/proc/{pid}/stat")).ok()?;
    let text = read_record(&name).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The command's name is in parentheses and may contain anything.
    let after = text.rsplit_once(')')?.1;
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The signals that a process catches, ignores or blocks (proc_pid_status(5)), as a mask of which
/// bit 0 is signal 1; all signals where there is no such process.
pub fn handled(pid: i32) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return u64::MAX;
    };
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .unwrap_or(u64::MAX)
    };
    mask("SigCgt:") | mask("SigIgn:") | mask("SigBlk:")
}
