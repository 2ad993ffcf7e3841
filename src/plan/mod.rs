//! Spec and Facts are compiled into a plan: what the wall does outside, and what init does inside.

pub mod step;
pub mod wire;
