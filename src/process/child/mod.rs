//! What init does to become the program. It runs after clone: nothing here allocates, locks or logs.

pub mod console;
pub mod identity;
pub mod program;
