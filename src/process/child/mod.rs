//! The container steps that concern the process. They are executed after the clone: nothing here
//! allocates, locks or logs.

pub mod console;
pub mod identity;
pub mod program;
