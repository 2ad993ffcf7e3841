//! What stands between a program and its terminal, pipes and service manager.

#![forbid(unsafe_code)]

pub mod foreground;
pub mod notify;
pub mod streams;
