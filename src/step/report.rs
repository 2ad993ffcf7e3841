//! What the child says of a failure, and the words the parent makes of it.

use crate::error::words;
use nix::errno::Errno;

/// A failed step: the kernel's error number, and what within the step failed.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The error number.
    pub errno: Errno,
    /// A [`Detail`], with a value of its own in the upper 24 bits.
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

    /// The same with a value (an exit status, a signal).
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
    /// A fault after `start`, as the fifo carries it: how many steps after the wait, the error
    /// number, the detail.
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

    /// Back: the steps, the error number and the detail.
    pub fn words_of(bytes: &[u8; FAULT_SIZE]) -> (u32, i32, u32) {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        (word(0), word(4) as i32, word(8))
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::with(errno, Detail::Plain)
    }
}

macro_rules! details {
    ($($(#[$meta:meta])* $name:ident = $tag:literal),* $(,)?) => {
        /// What within a step failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Detail { $($(#[$meta])* $name = $tag),* }
        impl Detail {
            /// Back from the page.
            pub fn from_code(code: u32) -> Self {
                match (code & 0xff) as u8 { $($tag => Detail::$name,)* _ => Detail::Plain }
            }
        }
    };
}
details! {
    /// The step's own call.
    Plain = 0,
    /// The script cannot be read.
    Malformed = 1,
    /// The parent is gone.
    Parent = 2,
    /// The mount's target.
    Target = 3,
    /// The mount's source.
    Source = 4,
    /// The target lies in the container's /proc (CVE-2019-19921).
    InsideProc = 5,
    /// What should be procfs is not.
    NotProc = 6,
    /// The working directory lies outside the root (CVE-2024-21626).
    CwdOutside = 7,
    /// No such program in PATH.
    NotInPath = 8,
    /// The program is a directory.
    IsDirectory = 9,
    /// The program may not be run.
    NotExecutable = 10,
    /// A hook ended with a status (in the value).
    HookStatus = 11,
    /// A hook was ended by a signal (in the value).
    HookSignal = 12,
    /// A hook took too long (seconds in the value).
    HookTimeout = 13,
    /// The terminal is not on a devpts.
    NotDevpts = 14,
    /// Bringing the terminal to the console's socket.
    ConsoleSend = 15,
    /// The null device in the container is no null device (CVE-2025-31133).
    NotNull = 16,
    /// Setting the attributes of a mount.
    Attributes = 17,
    /// Copying what lies below into a tmpfs.
    CopyUp = 18,
    /// Setting the supplementary groups.
    Groups = 19,
    /// The program was found, and execve refused it.
    Execve = 20,
    /// The stage between parent and child failed.
    Stage = 21,
    /// A hook's program could not be run.
    HookExec = 22,
    /// The target's path goes through a symbolic link where none may be.
    SymlinkedTarget = 23,
}

/// What was decided where a step carries a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The path is absent: left alone.
    Skipped = 1,
    /// The host's was bound in place of a refused mount or node.
    BoundHost = 2,
    /// A file was masked with the null device.
    MaskedFile = 3,
    /// A directory was masked with an empty tmpfs.
    MaskedDirectory = 4,
}

impl Outcome {
    /// As the record and `hull plan` name it.
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

/// The cause of a failure in words, given the error number and detail from the page.
pub fn cause(errno: i32, detail: u32) -> String {
    let why = words(Errno::from_raw(errno));
    let value = detail >> 8;
    match Detail::from_code(detail) {
        Detail::Plain | Detail::Execve | Detail::Stage | Detail::NotExecutable => why,
        Detail::Malformed => "the script cannot be read".into(),
        Detail::Parent => "the parent process exited".into(),
        Detail::Target => format!("its target: {why}"),
        Detail::Source => format!("its source: {why}"),
        Detail::InsideProc => "it cannot be mounted because it is inside /proc".into(),
        Detail::NotProc => "what stands there is not procfs".into(),
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
