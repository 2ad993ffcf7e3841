//! The language of plans: container steps and host steps, their encoding, the plan in the making, and
//! what the child keeps while it runs container steps.

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
