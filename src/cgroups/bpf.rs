//! Device rules on v2: a BPF program that the kernel runs at every open and mknod of a device.
//!
//! ```text
//!   r2 = kind, r3 = accesses that no rule has allowed yet, r4 = major, r5 = minor
//!   for each rule from the last to the first, where kind and numbers match:
//!       allow: take its accesses from r3; none left: return 1
//!       deny:  one of its accesses in r3: return 0
//!   return the default
//! ```
//! So the last rule that matches an access decides on it, also where different rules allow
//! different accesses, or where a rule is an exception from a wider one, which v1 cannot hold.

use super::devices::{ALL, Device, Kind, Rule, Rules};
use crate::sys::bpf::{
    Name, attach_device_program, detach_device_program, device_programs, load_device_program,
};
use crate::{Context, Result};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// The name by which hull finds its own program among others (systemd attaches one to its units).
const NAME: Name = *b"hull_devices\0\0\0\0";

/// Opcodes (include/uapi/linux/bpf.h, bpf_common.h): class, operation, source.
mod op {
    pub const LDX_MEM_W: u8 = 0x61;
    pub const MOV32_REG: u8 = 0xbc;
    pub const MOV64_IMM: u8 = 0xb7;
    pub const AND32_IMM: u8 = 0x54;
    pub const RSH32_IMM: u8 = 0x74;
    pub const JNE_IMM: u8 = 0x55;
    pub const JEQ_IMM: u8 = 0x15;
    pub const EXIT: u8 = 0x95;
}

/// One instruction as the kernel's 64-bit word.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(off as u16) << 16
        | u64::from(imm) << 32
}

/// The program for a list of rules, as `struct bpf_insn` in 64-bit words.
pub fn program(rules: &Rules) -> Vec<u64> {
    let mut code = vec![
        // struct bpf_cgroup_dev_ctx: kind in the lower half of the first word, accesses in the
        // upper; major; minor.
        insn(op::LDX_MEM_W, 2, 1, 0, 0),
        insn(op::MOV32_REG, 3, 2, 0, 0),
        insn(op::AND32_IMM, 2, 0, 0, 0xffff),
        insn(op::RSH32_IMM, 3, 0, 0, 16),
        insn(op::LDX_MEM_W, 4, 1, 4, 0),
        insn(op::LDX_MEM_W, 5, 1, 8, 0),
    ];
    for rule in rules.rules.iter().rev() {
        let body = one(rule);
        let Device { kind, major, minor } = rule.device;
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let tests: Vec<(u8, u32)> = [
            Some((2, kind)),
            major.map(|m| (4, m)),
            minor.map(|m| (5, m)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let count = tests.len();
        for (n, (register, value)) in tests.into_iter().enumerate() {
            // To behind the remaining tests and the body.
            let off = (count - n - 1 + body.len()) as i16;
            code.push(insn(op::JNE_IMM, register, 0, off, value));
        }
        code.extend(body);
    }
    code.extend(answer(rules.default_allow));
    code
}

fn answer(allow: bool) -> [u64; 2] {
    [
        insn(op::MOV64_IMM, 0, 0, 0, u32::from(allow)),
        insn(op::EXIT, 0, 0, 0, 0),
    ]
}

/// The instructions for a rule that matches.
fn one(rule: &Rule) -> Vec<u64> {
    let access = u32::from(rule.access);
    let mut body = match (rule.access == ALL, rule.allow) {
        (true, _) => Vec::new(),
        (false, true) => vec![
            insn(op::AND32_IMM, 3, 0, 0, u32::from(ALL) & !access),
            insn(op::JNE_IMM, 3, 0, 2, 0),
        ],
        (false, false) => vec![
            insn(op::MOV32_REG, 6, 3, 0, 0),
            insn(op::AND32_IMM, 6, 0, 0, access),
            insn(op::JEQ_IMM, 6, 0, 2, 0),
        ],
    };
    body.extend(answer(rule.allow));
    body
}

/// Attaches the rules' program to a cgroup, in the place of hull's earlier one: at every moment one
/// of the two is attached.
///
/// # Errors
/// bpf(2) fails: EPERM without CAP_BPF in the initial user namespace; E2BIG or EINVAL, too many
/// rules.
pub(super) fn apply(cgroup: BorrowedFd<'_>, dir: &str, rules: &Rules) -> Result<()> {
    let new = load_device_program(&program(rules), NAME).on("load the device program of", dir)?;
    let old = device_programs(cgroup).on("query the device programs of", dir)?;
    let mine: Vec<_> = old
        .into_iter()
        .filter(|(_, name)| *name == NAME)
        .map(|(program, _)| program)
        .collect();
    let mut rest = &mine[..];
    match mine.split_first() {
        None => attach_device_program(cgroup, new.as_fd(), None)
            .on("attach the device program to", dir)?,
        Some((first, others)) => {
            match attach_device_program(cgroup, new.as_fd(), Some(first.as_fd())) {
                Ok(()) => rest = others,
                // Before Linux 5.6 both are attached for a moment, and both must allow an access.
                Err(Errno::EINVAL) => attach_device_program(cgroup, new.as_fd(), None)
                    .on("attach the device program to", dir)?,
                Err(errno) => return Err(errno).on("replace the device program of", dir),
            }
        }
    }
    for program in rest {
        match detach_device_program(cgroup, program.as_fd()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).on("detach the earlier device program of", dir),
        }
    }
    Ok(())
}
