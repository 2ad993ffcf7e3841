//! How the child reports a failure, and how the parent words it.

use crate::error::words;
use nix::errno::Errno;

/// Why a container step failed: the error number, and which part of the step failed.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The error number.
    pub errno: Errno,
    /// A [`Detail`] in the lowest byte, and a value that belongs to it in the upper 24 bits.
    pub detail: u32,
}

impl Fault {
    /// A failure with its detail.
    pub fn with(errno: Errno, detail: Detail) -> Self {
        Self {
            errno,
            detail: detail as u32,
        }
    }

    /// A failure with its detail and a value that belongs to it (an exit status, a signal).
    pub fn with_value(errno: Errno, detail: Detail, value: u32) -> Self {
        Self {
            errno,
            detail: detail as u32 | (value << 8),
        }
    }
}

/// The size of [`Fault::to_bytes`].
pub const FAULT_SIZE: usize = 12;

impl Fault {
    /// Encodes a fault that happened after `start`, for the fifo. `steps` counts the steps since
    /// the wait for `start`.
    pub fn to_bytes(self, steps: u32) -> [u8; FAULT_SIZE] {
        let mut bytes = [0; FAULT_SIZE];
        for (place, word) in bytes
            .chunks_exact_mut(4)
            .zip([steps, self.errno as u32, self.detail])
        {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A fault that happened after `start`, as `start` reads it from the fifo.
pub struct StartFault {
    /// The number of steps since the wait for `start`.
    pub steps: u32,
    /// The error number.
    pub errno: i32,
    /// [`Fault::detail`].
    pub detail: u32,
}

impl StartFault {
    /// Decodes what [`Fault::to_bytes`] encoded; bytes that are missing are 0.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
            u32::from_le_bytes(four.unwrap_or_default())
        };
        Self {
            steps: word(0),
            errno: word(4) as i32,
            detail: word(8),
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::with(errno, Detail::Plain)
    }
}

macro_rules! details {
    ($($(#[$meta:meta])* $name:ident = $tag:literal),* $(,)?) => {
        /// The part of a step that failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Detail { $($(#[$meta])* $name = $tag),* }
        impl Detail {
            /// The detail of a code in the report page; `Plain` if the code is unknown.
            pub fn from_code(code: u32) -> Self {
                match (code & 0xff) as u8 { $($tag => Detail::$name,)* _ => Detail::Plain }
            }
        }
    };
}
details! {
    /// The system call that the step exists for.
    Plain = 0,
    /// The bytes of the steps are malformed.
    Malformed = 1,
    /// The parent process exited.
    Parent = 2,
    /// Finding or making the target of a mount.
    Target = 3,
    /// Opening the source of a mount.
    Source = 4,
    /// The target lies in the container's /proc (CVE-2019-19921).
    InsideProc = 5,
    /// The descriptor of `/proc` is missing.
    NotProc = 6,
    /// The working directory is not within the root (CVE-2024-21626).
    CwdOutside = 7,
    /// No such program in PATH.
    NotInPath = 8,
    /// The program is a directory.
    IsDirectory = 9,
    /// The program is not executable for the user.
    NotExecutable = 10,
    /// A hook exited with a status other than 0 (in the value).
    HookStatus = 11,
    /// A signal killed a hook (its number is in the value).
    HookSignal = 12,
    /// A hook ran longer than its timeout (seconds in the value).
    HookTimeout = 13,
    /// `/dev/pts/ptmx` is missing or is not on a devpts.
    NotDevpts = 14,
    /// Sending the terminal over the console's socket.
    ConsoleSend = 15,
    /// The null device in the container is no null device (CVE-2025-31133).
    NotNull = 16,
    /// Setting the attributes of a mount.
    Attributes = 17,
    /// Copying the contents of the covered directory into a tmpfs.
    CopyUp = 18,
    /// Setting the supplementary groups.
    Groups = 19,
    /// execve(2) refused the program.
    Execve = 20,
    /// The stage between parent and child failed.
    Stage = 21,
    /// A hook's program could not be run.
    HookExec = 22,
    /// The target's path contains a symbolic link, which is not permitted for this mount.
    SymlinkedTarget = 23,
}

/// The outcome of a step whose policy left a choice to the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The path does not exist, or the kernel refused the mount: the step was skipped.
    Skipped = 1,
    /// The host's mount or device node was bound, because the kernel refused to make one.
    BoundHost = 2,
    /// A file was masked with the null device.
    MaskedFile = 3,
    /// A directory was masked with an empty tmpfs.
    MaskedDirectory = 4,
}

impl Outcome {
    /// The outcome's name in the record and in `hull plan`.
    pub fn name(code: u32) -> &'static str {
        match code & 0xff {
            1 => "skipped",
            2 => "bound-from-host",
            3 => "masked-file",
            4 => "masked-directory",
            _ => "unknown",
        }
    }
}

/// The cause of a failure in words, from the error number and the detail in the report page.
pub fn cause(errno: i32, detail: u32) -> String {
    let why = words(Errno::from_raw(errno));
    let value = detail >> 8;
    match Detail::from_code(detail) {
        Detail::Plain | Detail::Execve | Detail::Stage | Detail::NotExecutable => why,
        Detail::Malformed => "the container steps are malformed".into(),
        Detail::Parent => "the parent process exited".into(),
        Detail::Target => format!("its target: {why}"),
        Detail::Source => format!("its source: {why}"),
        Detail::InsideProc => "it cannot be mounted because it is inside /proc".into(),
        Detail::NotProc => "it is not a procfs".into(),
        Detail::CwdOutside => "the current working directory is outside of container mount \
            namespace root -- possible container breakout detected"
            .into(),
        Detail::NotInPath => "executable file not found in $PATH".into(),
        // The second half is what execve(2) says of a directory, and what Docker matches for its
        // status 126.
        Detail::IsDirectory => "is a directory: permission denied".into(),
        Detail::HookStatus => format!("exit status {value}"),
        Detail::HookSignal => format!("ended by signal {value}"),
        Detail::HookTimeout => format!("still running after its timeout of {value} s"),
        Detail::NotDevpts => "there is no devpts at /dev/pts".into(),
        Detail::ConsoleSend => format!("sending the terminal: {why}"),
        Detail::NotNull => "/dev/null in the container is not the null device".into(),
        Detail::Attributes => format!("its attributes: {why}"),
        Detail::CopyUp => format!("copying its contents: {why}"),
        Detail::Groups => format!("supplementary groups: {why}"),
        Detail::HookExec => format!("it cannot be run: {why}"),
        Detail::SymlinkedTarget => "its target goes through a symbolic link".into(),
    }
}
