//! `start`: the program begins. It returns when execve has happened, the poststart hooks have run,
//! and nobody waits for READY any more.
//!
//! ```text
//! start ──one byte──▶ fifo ──▶ init, which holds both of its ends until execve closes them
//!       ◀──hang-up, and before it the fault of a startContainer hook──
//! ```

use super::{Container, Status};
use crate::backend::Created;
use crate::spec::state::state_document;
use crate::stdio::notify::Notify;
use crate::step::report::FAULT_SIZE;
use crate::store::START_FIFO;
use crate::sys::fd::Fd;
use crate::sys::page::SAID;
use crate::sys::process;
use crate::{Context, Error, Result};
use std::time::Duration;

/// Lets the program of a container that was just made begin. Who does not stay with it waits for
/// execve too ([`executed`]). Its notification socket, if the caller has one, is bound before.
///
/// # Errors
/// It died while it waited; a hook failed; the socket cannot be made.
pub fn begin(container: &Container, made: &Created) -> Result<Option<Notify>> {
    let notify = container.notify()?;
    container.start_made(made).map(|()| notify)
}

/// Waits until the started program is there ([`Created::executed`]).
///
/// # Errors
/// A startContainer hook failed; its VM does not answer.
pub fn executed(container: &Container, made: &Created) -> Result<()> {
    if container.record.vm.is_some() && !container.wait_for_end_of(&made.child.sync)? {
        return Ok(());
    }
    made.executed()
}

impl Container {
    /// Lets the program begin, runs the poststart hooks, and with `NOTIFY_SOCKET` waits until the
    /// container says that it is ready.
    ///
    /// # Errors
    /// It is not `created`; it died while it waited; a hook failed.
    pub fn start(&self) -> Result<()> {
        let lock = self.store.lock(&self.record.id)?;
        match self.status() {
            Status::Created => {}
            Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
            Status::Running => {
                return Err(Error::new("cannot start an already running container"));
            }
            Status::Paused => {
                return Err(Error::new("cannot start a container in the paused state"));
            }
            Status::Creating => {
                return Err(Error::new(
                    "cannot start a container that is still being created",
                ));
            }
        }
        let fifo = self.directory().join(START_FIFO);
        let name = crate::sys::fd::c_path(&fifo)?;
        let open = |flags| {
            crate::sys::file::openat(libc::AT_FDCWD, &name, flags | libc::O_NONBLOCK, 0)
                .map(Fd)
                .on("open", fifo.display())
        };
        // Read first: with a reader of its own, writing to a process that has just died is no
        // SIGPIPE.
        let (answer, start) = (open(libc::O_RDONLY)?, open(libc::O_WRONLY)?);
        let notify = self.notify()?;
        std::fs::remove_file(&fifo).on("remove", fifo.display())?;
        crate::sys::file::write(start.0, b"0").on("start container", &self.record.id)?;
        drop((start, lock));
        self.wait_for_program(&answer)?;
        crate::log::debug(|| format!("container {}: started", self.record.id));
        self.poststart()?;
        match (notify, self.pidfd()) {
            (Some(notify), Ok(init)) => notify.wait(&init),
            // It has ended and will not be ready any more.
            _ => Ok(()),
        }
    }

    /// The same for whoever has just made the container; what is to be notified is the caller's.
    ///
    /// # Errors
    /// It died while it waited; a hook failed.
    fn start_made(&self, made: &Created) -> Result<()> {
        let fifo = self.directory().join(START_FIFO);
        std::fs::remove_file(&fifo).on("remove", fifo.display())?;
        crate::sys::file::write(made.start.0, b"0").on("start container", &self.record.id)?;
        let hooks = self.record.spec.config().hooks.as_ref();
        if hooks
            .is_some_and(|hooks| !hooks.start_container.is_empty() || !hooks.poststart.is_empty())
        {
            executed(self, made)?;
        }
        self.poststart()
    }

    /// Its notification socket, where the caller has one.
    ///
    /// # Errors
    /// It cannot be made.
    fn notify(&self) -> Result<Option<Notify>> {
        Notify::bind(&self.directory(), self.record.pid)
    }

    /// The hooks that run after the program has begun. One that fails stops the container (as runc
    /// has it).
    fn poststart(&self) -> Result<()> {
        let Some(hooks) = &self.record.spec.config().hooks else {
            return Ok(());
        };
        if !hooks.poststart.is_empty() {
            self.let_begin();
        }
        for (index, hook) in hooks.poststart.iter().enumerate() {
            let state = state_document(
                &self.record.spec,
                &self.record.id,
                "running",
                Some(self.record.pid),
            );
            if let Err(error) =
                crate::hooks::host::run("poststart", index, hook, &state, self.record.spec.bundle())
            {
                let _ = self.pidfd().and_then(|pidfd| {
                    process::pidfd_send_signal(pidfd.0, libc::SIGKILL).on("kill", &self.record.id)
                });
                return Err(error);
            }
        }
        Ok(())
    }

    /// The spec wants these hooks after execve. Whoever writes one thinks of a program that does
    /// its work already, and such is what slower runtimes show it: so the program may begin before
    /// (`crate::sys::procfs::has_begun`), for 5 s at the most. Nothing relies on it.
    fn let_begin(&self) {
        for _ in 0..5000 {
            if crate::sys::procfs::has_begun(self.record.pid) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until nobody has the other end of a descriptor any more; false where the container is
    /// paused. A hook may take its time: a VM is asked now and then whether it answers at
    /// all.
    fn wait_for_end_of(&self, descriptor: &Fd) -> Result<bool> {
        const LOOK_MS: u64 = 100;
        const ASK_EVERY: u32 = 10;
        for looks in 1_u32.. {
            if process::hung_up(descriptor.0, LOOK_MS).on("wait for", "the program")? {
                break;
            }
            if self.status() == Status::Paused {
                return Ok(false);
            }
            if self.record.vm.is_some() && looks.is_multiple_of(ASK_EVERY) {
                crate::vm::channel::client::check_answers(&self.directory())?;
            }
        }
        Ok(true)
    }

    /// Until init has become the program: its end of the fifo closes at execve, and at its death. A
    /// failed startContainer hook is in the fifo then (runtime.md, Lifecycle 7: it is start's
    /// error). A frozen container begins when it is thawed, and is not waited for.
    fn wait_for_program(&self, answer: &Fd) -> Result<()> {
        if !self.wait_for_end_of(answer)? {
            return Ok(());
        }
        let mut bytes = [0_u8; FAULT_SIZE + SAID];
        match crate::sys::file::read(answer.0, &mut bytes) {
            Ok(count @ FAULT_SIZE..) => Err(crate::backend::errors::start_error(
                &self.record.spec,
                &bytes[..count],
            )),
            // The byte of start itself: nobody took it.
            Ok(1) => Err(Error::new("cannot start a container that has stopped")),
            _ => Ok(()),
        }
    }
}
