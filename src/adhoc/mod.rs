//! `hull run --rootfs DIR -- COMMAND`: a container without a config. What a person says
//! ([`Ask`]) and what the host has become a config like any other, and parts of a root (see
//! `plan::layers`); from there on it is a container like any other.
#![forbid(unsafe_code)]

pub mod config;
pub mod flags;
pub mod keeper;
pub mod layers;
pub mod logs;
pub mod run;
pub mod users;
pub mod values;
