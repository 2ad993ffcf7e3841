//! The steps of `inside`: what happens in the new state. Data only; `init` has one short function
//! for each.

use crate::step::wire::{Bytes, Flag, Str, Strs, U32, U32s, U64, choice, steps};

/// A place in the table that the backend fills before `inside` is walked: a descriptor behind the
/// namespace backend.
pub mod slot {
    /// Nothing is given.
    pub const NONE: u32 = u32::MAX;
    /// The socket on which both sides meet at barriers.
    pub const SYNC: u32 = 0;
    /// The report page as a memory file, for an init that was not cloned.
    pub const PAGE: u32 = 1;
    /// The fifo on which a created container waits for `start`.
    pub const START: u32 = 2;
    /// The socket that receives the terminal.
    pub const CONSOLE: u32 = 3;
    /// The host's procfs, verified to be one.
    pub const PROC: u32 = 4;
    /// The container's root file system as a detached mount, or its directory.
    pub const ROOT: u32 = 5;
    /// The first that a plan may give to what else it needs.
    pub const FIRST_FREE: u32 = 6;
}

choice! {
    /// Where outside and inside meet, in this order.
    ///
    /// ```text
    /// outside                                   inside
    /// id maps written, cgroups joined  ──────▶  Placed    (only where one of them is needed)
    /// prestart, createRuntime hooks    ◀──────  Hooks     (only where there are such hooks)
    ///                                  ──────▶
    /// limits set, record written       ◀──────  Ready
    ///                                  ──────▶  Recorded  (from here on the container outlives hull; no barrier comes after the filter)
    /// ```
    Barrier { Placed = 0, Hooks = 1, Ready = 2, Recorded = 3 }
}

choice! {
    /// What a [`Step::Set`] sets.
    Attribute {
        /// sethostname(2): `bytes`.
        Hostname = 0,
        /// setdomainname(2): `bytes`.
        Domainname = 1,
        /// `PR_SET_DUMPABLE`: `number` (CVE-2016-9962).
        Dumpable = 2,
        /// personality(2): `number`.
        Personality = 3,
        /// sched_setattr(2): `bytes` is the kernel's structure.
        Scheduler = 4,
        /// ioprio_set(2): `number`.
        IoPriority = 5,
        /// set_mempolicy(2): mode in `number`, mask in `bytes`.
        MemoryPolicy = 6,
        /// sched_setaffinity(2): `bytes` is the mask.
        Affinity = 7,
        /// umask(2): `number`.
        Umask = 8,
        /// `PR_SET_NO_NEW_PRIVS`.
        NoNewPrivileges = 9,
        /// Signals of the mask `number` get their default action; all are unblocked.
        Signals = 10,
        /// setsid(2).
        Session = 11,
        /// `SIOCSIFFLAGS` of `lo`.
        Loopback = 12,
        /// Descriptors from `number` on are closed, but those of the socket and the fifo.
        Descriptors = 13,
        /// setrlimit(2): resource in `number`, soft and hard limit as two 64-bit words in `bytes`.
        Rlimit = 14,
        /// stdin, stdout and stderr belong to the user `number`, where they may and are not the
        /// null device.
        Stdio = 15,
        /// `PR_SET_PDEATHSIG` with SIGKILL; after the ids, whose change takes it away.
        ParentDeath = 16,
        /// The stdin, stdout and stderr of the mask `number`, which are the host's null device,
        /// become the container's.
        NullDevice = 17,
    }
}

choice! {
    /// How a path is kept from the container.
    Protection {
        /// The null device over a file, an empty read-only tmpfs over a directory: by-inode-type,
        /// skip-if-missing.
        Mask = 0,
        /// A read-only bind of the path on itself: skip-if-missing.
        ReadOnly = 1,
    }
}

choice! {
    /// How the old root is left.
    Leave {
        /// pivot_root(2), the old root detached.
        Pivot = 0,
        /// `MS_MOVE` onto `/` and chroot (`--no-pivot`).
        Move = 1,
        /// chroot(2) only: there is no mount namespace of one's own.
        Chroot = 2,
    }
}

choice! {
    /// What to do where a mount's target does not exist.
    Create {
        /// Error.
        No = 0,
        /// Make a directory, with its parents.
        Directory = 1,
        /// A directory or an empty file, as the source is: by-inode-type.
        LikeSource = 2,
    }
}

choice! {
    /// What to do where the kernel refuses a mount that a user namespace does not allow.
    Refused {
        /// Error.
        Fail = 0,
        /// Bind the host's instance in its place: else-bind.
        BindHost = 1,
        /// Leave it out: skip-if-refused.
        Skip = 2,
    }
}

