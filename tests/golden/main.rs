//! Golden tests of the planner, which need no kernel: the tests plan configs of real engines for
//! made-up hosts, and compare the plans with files.
//!
//! - [`plans`] compares plans and errors with the files in `plans/`;
//! - [`backends`] does so for the plans of VMs and restores;
//! - [`barriers`] checks what must hold for every plan, of host and container steps alike;
//! - [`mutated`] plans configs with changed, missing and doubled fields;
//! - [`fields`] compares hull's config types with those of the crate `oci-spec`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes the files again: their difference shows what a
//! change of the code does. The hosts are data ([`hosts`]), so every host gives the same files.

#![allow(clippy::unwrap_used)] // test code

mod backends;
mod barriers;
mod cases;
mod fields;
mod hosts;
mod mutated;
mod plans;
mod text;
