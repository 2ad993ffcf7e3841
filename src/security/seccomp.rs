//! The seccomp filter (config-linux.md, Seccomp), compiled to the bytes that seccomp(2) takes.
//!
//! libseccomp compiles the rules, as in the runtimes for which profiles are written. In front of
//! its program hull puts a prefix of its own ([`newer`]): a call with a number above all that the
//! profile names did not exist for the profile's author, and answers ENOSYS, so that the C library
//! falls back to an older call instead of failing at EPERM.
//!
//! Absent `flags` mean SPEC_ALLOW where the kernel has it (a filter should not slow the program
//! down by the mitigation of speculative store bypass, which newer kernels leave off for seccomp as
//! well); an empty list means no flag. Engines rely on both.
#![forbid(unsafe_code)]

pub mod cache;
#[cfg(test)]
pub(super) mod interpreter;
mod newer;
#[cfg(test)]
mod tests;

use crate::spec::config::{Seccomp, Syscall, SyscallArg};
use crate::sys;
use crate::{Context, Error, Result};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    ScmpVersion,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompOperator};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// `SECCOMP_FILTER_FLAG_LOG` of linux/seccomp.h.
const LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
const SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since Linux 5.19.
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The flags that a config may name. TSYNC is accepted and has no effect: the process has one
/// thread when it loads the filter.
pub const KNOWN_FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", LOG),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE_RECV),
];

/// Calls for which SCMP_ACT_NOTIFY is refused, as in runc: a runtime makes them to hand the
/// listener over, so that nobody could answer them. For every later call the agent has the
/// listener.
pub const HANDOFF_CALLS: [&str; 1] = ["write"];

/// hull lets libseccomp build a binary tree for more rules than this; for fewer, a list is shorter.
/// (libseccomp up to 2.5.4 builds a wrong tree of no rule.)
const TREE_ABOVE: usize = 32;

/// The largest error number that libseccomp takes, one below the kernel's MAX_ERRNO of linux/err.h.
const MAX_ERRNO: u32 = 4094;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// An array of `struct sock_filter` in native layout, 1 to 4096 instructions of 8 bytes.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2), NEW_LISTENER among them if the filter notifies.
    pub flags: u32,
    /// Loading the filter returns a listener, which hull sends to `listenerPath`.
    pub notify: bool,
    /// The calls with SCMP_ACT_NOTIFY, in the profile's order.
    pub notified: Vec<String>,
    /// Which rules were skipped and why, one sentence each. They are for the debug log: engines'
    /// profiles name calls of newer kernels.
    pub warnings: Vec<String>,
}

/// Whether a section asks for a filter: one without a default action and rules does not.
pub fn is_asked(seccomp: &Seccomp) -> bool {
    seccomp.default_action.is_some() || !seccomp.syscalls.is_empty()
}

/// Compiles a section to BPF; of the kernel it depends only on the supported flags.
///
/// # Errors
/// A rule, flag, architecture or listener setting is not valid, or this kernel or libseccomp does
/// not support it; the program has more instructions than the kernel takes.
pub fn compile(seccomp: &Seccomp) -> Result<Filter> {
    let notified = validate(seccomp)?;
    let (flags, flag_warnings) = flags(seccomp, !notified.is_empty())?;
    let (program, mut warnings) = program(seccomp)?;
    warnings.extend(flag_warnings);
    Ok(Filter {
        program,
        flags,
        notify: !notified.is_empty(),
        notified,
        warnings,
    })
}

/// The version of the linked libseccomp, such as `2.5.4`.
pub fn library_version() -> String {
    match ScmpVersion::current() {
        Ok(version) => version.to_string(),
        Err(_) => String::from("unknown"), // the call cannot fail on a library that linked
    }
}

/// The architectures that the linked libseccomp knows, in the spec's names, sorted.
pub fn known_architectures() -> Vec<String> {
    const ALL: [Arch; 23] = [
        Arch::ScmpArchX86,
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX32,
        Arch::ScmpArchArm,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchMips,
        Arch::ScmpArchMips64,
        Arch::ScmpArchMips64n32,
        Arch::ScmpArchMipsel,
        Arch::ScmpArchMipsel64,
        Arch::ScmpArchMipsel64n32,
        Arch::ScmpArchPpc,
        Arch::ScmpArchPpc64,
        Arch::ScmpArchPpc64le,
        Arch::ScmpArchS390,
        Arch::ScmpArchS390x,
        Arch::ScmpArchParisc,
        Arch::ScmpArchParisc64,
        Arch::ScmpArchRiscv64,
        Arch::ScmpArchLoongarch64,
        Arch::ScmpArchM68k,
        Arch::ScmpArchSh,
        Arch::ScmpArchSheb,
    ];
    let known = |arch: &&Arch| ScmpSyscall::from_name_by_arch("read", architecture(**arch)).is_ok();
    let mut names: Vec<String> = ALL.iter().filter(known).map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

/// The flags of [`KNOWN_FLAGS`] that this kernel has.
pub fn supported_flags() -> Vec<&'static str> {
    KNOWN_FLAGS
        .iter()
        .filter(|(_, flag)| {
            let needs_listener = if *flag == WAIT_KILLABLE_RECV {
                NEW_LISTENER
            } else {
                0
            };
            sys::seccomp::flags_supported(flag | needs_listener)
        })
        .map(|(name, _)| *name)
        .collect()
}

