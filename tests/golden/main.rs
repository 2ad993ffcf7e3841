//! The frame, proven without a kernel: real engines' configs and made-up hosts give plans, which
//! are compared with files.
//!
//! A plan changes only together with its file: `UPDATE_GOLDEN=1 cargo test --test golden` writes
//! them anew, and the difference is what the change did. The hosts are data ([`hosts`]), so the
//! same files come out everywhere.

#![allow(clippy::unwrap_used)] // test code

mod backends;
mod barriers;
mod cases;
mod fields;
mod hosts;
mod mutated;
mod plans;
mod text;
