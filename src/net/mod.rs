//! Networks: host devices that move into a container, and hull's own networks.
//!
//! hull does everything in a container's network namespace through a socket that was opened there
//! ([`netlink::Socket::open_in`]) and never joins that namespace. It records what it makes in the
//! container's directory before it makes it ([`record::NetworkRecord`]), so that `delete` can
//! remove what a killed hull left.
//!
//! A container that is restored, perhaps on another host, gets its networks from
//! [`saved::SavedNetworks`]; that page has the order of the calls.
#![forbid(unsafe_code)]

pub(crate) mod address;
pub mod attach;
pub(crate) mod capture;
pub(crate) mod device;
pub(crate) mod endpoint;
pub(crate) mod enforce;
pub(crate) mod firewall;
pub(crate) mod forward_chains;
pub mod link;
pub(crate) mod manage;
pub(crate) mod names;
pub mod netlink;
pub(crate) mod network;
pub(crate) mod nfnetlink;
pub(crate) mod nft;
pub(crate) mod ports;
pub(crate) mod provision;
pub(crate) mod record;
pub mod release;
pub(crate) mod request;
pub(crate) mod rootless;
pub mod saved;
pub mod setup;
pub(crate) mod shape;
pub(crate) mod store;
pub(crate) mod subnets;
pub(crate) mod survey;
pub(crate) mod sysctl;
