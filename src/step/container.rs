//! Container steps: what the child does in its namespaces, up to execve(2). They are data only; the
//! child has one short function for each ([`crate::init`]).

use crate::step::wire::{Bytes, Flag, Str, Strs, U32, U32s, U64, choice, steps};

/// Slots: the numbers of a table of descriptors, which the backend fills before the child executes
/// its container steps.
pub mod slot {
    /// No slot: the step has no descriptor.
    pub const NONE: u32 = u32::MAX;
    /// The source of a bind mount is a path in the container's root, where an earlier mount shows
    /// it.
    pub const IN_ROOT: u32 = u32::MAX - 1;
    /// The first slot of the copies that the child itself makes ([`Step::Copy`]).
    ///
    /// [`Step::Copy`]: super::Step::Copy
    pub const FIRST_COPY: u32 = 1 << 16;
    /// The socket over which hull and the child synchronise at barriers.
    pub const SYNC: u32 = 0;
    /// The report page as a memfd, for an init that is a fresh process and not the cloned one.
    pub const PAGE: u32 = 1;
    /// The fifo on which a created container waits for `start`.
    pub const START: u32 = 2;
    /// The socket that receives the terminal.
    pub const CONSOLE: u32 = 3;
    /// The host's `/proc`, which was verified to be a procfs.
    pub const PROC: u32 = 4;
    /// The container's root file system as a detached mount, or its directory.
    pub const ROOT: u32 = 5;
    /// The first slot without a fixed meaning; a plan numbers its other descriptors from here.
    pub const FIRST_FREE: u32 = 6;
}

choice! {
    /// The points at which hull and the child wait for each other, in this order.
    ///
    /// ```text
    /// host steps (hull)                         container steps (the child)
    /// id maps written, cgroups joined  ──────▶  Placed    (only where one of them is needed)
    /// prestart, createRuntime hooks    ◀──────  Hooks     (only where there are such hooks)
    ///                                  ──────▶
    /// limits set, record written       ◀──────  Ready
    ///                                  ──────▶  Recorded
    /// ```
    ///
    /// From `Recorded` on the container outlives hull. No barrier comes after the seccomp filter,
    /// which may forbid the system calls that a barrier needs.
    ///
    /// ```text
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
        /// close_range(2): closes the descriptors from `number` on, but those of the barriers'
        /// socket and of the fifo.
        Descriptors = 13,
        /// setrlimit(2): resource in `number`, soft and hard limit as two 64-bit words in `bytes`.
        Rlimit = 14,
        /// fchownat(2): gives stdin, stdout and stderr to the user `number`, except the null device
        /// and what cannot change its owner.
        Stdio = 15,
        /// `PR_SET_PDEATHSIG` with SIGKILL. It is set after the ids, whose change clears it.
        ParentDeath = 16,
        /// Replaces those of stdin, stdout and stderr that are in the mask `number` (they are the
        /// host's null device) by the container's null device.
        NullDevice = 17,
    }
}

choice! {
    /// How a path of `linux.maskedPaths` or `linux.readonlyPaths` is protected.
    Protection {
        /// The null device over a file, an empty read-only tmpfs over a directory: by-inode-type,
        /// skip-if-missing.
        Mask = 0,
        /// A read-only bind of the path on itself: skip-if-missing.
        ReadOnly = 1,
    }
}

choice! {
    /// How the process changes from the host's root to the container's.
    Leave {
        /// pivot_root(2), the old root detached.
        Pivot = 0,
        /// `MS_MOVE` onto `/` and chroot (`--no-pivot`).
        Move = 1,
        /// chroot(2) only: the container has no mount namespace of its own.
        Chroot = 2,
    }
}

choice! {
    /// What a step does with the working directory.
    Cwd {
        /// Make it if it is missing.
        Make = 0,
        /// Change to it with hull's privileges, if they permit it: the program's user may not be
        /// allowed to enter it, as in runc.
        Try = 1,
        /// Change to it unless that is done, and check that it lies within the root
        /// (CVE-2024-21626).
        Enter = 2,
    }
}

choice! {
    /// What the child does if a mount's target does not exist.
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
    /// What the child does if the kernel refuses a mount because of the user namespace.
    Refused {
        /// Error.
        Fail = 0,
        /// Bind the host's instance in its place: else-bind.
        BindHost = 1,
        /// Leave the mount out: skip-if-refused.
        Skip = 2,
    }
}

