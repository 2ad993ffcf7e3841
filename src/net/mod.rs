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

pub mod address;
pub mod attach;
pub mod capture;
pub mod device;
pub mod endpoint;
pub mod enforce;
pub mod firewall;
pub mod forward_chains;
pub mod link;
pub mod manage;
pub mod names;
pub mod netlink;
pub mod network;
pub mod nfnetlink;
pub mod nft;
pub mod ports;
pub mod provision;
pub mod record;
pub mod release;
pub mod request;
pub mod rootless;
pub mod saved;
pub mod setup;
pub mod shape;
pub mod store;
pub mod subnets;
pub mod survey;
pub mod sysctl;