/// Checks what libseccomp does not; returns the calls with SCMP_ACT_NOTIFY.
fn validate(seccomp: &Seccomp) -> Result<Vec<String>> {
    if seccomp.default_action == Some(LinuxSeccompAction::ScmpActNotify) {
        return Err(Error::new(
            "seccomp: SCMP_ACT_NOTIFY cannot be used as default action",
        ));
    }
    let mut notified = Vec::new();
    for Syscall { names, action, .. } in &seccomp.syscalls {
        if *action != Some(LinuxSeccompAction::ScmpActNotify) {
            continue;
        }
        if let Some(name) = names
            .iter()
            .find(|name| HANDOFF_CALLS.contains(&name.as_str()))
        {
            return Err(Error::new(format!(
                "seccomp: SCMP_ACT_NOTIFY cannot be used for the {name} syscall"
            )));
        }
        notified.extend(names.iter().cloned());
    }
    let listener = seccomp.listener_path.as_deref().unwrap_or_default();
    if listener.is_empty() && !notified.is_empty() {
        return Err(Error::new(
            "seccomp: SCMP_ACT_NOTIFY is used but seccomp listenerPath is not set",
        ));
    }
    if listener.is_empty()
        && seccomp
            .listener_metadata
            .as_deref()
            .is_some_and(|metadata| !metadata.is_empty())
    {
        return Err(Error::new(
            "seccomp: listenerMetadata is set but listenerPath is not set",
        ));
    }
    Ok(notified)
}

/// The flags for seccomp(2), and warnings about flags without effect.
fn flags(seccomp: &Seccomp, notify: bool) -> Result<(u32, Vec<String>)> {
    let listener = if notify { NEW_LISTENER } else { 0 };
    let mut warnings = Vec::new();
    let mut flags = listener;
    let Some(names) = &seccomp.flags else {
        let wanted = listener | SPEC_ALLOW;
        return Ok((
            if sys::seccomp::flags_supported(wanted) {
                wanted
            } else {
                listener
            },
            warnings,
        ));
    };
    for name in names {
        let Some((_, flag)) = KNOWN_FLAGS.iter().find(|(known, _)| known == name) else {
            return Err(Error::new(format!("seccomp flag {name} is not known")));
        };
        if *flag == WAIT_KILLABLE_RECV && !notify {
            warnings.push(format!(
                "seccomp flag {name} left off: no call is notified of"
            ));
        } else if !sys::seccomp::flags_supported(flag | listener) {
            return Err(Error::new(format!(
                "seccomp flag {name} is not supported by this kernel"
            )));
        } else {
            flags |= flag;
        }
    }
    Ok((flags, warnings))
}

/// The program, and which rules were skipped.
fn program(seccomp: &Seccomp) -> Result<(Vec<u8>, Vec<String>)> {
    let default = seccomp
        .default_action
        .ok_or_else(|| Error::new("seccomp: defaultAction is missing"))?;
    let default_action = action(default, seccomp.default_errno_ret, "defaultErrnoRet")?;
    let mut filter =
        ScmpFilterContext::new(default_action).map_err(|e| failed("create filter", &e))?;
    // The child sets no_new_privs itself, in its place of the order.
    filter
        .set_ctl_nnp(false)
        .map_err(|e| failed("leave no_new_privs alone", &e))?;
    let mut archs = vec![ScmpArch::native()]; // libseccomp starts with it
    for named in &seccomp.architectures {
        let arch = architecture(*named);
        filter
            .add_arch(arch)
            .map_err(|e| failed(&format!("add architecture {named}"), &e))?;
        if arch != ScmpArch::Native && !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    let mut warnings = Vec::new();
    let mut rules = 0;
    for entry in &seccomp.syscalls {
        rules += add_entry(&mut filter, entry, default_action, &mut warnings)?;
    }
    if rules > TREE_ABOVE {
        filter
            .set_ctl_optimize(2)
            .map_err(|e| failed("order rules as a tree", &e))?;
    }
    let mut program = match default_action {
        // A profile that allows by default allows new calls too. (With a tracer as the default, the
        // tracer answers for new calls.)
        ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) => Vec::new(),
        ScmpAction::Errno(libc::ENOSYS) => Vec::new(), // the filter itself answers so
        _ => newer::prefix(&newer::last_calls(seccomp, &archs)),
    };
    export(&filter, &mut program)?;
    let count = program.len() / sys::seccomp::INSTRUCTION_SIZE;
    if count > sys::seccomp::MAX_INSTRUCTIONS {
        let most = sys::seccomp::MAX_INSTRUCTIONS;
        return Err(Error::new(format!(
            "seccomp: the filter has {count} instructions, and the kernel takes {most} at most"
        )));
    }
    Ok((program, warnings))
}

