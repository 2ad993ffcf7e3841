//! The root file system: its plan, and the container steps that the child executes on it.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs` | `root`, `mounts`, `linux.rootfsPropagation`, `linux.mountLabel` |
//! | `protect.rs` | `linux.maskedPaths`, `linux.readonlyPaths` |
//! | `devices.rs` | `linux.devices`, default devices and links |
//! | `layers.rs` | a root made of overlays |
//! | `sources.rs` | mount sources that hull opens for the child |
//! | `teardown.rs` | what `delete` unmounts and removes |
//! | `child/` | the container steps, executed by the child |

#![forbid(unsafe_code)]

pub mod child;
pub mod devices;
pub mod layers;
pub mod plan;
pub mod protect;
pub mod sources;
pub mod teardown;
