//! The channel between host and guest, and the control socket between hull's commands and a VM's
//! monitor.

pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod mux;
