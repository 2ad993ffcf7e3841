//! The guest's network interfaces: found by their hardware addresses, named, addressed and brought up.

use crate::Result;
use crate::vm::message::Interface;

/// Sets one interface up.
///
/// # Errors
/// It is not there; the kernel refuses a value.
pub fn set_up(interface: &Interface) -> Result<()> {
    let _ = interface;
    Err(crate::Error::new("the guest has no network yet"))
}
