//! Networks: host devices that move into a container, and hull's own networks.
//!
//! Everything in a container's network namespace is done through a socket that was opened there
//! ([`netlink::Socket::inside`]); hull itself joins nothing. What was made is written to the
//! container's directory before it is made ([`trace::Trace`]), so that whatever a killed hull leaves
//! can be taken back by `delete`.
//!
//! A container that is restored, perhaps on another host, gets its networks again by
//! [`saved::Saved`], whose page has the order of calls.
#![forbid(unsafe_code)]

pub mod address;
pub mod attach;
pub mod capture;
pub mod device;
pub mod endpoint;
pub mod enforce;
pub mod firewall;
pub mod foreign;
pub mod link;
pub mod manage;
pub mod names;
pub mod netlink;
pub mod network;
pub mod nfnetlink;
pub mod ports;
pub mod request;
pub mod rootless;
pub mod saved;
pub mod setup;
pub mod shape;
pub mod subnets;
pub mod trace;
