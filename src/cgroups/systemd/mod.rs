//! The systemd driver: a container is a transient scope (or a slice) that systemd makes around its
//! process.
//!
//! Of the crate cgroups-rs this uses the names of the properties and the unfolding of slices. Its
//! client is not used: it knows the system's bus alone, does not wait for systemd's job, and its
//! connection starts threads that never end, where hull must have one thread when it clones.
//! `client.rs` speaks the same protocol on a blocking socket.

pub mod bus;
pub mod client;
pub mod properties;
pub mod text;
pub mod unit;
pub mod value;
