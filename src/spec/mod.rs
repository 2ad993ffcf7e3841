//! The bundle's configuration: what was said ([`config`]) and, validated, what it means.

pub mod config;
