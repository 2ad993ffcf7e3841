//! The text form of a plan in its file: one line per step, with every field.

use hull::plan::print::{Side, as_json, host_as_json};
use hull::step::draft::{Placed, Plan};
use hull::step::host::HostStep;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// The text of a plan: with lengths and hashes of filters, and `BUNDLE` for the bundle's directory.
pub fn of(plan: &Plan, bundle: &Path) -> String {
    of_side(plan, Side::Host, bundle)
}

/// The text of the guest's plan of a container in a VM.
pub fn of_guest(plan: &Plan, bundle: &Path) -> String {
    of_side(plan, Side::Guest, bundle)
}

/// The text of host steps only.
pub fn of_host(steps: &[Placed<HostStep>], bundle: &Path) -> String {
    let mut out = String::new();
    for step in host_as_json(steps, Side::Host) {
        line(&mut out, &step);
    }
    out.replace(bundle.to_str().unwrap(), "BUNDLE")
}

fn of_side(plan: &Plan, side: Side, bundle: &Path) -> String {
    let json = as_json(plan, side);
    let mut out = String::new();
    for side in [side.name(), "container"] {
        for step in json[side].as_array().unwrap() {
            line(&mut out, step);
        }
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    for remark in &plan.remarks {
        let _ = writeln!(out, "remark: {remark}");
    }
    let _ = writeln!(out, "slots: {}", plan.slots);
    out.replace(bundle.to_str().unwrap(), "BUNDLE")
}

fn line(out: &mut String, step: &Value) {
    let text = |key: &str| step[key].as_str().unwrap().to_owned();
    let index = step["index"]
        .as_u64()
        .map_or(String::new(), |index| format!("{index} "));
    let mut fields = step["fields"].clone();
    shorten(&mut fields);
    let (side, name, from) = (text("side"), text("step"), text("from"));
    let _ = writeln!(out, "{side} {index}{name} {fields}  # {from}");
}

/// Turns byte strings into text, or into their length and hash, and removes empty and false fields.
fn shorten(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| {
                !matches!(value, Value::Null | Value::Bool(false))
                    && value != ""
                    && value.as_array().is_none_or(|a| !a.is_empty())
            });
            for (key, value) in map.iter_mut() {
                match value {
                    Value::Array(items)
                        if ["program", "bytes", "state"].contains(&key.as_str()) =>
                    {
                        *value = Value::String(bytes(items))
                    }
                    other => shorten(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        _ => {}
    }
}

fn bytes(items: &[Value]) -> String {
    let bytes: Vec<u8> = items
        .iter()
        .map(|item| item.as_u64().and_then(|n| u8::try_from(n).ok()).unwrap())
        .collect();
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => text.to_owned(),
        _ if bytes.len() <= 64 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => format!("{} bytes, fnv-1a {:016x}", bytes.len(), hash(&bytes)),
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
