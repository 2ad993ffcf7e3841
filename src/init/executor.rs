//! The one executor of container steps. The cloned child calls [`execute`], and so does `hull init`
//! in a fresh process.
//!
//! From here to execve(2) there is no allocation, no lock, no logging and no exit handler: only
//! plain system calls (see `docs/design.md`). A process that was cloned from one with threads may
//! hang in malloc(3), because another thread held the allocator's lock. The child's [`Buffers`] are
//! allocated before the clone. A failure is stored in the report page as (step, error number,
//! detail); hull, which has the plan, words the error.

use crate::process::child::identity;
use crate::step::child::Buffers;
use crate::step::child::ChildState;
use crate::step::child::StepResult;
use crate::step::container::{Attribute, StepRef};
use crate::step::report::{Detail, Fault};
use crate::step::wire::{Malformed, Reader};
use crate::sys::page::Report;
use crate::sys::{self, Sys, process};
use nix::errno::Errno;
use std::sync::atomic::Ordering;

/// Executes encoded container steps up to the last one, which is execve(2). It never returns.
pub fn execute(steps: &[u8], slots: &[i32], report: &Report, buffers: &mut Buffers) -> ! {
    let mut child = ChildState {
        slots,
        report,
        buffers,
        step: 0,
        started: None,
        root: libc::AT_FDCWD,
        empty: -1,
        null: -1,
        parent: crate::sys::resolve::Parent::NONE,
        fresh: crate::sys::resolve::Fresh::NONE,
        own_mounts: true,
        entered: false,
        program: 0,
    };
    let mut reader = Reader::new(steps);
    loop {
        report.step.store(child.step, Ordering::Relaxed);
        if reader.is_empty() {
            // A container without `process` has no execve(2): it stops when it is started.
            process::exit(0);
        }
        let done = match StepRef::get(&mut reader) {
            Ok(step) => child.execute(step),
            Err(Malformed) => Err(Fault::with(Errno::EBADMSG, Detail::Malformed)),
        };
        if let Err(fault) = done {
            child.fail(fault);
        }
        child.step += 1;
    }
}

impl ChildState<'_> {
    fn execute(&mut self, step: StepRef) -> StepResult {
        match step {
            StepRef::Barrier { kind } => self.barrier(kind),
            StepRef::Set {
                what: Attribute::Descriptors,
                number,
                ..
            } => {
                self.close_others(number as i32);
                Ok(())
            }
            StepRef::Set {
                what,
                number,
                bytes,
            } => Ok(set(what, number, bytes)?),
            StepRef::Join { slot, kind } => {
                self.own_mounts &= kind & libc::CLONE_NEWNS as u32 == 0;
                Ok(process::setns(self.slot(slot)?, u64::from(kind))?)
            }
            StepRef::Unshare { flags } => Ok(process::unshare(u64::from(flags))?),
            StepRef::Enroll { first, count } => self.enroll(first, count),
            StepRef::Ids {
                uid,
                gid,
                groups,
                set_groups,
                keep,
            } => Self::ids(uid, gid, set_groups.then_some(groups), keep),
            StepRef::Keyring { name } => identity::keyring(name),
            StepRef::Propagation { flags } => Ok(sys::mount::mount(c"", c"/", c"", flags, c"")?),
            StepRef::Root {
                path,
                attach: false,
                ..
            } => self.open_root(path),
            StepRef::Root {
                path,
                recursive,
                propagation,
                attach: true,
            } => self.attach_root(path, recursive, propagation),
            StepRef::Scratch {} => self.make_scratch(),
            StepRef::Layer { .. } => self.layer(step),
            StepRef::Gather {} => self.gather(),
            StepRef::Mount { .. } => self.mount(step),
            StepRef::Bind { .. } => self.bind(step),
            StepRef::Copy {
                slot,
                source,
                recursive,
                link,
            } => self.copy(slot, source, recursive, link),
            StepRef::Uncover { path } => Self::uncover(path),
            StepRef::Attributes { .. } => self.attributes(step),
            StepRef::Protect { target, how } => self.protect(target, how),
            StepRef::Node { .. } => self.node(step),
            StepRef::Symlink { path, target } => self.symlink(path, target),
            StepRef::Console {
                rows,
                columns,
                mount,
                uid,
            } => self.console(rows, columns, mount, uid),
            StepRef::Hook { .. } => self.hook(step),
            StepRef::Leave { how } => self.leave(how),
            StepRef::Sysctl { path, value } => {
                self.write_proc(path, value, sys::file::RESOLVE_NO_SYMLINKS)
            }
            StepRef::Register { target, line } => self.register(target, line),
            StepRef::Label { file, value } => self.label(file, value),
            StepRef::Bounding { drop } => identity::bounding(drop),
            StepRef::Capabilities {
                effective,
                permitted,
                inheritable,
                ambient,
            } => identity::capabilities(
                sys::ids::CapSets {
                    effective,
                    permitted,
                    inheritable,
                },
                ambient,
            ),
            StepRef::WorkingDirectory { path, how } => self.working_directory(path, how),
            StepRef::Program {
                name,
                path,
                home,
                uid,
            } => self.find_program(name, path, home, uid),
            StepRef::Filter {
                program,
                flags,
                notify,
            } => self.filter(program, flags, notify),
            StepRef::WaitStart {} => self.wait_start(),
            StepRef::Exec { args, env, home } => self.exec(args, env, home),
        }
    }
}

fn set(what: Attribute, number: u64, bytes: &[u8]) -> Sys<()> {
    match what {
        Attribute::Hostname => sys::ids::sethostname(bytes),
        Attribute::Domainname => sys::ids::setdomainname(bytes),
        Attribute::Dumpable => sys::ids::prctl(libc::PR_SET_DUMPABLE, number, 0).map(drop),
        Attribute::Personality => sys::ids::personality(number),
        Attribute::Scheduler => sys::ids::sched_setattr(bytes),
        Attribute::IoPriority => sys::ids::ioprio_set(number as u32),
        Attribute::MemoryPolicy => sys::ids::set_mempolicy(number as u32, bytes),
        Attribute::Affinity if bytes.is_empty() => {
            // Every CPU that the cgroup allows. A kernel or a filter that refuses leaves the
            // caller's affinity, which is no reason to start nothing (as in runc).
            const ALL: [u8; 1024] = [0xff; 1024];
            let _ = sys::ids::sched_setaffinity(0, &ALL);
            Ok(())
        }
        Attribute::Affinity => sys::ids::sched_setaffinity(0, bytes),
        Attribute::Umask => {
            sys::file::umask(number as u32);
            Ok(())
        }
        Attribute::NoNewPrivileges => sys::ids::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop),
        Attribute::Signals => {
            process::default_signals(number);
            process::unblock_signals();
            Ok(())
        }
        Attribute::Session => process::setsid(),
        Attribute::Loopback => sys::socket::loopback_up(),
        Attribute::Descriptors => Err(Errno::EINVAL),
        Attribute::Stdio => identity::own_stdio(number as u32),
        Attribute::NullDevice => identity::own_null_device(number),
        Attribute::ParentDeath => sys::event::die_with_parent(),
        Attribute::Rlimit => {
            let word = |at: usize| {
                bytes
                    .get(at..at + 8)
                    .and_then(|b| b.try_into().ok())
                    .map(u64::from_le_bytes)
                    .ok_or(Errno::EBADMSG)
            };
            sys::ids::prlimit(0, number as u32, word(0)?, word(8)?)
        }
    }
}
