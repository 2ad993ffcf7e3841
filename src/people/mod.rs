//! `hull run --rootfs FOLDER -- COMMAND`: a container without a config. What a person says
//! ([`Ask`]) and what the host has become a config like any other, and parts of a root (see
//! `plan::layers`); from there on it is a container like any other.
#![forbid(unsafe_code)]

mod ask;
mod config;
mod keeper;
mod layers;
mod logs;
mod run;
mod users;
pub mod values;

pub use ask::{Ask, Flags, Volume};
pub use keeper::{Keep, LOG, Streams, keep};
pub use logs::{Options as LogOptions, show};
pub use run::{Mode, run};