steps! {
    /// Meets the other side.
    Barrier = 0 { kind: Barrier }
    /// Sets one attribute of the process or its namespaces.
    Set = 1 { what: Attribute, number: U64, bytes: Bytes }
    /// Joins the namespace in a slot.
    Join = 2 { slot: U32, kind: U32 }
    /// Makes namespaces for this process.
    Unshare = 3 { flags: U32 }
    /// Joins the v1 cgroups whose `tasks` files are in `count` slots from `first` on, by writing 0:
    /// a single thread that moves itself needs none of the locks that stall the host (runc issue
    /// 4782).
    Enroll = 26 { first: U32, count: U32 }
    /// Takes on ids. `keep` holds the permitted capabilities over the change (`PR_SET_KEEPCAPS`).
    Ids = 4 { uid: U32, gid: U32, groups: U32s, set_groups: Flag, keep: Flag }
    /// Joins a new session keyring, and lets the keyring's possessor search it.
    Keyring = 5 { name: Str }
    /// Sets the propagation of every mount there is.
    Propagation = 6 { flags: U64 }
    /// Attaches the root file system: the detached mount in the slot, or the path of the host where
    /// there is none. Without `attach` (no mount namespace of one's own) the directory is only opened.
    Root = 7 { path: Str, recursive: Flag, propagation: U64, attach: Flag }
    /// Mounts a file system. Flags are `MS_*`; `follow` allows symbolic links in the target;
    /// `copy_up` fills a tmpfs from below.
    Mount = 8 {
        target: Str, fstype: Str, source: Str, flags: U64, data: Str, propagation: U64,
        create: Create, refused: Refused, follow: Flag, copy_up: Flag,
    }
    /// Binds the detached mount in a slot, or a path of the host; attributes as for
    /// mount_setattr(2), `r*` for the whole tree.
    Bind = 9 {
        target: Str, slot: U32, source: Str, recursive: Flag, create: Create, in_proc: Flag, link: Flag,
        set: U64, clear: U64, rset: U64, rclear: U64, propagation: U64,
    }
    /// Changes attributes and propagation of the mount at a target.
    Attributes = 10 { target: Str, set: U64, clear: U64, recursive: Flag, propagation: U64, missing: Flag }
    /// Masks a path or makes it read-only.
    Protect = 11 { target: Str, how: Protection }
    /// Makes a device node, fifo or file; else-bind of the host's where mknod is refused.
    Node = 12 { path: Str, mode: U32, device: U64, uid: U32, gid: U32, bind: Flag }
    /// Makes a symbolic link; what stands there already is left.
    Symlink = 13 { path: Str, target: Str }
    /// Opens a terminal, sends it over the console's socket, and makes it stdin, stdout and stderr;
    /// `mount` puts it on `/dev/console`.
    Console = 14 { rows: U32, columns: U32, mount: Flag, uid: U32 }
    /// Runs a hook with the state on its stdin; the process id is written into the state at
    /// `pid_at`, 10 places wide.
    Hook = 15 { path: Str, args: Strs, env: Strs, timeout: U32, state: Bytes, pid_at: U32 }
    /// Leaves the old root.
    Leave = 16 { how: Leave }
    /// Writes a kernel parameter, through the procfs in its slot.
    Sysctl = 17 { path: Str, value: Str }
    /// Writes an attribute of this task, such as `attr/exec`.
    Label = 18 { file: Str, value: Str }
    /// Drops the capabilities of the mask from the bounding set.
    Bounding = 19 { drop: U64 }
    /// Sets the sets. Ambient ones only when they are final.
    Capabilities = 20 { effective: U64, permitted: U64, inheritable: U64, ambient: U64 }
    /// Changes the working directory, made if missing, and checks that it lies inside the root
    /// (CVE-2024-21626).
    WorkingDirectory = 21 { path: Str, create: Flag }
    /// Looks the program up, so that a missing one is create's error; with `home`, also HOME in the
    /// container's passwd.
    Program = 22 { name: Str, path: Str, home: Flag, uid: U32 }
    /// Loads the filter; with `notify` the parent takes the listener.
    Filter = 23 { program: Bytes, flags: U32, notify: Flag }
    /// Waits for `start`.
    WaitStart = 24 { }
    /// Attaches an empty tmpfs as the root, with the directories `root` and `layers`, and makes it the
    /// working directory.
    Scratch = 27 { }
    /// The directory `root` of the scratch file system, with what is mounted there, becomes the root;
    /// the scratch file system itself is reached by no name any more.
    Gather = 29 { }
    /// Mounts an overlay on a directory: `lower` of the host below, changes into `upper`, which with
    /// `own` lies in that directory of the scratch file system. With `else_bind` the source stands
    /// there read-only where the kernel refuses the overlay.
    Layer = 28 { target: Str, source: Str, lower: Str, upper: Str, work: Str, own: Str, marks: Str, else_bind: Flag }
    /// Writes a line to a binfmt_misc's `register`, as the container's root names it: the
    /// interpreter in the line is the host's still. One that is registered already stays: a user
    /// namespace that is joined may have it.
    Register = 30 { target: Str, line: Str }
    /// Becomes the program; with `home`, HOME is the one that was looked up.
    Exec = 25 { args: Strs, env: Strs, home: Flag }
}
