//! `init`: the one executor of `inside`. The cloned child calls [`walk`], and so does `hull init`
//! in a fresh process.
//!
//! From here to execve there is no allocation, no lock, no logging and no exit handler: only plain
//! system calls (see DESIGN in `docs/design.md`; a peer hangs for breaking this). Everything that
//! needs room is in [`Scratch`], made before the clone. A failure is stored in the shared page as
//! (step, error number, detail); the parent, who has the plan, words it.

#![forbid(unsafe_code)]

mod console;
mod copyup;
mod hooks;
pub mod identity;
mod layers;
mod mounts;
mod program;
pub mod report;
mod root;
mod target;
pub use target::{Held, lookup, make_folder};

use crate::plan::step::{Attribute, Barrier, StepRef, slot};
use crate::plan::wire::{Malformed, Reader};
use crate::sys::page::Report;
use crate::sys::{self, Sys, process};
use nix::errno::Errno;
use report::{Detail, Fault};
use std::sync::atomic::Ordering;

/// A step's result.
pub type Done = Result<(), Fault>;

/// Room that the walker uses, sized before the clone.
pub struct Scratch {
    /// For argv and envp.
    arrays: process::Arrays,
    /// For the program's path and HOME.
    text: Vec<u8>,
    /// For a hook's state.
    state: Vec<u8>,
}

impl Scratch {
    const TEXT: usize = 3 * libc::PATH_MAX as usize;

    /// Measures a script and makes the room it needs.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no script.
    pub fn for_script(inside: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(inside);
        let (mut strings, mut state) = (0, 0);
        while !reader.is_empty() {
            match StepRef::get(&mut reader)? {
                StepRef::Exec { args, env, .. } => {
                    strings = strings.max(args.len() + env.len() + 1)
                }
                StepRef::Hook {
                    args,
                    env,
                    state: template,
                    ..
                } => {
                    strings = strings.max(args.len() + env.len());
                    state = state.max(template.len());
                }
                _ => {}
            }
        }
        Ok(Self {
            arrays: process::Arrays::with_room(strings),
            text: vec![0; Self::TEXT],
            state: vec![0; state],
        })
    }
}

/// What the walker holds between steps.
struct World<'a> {
    slots: &'a [i32],
    report: &'a Report,
    scratch: &'a mut Scratch,
    step: u32,
    /// The step that waited for `start`, once it has come.
    started: Option<u32>,
    /// The container's root: the detached mount before the pivot, the process's own root after.
    root: i32,
    /// A detached empty read-only tmpfs that masks folders, once made.
    empty: i32,
    /// The container's null device, once it is checked.
    null: i32,
    /// The folder of the last name.
    parent: target::Parent,
    /// The last empty file system that was mounted.
    fresh: target::Fresh,
    /// The mount namespace is new: nobody else is in it.
    own_mounts: bool,
    /// How long the program's path in the scratch text is, with its NUL; 0 before it is looked up.
    program: usize,
}

/// Carries out a script to its end, which is execve; never returns.
pub fn walk(inside: &[u8], slots: &[i32], report: &Report, scratch: &mut Scratch) -> ! {
    let mut world = World {
        slots,
        report,
        scratch,
        step: 0,
        started: None,
        root: libc::AT_FDCWD,
        empty: -1,
        null: -1,
        parent: target::Parent::NONE,
        fresh: target::Fresh::NONE,
        own_mounts: true,
        program: 0,
    };
    let mut reader = Reader::new(inside);
    loop {
        report.step.store(world.step, Ordering::Relaxed);
        if reader.is_empty() {
            // A container without a process: its start is its end.
            process::exit(0);
        }
        let done = match StepRef::get(&mut reader) {
            Ok(step) => world.carry_out(step),
            Err(Malformed) => Err(Fault::with(Errno::EBADMSG, Detail::Malformed)),
        };
        if let Err(fault) = done {
            world.fail(fault);
        }
        world.step += 1;
    }
}

impl World<'_> {
    fn carry_out(&mut self, step: StepRef) -> Done {
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
            } => identity::ids(uid, gid, set_groups.then_some(groups), keep),
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
            StepRef::WorkingDirectory { path, create } => self.working_directory(path, create),
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

    fn slot(&self, index: u32) -> Sys<i32> {
        match self.slots.get(index as usize) {
            Some(&descriptor) if descriptor >= 0 => Ok(descriptor),
            _ => Err(Errno::EBADF),
        }
    }

    fn enroll(&self, first: u32, count: u32) -> Done {
        for slot in first..first.saturating_add(count) {
            sys::file::write(self.slot(slot)?, b"0")?;
        }
        Ok(())
    }

    /// Meets the parent; its end of the socket closing is its death.
    fn barrier(&mut self, kind: Barrier) -> Done {
        let socket = self.slot(slot::SYNC)?;
        if matches!(kind, Barrier::Hooks | Barrier::Ready) {
            sys::socket::send(socket, &[kind as u8])?;
        }
        if kind != Barrier::Ready {
            let mut answer = [0_u8; 1];
            let count = sys::socket::recv(socket, &mut answer)?;
            if count == 0 || answer[0] != kind as u8 {
                return Err(Fault::with(sys::socket::gone(), Detail::Parent));
            }
        }
        Ok(())
    }

    /// Closes every descriptor from `first` on but the two that are needed until execve, which
    /// close there.
    fn close_others(&self, first: i32) {
        let needed = |which| self.slot(which).unwrap_or(-1);
        sys::file::close_all_but(first, &mut [needed(slot::SYNC), needed(slot::START)]);
    }

    /// Loads the filter. With a listener, the child waits for its parent by looking at memory: no
    /// filter can catch that.
    fn filter(&mut self, program: &[u8], flags: u32, notify: bool) -> Done {
        const NEW_LISTENER: u32 = 8;
        let flags = flags | if notify { NEW_LISTENER } else { 0 };
        let listener = sys::ids::seccomp_filter(program, flags)?;
        if notify {
            self.report
                .listener
                .store(listener as i32 + 1, Ordering::Release);
            while self.report.taken.load(Ordering::Acquire) == 0 {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    /// Whoever called `start` learns of what fails from here on by the fifo.
    fn wait_start(&mut self) -> Done {
        self.report.filtered.store(1, Ordering::Release);
        let mut byte = [0_u8; 1];
        sys::file::read(self.slot(slot::START)?, &mut byte)?;
        self.started = Some(self.step);
        Ok(())
    }

    fn fail(&self, fault: Fault) -> ! {
        if let (Some(wait), Ok(fifo)) = (self.started, self.slot(slot::START)) {
            let _ = sys::file::write(fifo, &fault.to_bytes(self.step - wait));
        }
        self.report.detail.store(fault.detail, Ordering::Relaxed);
        self.report
            .errno
            .store(fault.errno as i32, Ordering::Release);
        process::exit(1)
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
        Attribute::NullDevice => root::own_null_device(number),
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