steps! {
    /// Synchronises with hull.
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
    /// Changes to these ids. `keep` keeps the permitted capabilities over the change
    /// (`PR_SET_KEEPCAPS`).
    Ids = 4 { uid: U32, gid: U32, groups: U32s, set_groups: Flag, keep: Flag }
    /// Joins a new session keyring, and lets the keyring's possessor search it.
    Keyring = 5 { name: Str }
    /// Sets the propagation of `/` (`MS_*`; with `MS_REC` of every mount below it too).
    Propagation = 6 { flags: U64 }
    /// Attaches the root file system: the detached mount in the slot [`slot::ROOT`], or the path of
    /// the host if that slot is empty. Without `attach` (the container has no mount namespace of
    /// its own) the child only opens the directory.
    Root = 7 { path: Str, recursive: Flag, propagation: U64, attach: Flag }
    /// Mounts a file system. Flags are `MS_*`; `follow` allows symbolic links in the target;
    /// `copy_up` copies the contents of the covered directory into a tmpfs (`tmpcopyup`).
    Mount = 8 {
        target: Str, fstype: Str, source: Str, flags: U64, data: Str, propagation: U64,
        create: Create, refused: Refused, follow: Flag, copy_up: Flag,
    }
    /// Binds the detached mount in a slot, or a path of the host; attributes as for
    /// mount_setattr(2), `r*` for the whole tree. `implied` are attributes that are cleared because
    /// the options do not name them; those that the kernel has locked stay. With `locked` a read-only source cannot become writable.
    Bind = 9 {
        target: Str, slot: U32, source: Str, recursive: Flag, create: Create, in_proc: Flag,
        link: Flag, set: U64, clear: U64, implied: U64, locked: Flag, rset: U64,
        rclear: U64, propagation: U64,
    }
    /// Makes a detached copy of a mount tree of the host, before the root is attached: a copy of
    /// `/` that is made later shows the container's own root. The bind mounts of that slot use it.
    Copy = 31 { slot: U32, source: Str, recursive: Flag, link: Flag }
    /// Unmounts what a path of the host shows, or covers it with an empty tmpfs where the mount is
    /// locked.
    Uncover = 32 { path: Str }
    /// Changes attributes and propagation of the mount at a target.
    Attributes = 10 {
        target: Str, set: U64, clear: U64, recursive: Flag, propagation: U64, missing: Flag,
    }
    /// Masks a path or makes it read-only.
    Protect = 11 { target: Str, how: Protection }
    /// Makes a device node, fifo or file; else-bind of the host's where mknod is refused.
    Node = 12 { path: Str, mode: U32, device: U64, uid: U32, gid: U32, bind: Flag }
    /// Makes a symbolic link. A file that already has that name stays.
    Symlink = 13 { path: Str, target: Str }
    /// Opens a pseudoterminal, sends its master over the console's socket, and makes its peer
    /// stdin, stdout and stderr; with `mount` the peer is bound on `/dev/console` too.
    Console = 14 { rows: U32, columns: U32, mount: Flag, uid: U32 }
    /// Runs a hook with the state on its stdin; the process id is written into the state at
    /// `pid_at`, 10 places wide.
    Hook = 15 {
        path: Str, args: Strs, env: Strs, timeout: U32, state: Bytes, pid_at: U32,
    }
    /// Changes from the old root to the new one.
    Leave = 16 { how: Leave }
    /// Writes a kernel parameter, through the procfs in its slot.
    Sysctl = 17 { path: Str, value: Str }
    /// Writes an attribute of this task, such as `attr/exec`.
    Label = 18 { file: Str, value: Str }
    /// Drops the capabilities of the mask from the bounding set.
    Bounding = 19 { drop: U64 }
    /// Sets the capability sets of the process (masks of bits, capabilities(7)).
    Capabilities = 20 { effective: U64, permitted: U64, inheritable: U64, ambient: U64 }
    /// Makes the working directory, or changes to it.
    WorkingDirectory = 21 { path: Str, how: Cwd }
    /// Finds the program in PATH, so that `create` reports a missing one; with `home`, also reads
    /// the user's home directory from the container's passwd.
    Program = 22 { name: Str, path: Str, home: Flag, uid: U32 }
    /// Loads the seccomp filter; with `notify`, hull takes the listener.
    Filter = 23 { program: Bytes, flags: U32, notify: Flag }
    /// Waits on the fifo until `start` writes to it.
    WaitStart = 24 { }
    /// Attaches an empty tmpfs (the scratch file system) as the root, with the directories `root`
    /// and `layers`, and makes it the working directory.
    Scratch = 27 { }
    /// The directory `root` of the scratch file system, with everything that is mounted there,
    /// becomes the root; the scratch file system itself is detached.
    Gather = 29 { }
    /// Mounts an overlay on a directory: `lower` is the host's directory, `upper` takes the
    /// changes. If `own` is not empty, `upper` and `work` are made in that directory of the scratch
    /// file system. `marks` is overlayfs's option `userxattr`, or empty. With `else_bind` the
    /// source is bound read-only if the kernel refuses the overlay.
    Layer = 28 {
        target: Str, source: Str, lower: Str, upper: Str, work: Str, own: Str, marks: Str,
        else_bind: Flag,
    }
    /// Writes a line to `register` of the container's binfmt_misc. It runs before the child changes
    /// its root, so the line names the interpreter by its path on the host. EEXIST is no error: a
    /// joined user namespace may have the interpreter already.
    Register = 30 { target: Str, line: Str }
    /// execve(2) of the program; with `home`, HOME is what [`Step::Program`] found.
    Exec = 25 { args: Strs, env: Strs, home: Flag }
}
