//! Stands in the place of the crate `capng` (see `[patch.crates-io]`): the functions that virtiofsd
//! calls, on the crate `caps` and not on the C library libcap-ng, which cannot be linked into
//! hull's static binary without a dynamic section.
//!
//! As there, changes are noted first and take effect together; what is noted is each thread's own.

use caps::{CapSet, errors::CapsError};
use std::cell::RefCell;

/// A capability's number.
pub type Capability = u32;

/// The kernel's refusal, or a name that is none.
#[derive(Debug)]
pub struct Error(CapsError);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What these functions answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Which set of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(u32);

impl Type {
    /// The effective set; the only one that virtiofsd changes.
    pub const EFFECTIVE: Type = Type(1);
}

/// Which sets an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(u32);

impl Set {
    /// The three sets of a thread.
    pub const CAPS: Set = Set(16);
    /// Those and the bounding set.
    pub const BOTH: Set = Set(48);
}

/// What to do with a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take it away.
    DROP,
    /// Add it.
    ADD,
}

/// One change.
#[derive(Clone, Copy, Debug)]
pub struct CUpdate {
    /// What.
    pub action: Action,
    /// Of which set.
    pub cap_type: Type,
    /// Which.
    pub capability: Capability,
}

thread_local! {
    static NOTED: RefCell<Vec<CUpdate>> = const { RefCell::new(Vec::new()) };
}

fn known(number: Capability) -> Result<caps::Capability> {
    let found = caps::all()
        .into_iter()
        .find(|capability| u32::from(capability.index()) == number);
    found.ok_or_else(|| Error("no such capability".into()))
}

/// The number of a name, with or without `CAP_`.
///
/// # Errors
/// There is none of that name.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    full.parse::<caps::Capability>()
        .map(|capability| u32::from(capability.index()))
        .map_err(Error)
}

/// Whether this thread's effective set has it.
pub fn have_capability(_: Type, capability: Capability) -> bool {
    let held = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    known(capability).is_ok_and(held)
}

/// Nothing is kept beside the kernel's own sets.
///
/// # Errors
/// None.
pub fn get_caps_process() -> Result<()> {
    Ok(())
}

/// Notes that all sets are to be empty.
pub fn clear(_: Set) {
    let drop = |capability: caps::Capability| CUpdate {
        action: Action::DROP,
        cap_type: Type::EFFECTIVE,
        capability: u32::from(capability.index()),
    };
    let all = caps::all().into_iter().map(drop);
    NOTED.with_borrow_mut(|noted| noted.extend(all));
}

/// Notes changes.
///
/// # Errors
/// None.
pub fn update(updates: Vec<CUpdate>) -> Result<()> {
    NOTED.with_borrow_mut(|noted| noted.extend(updates));
    Ok(())
}

/// Executes what was noted.
///
/// # Errors
/// The kernel's.
pub fn apply(_: Set) -> Result<()> {
    for CUpdate {
        action,
        cap_type: _,
        capability,
    } in NOTED.take()
    {
        let capability = known(capability)?;
        match action {
            Action::ADD => caps::raise(None, CapSet::Effective, capability),
            Action::DROP => caps::drop(None, CapSet::Effective, capability),
        }
        .map_err(Error)?;
    }
    Ok(())
}
