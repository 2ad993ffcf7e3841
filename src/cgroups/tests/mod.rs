//! Pure parts on faked trees; the rest on this machine's own cgroups, under absolute names that each test removes.

mod devices;
mod fake;
mod kernel;
mod plan;
mod tree;
