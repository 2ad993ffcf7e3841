//! The steps that plans consist of: container steps and host steps, their encoding, the draft of a
//! plan, and the child's state while it executes container steps.

#![forbid(unsafe_code)]

pub mod child;
pub mod container;
pub mod draft;
pub mod host;
pub mod layers;
pub mod report;
#[cfg(test)]
pub mod tests;
pub mod wire;
