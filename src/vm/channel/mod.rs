//! How the host and the guest, and hull's commands and a VM's monitor, speak to each other.

pub mod client;
pub mod frame;
pub mod message;
pub mod mux;
