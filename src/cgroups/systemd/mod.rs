//! The systemd driver: systemd makes a transient scope (or a slice) for the container's process.
//!
//! Of the crate cgroups-rs hull uses the names of properties and the expansion of slices, and not
//! the client: that knows only the system's bus, does not wait for systemd's job, and its
//! connection starts threads that do not end, while hull must have one thread when it clones.
//! `client.rs` uses the same protocol on a blocking socket.

pub(crate) mod bus;
pub(crate) mod client;
pub(crate) mod properties;
pub(crate) mod text;
pub mod unit;
pub mod value;
