//! Generates the Rust types in `src/checkpoint/proto` from the `.proto` files there.
//!
//! `criu-proto OUT` writes them to the directory OUT. `criu-proto OUT RPC_PROTO` also compares
//! hull's `rpc.proto` with RPC_PROTO, the file that CRIU installs, and fails where a field or an
//! enum value differs. It needs protoc. `scripts/criu-proto` runs it; the build of hull does not.

use prost_build::Config;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let out = args.next().ok_or("usage: criu-proto OUT [RPC_PROTO]")?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/checkpoint/proto");
    let files = ["rpc.proto", "cgroup.proto"].map(|name| directory.join(name));
    Config::new()
        .out_dir(out)
        .compile_protos(&files, &[&directory])?;
    if let Some(theirs) = args.next() {
        compare(&load(&files[0])?, &load(&theirs)?)?;
    }
    Ok(())
}

fn load(file: &Path) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let directory = file.parent().ok_or("a file without a directory")?;
    Ok(Config::new().load_fds(&[file], &[directory])?)
}

/// Label, type and number of each field, and the number of each enum value, by its full name.
fn wire(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            for field in &message.field {
                all.insert(
                    format!("{}.{}", message.name(), field.name()),
                    format!(
                        "{:?} {:?} {} = {}",
                        field.label(),
                        field.r#type(),
                        without_package(file, field.type_name()),
                        field.number()
                    ),
                );
            }
        }
        for kind in &file.enum_type {
            for value in &kind.value {
                all.insert(
                    format!("{}.{}", kind.name(), value.name()),
                    value.number().to_string(),
                );
            }
        }
    }
    all
}

/// A type's name without the package: CRIU's files have none.
fn without_package<'a>(file: &FileDescriptorProto, name: &'a str) -> &'a str {
    let name = name.trim_start_matches('.');
    name.strip_prefix(file.package())
        .map_or(name, |rest| rest.trim_start_matches('.'))
}

/// Compares by name. What an older CRIU lacks is printed and is no error.
fn compare(ours: &FileDescriptorSet, theirs: &FileDescriptorSet) -> Result<(), String> {
    let theirs = wire(theirs);
    let mut wrong = Vec::new();
    for (name, ours) in wire(ours) {
        match theirs.get(&name) {
            None => eprintln!("{name} is not in the installed rpc.proto"),
            Some(theirs) if *theirs == ours => {}
            Some(theirs) => wrong.push(format!("{name} is {ours}, in CRIU's file {theirs}")),
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("; "))
    }
}
