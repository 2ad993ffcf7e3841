//! Behaviour by behaviour, against the real binary.
