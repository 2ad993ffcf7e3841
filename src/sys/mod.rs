//! Every raw system call, a file a family. The only place (with the lowest files of `vm`) where `unsafe` stands.

pub mod seccomp;
