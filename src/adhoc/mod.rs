//! Ad hoc containers, created from flags and not from a bundle: `hull run --rootfs DIR -- COMMAND`.
//!
//! [`config`] generates a config from the flags ([`options::AdhocOptions`]) and from what the host
//! has, and [`layers`] chooses the overlays of the root filesystem
//! ([`crate::step::layers::Layers`]). From there on such a container is like any other. A detached
//! one has a log, which a process of hull's writes ([`keeper`]) and `hull logs` shows ([`logs`]).
#![forbid(unsafe_code)]

pub(crate) mod config;
pub(crate) mod flags;
pub(crate) mod keeper;
pub(crate) mod layers;
pub(crate) mod logs;
pub(crate) mod options;
pub(crate) mod run;
pub(crate) mod users;
pub(crate) mod values;