/// Adds the rules of one entry of `syscalls`; returns how many.
fn add_entry(
    filter: &mut ScmpFilterContext,
    entry: &Syscall,
    default: ScmpAction,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    let Syscall {
        names,
        action: named,
        errno_ret,
        args,
    } = entry;
    let named = named.ok_or_else(|| {
        Error::new(format!(
            "seccomp: the rule for {} has no action",
            names.join(", ")
        ))
    })?;
    let taken = action(named, *errno_ret, "errnoRet")?;
    let conditions = args.iter().map(condition).collect::<Result<Vec<_>>>()?;
    // A rule of libseccomp has one condition for each argument. Two conditions on one argument
    // become two rules, of which either may match.
    let split = args
        .iter()
        .enumerate()
        .any(|(i, arg)| args[..i].iter().any(|earlier| earlier.index == arg.index));
    let mut rules = 0;
    for name in names {
        if name.is_empty() {
            return Err(Error::new(
                "seccomp: an empty string is not a valid syscall",
            ));
        }
        if taken == default {
            continue; // libseccomp refuses a rule with the default action
        }
        let Ok(call) = ScmpSyscall::from_name(name) else {
            warnings.push(format!("unknown seccomp syscall {name:?} ignored"));
            continue;
        };
        let groups = if split {
            conditions.chunks(1).collect()
        } else {
            vec![conditions.as_slice()]
        };
        for group in groups {
            let added = filter.add_rule_conditional(taken, call, group);
            added.map_err(|e| failed(&format!("add rule for syscall {name}"), &e))?;
            rules += 1;
        }
    }
    Ok(rules)
}

/// libseccomp's action. Only ERRNO and TRACE have a number; by default it is EPERM.
fn action(named: LinuxSeccompAction, number: Option<u32>, field: &str) -> Result<ScmpAction> {
    let carried = number.unwrap_or(libc::EPERM as u32);
    let taken = match named {
        LinuxSeccompAction::ScmpActErrno if carried <= MAX_ERRNO => {
            return Ok(ScmpAction::Errno(carried as i32));
        }
        LinuxSeccompAction::ScmpActErrno => {
            return Err(Error::new(format!(
                "seccomp: {field} {carried} is above {MAX_ERRNO}, the largest error number"
            )));
        }
        LinuxSeccompAction::ScmpActTrace => {
            let message = u16::try_from(carried);
            return message.map(ScmpAction::Trace).map_err(|_| {
                Error::new(format!(
                    "seccomp: {field} {carried} is above 65535, the largest number that a tracer \
                        can get"
                ))
            });
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    };
    match number {
        // config-linux.md, errnoRet: "when the action doesn't support an errno, the runtime MUST
        // print and error and fail".
        Some(number) => Err(Error::new(format!(
            "seccomp: {field} {number} is given to {named}, which returns no error number"
        ))),
        None => Ok(taken),
    }
}

/// One comparison. SCMP_CMP_MASKED_EQ: `value` is the mask and `valueTwo` what the masked argument
/// must equal.
fn condition(arg: &SyscallArg) -> Result<ScmpArgCompare> {
    let SyscallArg {
        index,
        value,
        value_two,
        op,
    } = arg;
    if *index > 5 {
        return Err(Error::new(format!(
            "seccomp: argument index {index} is above 5, the last argument of a syscall"
        )));
    }
    let op = op.ok_or_else(|| {
        Error::new(format!(
            "seccomp: the condition on argument {index} has no op"
        ))
    })?;
    let (compare, datum) = match op {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, *value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, *value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, *value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, *value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, *value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, *value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(*value), *value_two),
    };
    Ok(ScmpArgCompare::new(*index, compare, datum))
}

/// libseccomp's name of an architecture.
fn architecture(named: Arch) -> ScmpArch {
    match named {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// Appends libseccomp's program, by way of a memory file: distributions have libseccomp 2.5, and
/// `seccomp_export_bpf_mem` came with 2.6.
fn export(filter: &ScmpFilterContext, program: &mut Vec<u8>) -> Result<()> {
    let fd = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC)
        .on("create memory file for", "seccomp filter")?;
    filter
        .export_bpf(&fd)
        .map_err(|e| failed("export filter", &e))?;
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))
        .on("rewind memory file of", "seccomp filter")?;
    file.read_to_end(program)
        .on("read memory file of", "seccomp filter")?;
    Ok(())
}

fn failed(operation: &str, error: &libseccomp::error::SeccompError) -> Error {
    Error::new(format!("seccomp: {operation}: {error}"))
}
