//! `hull plan`: the steps in order, who executes each, which field each comes from.

use crate::step::container::{Barrier, Step};
use crate::step::draft::{Placed, Plan};
use crate::step::host::HostStep;
use serde_json::{Value, json};
use std::fmt::Write;

/// Where host steps are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// On the host.
    Host,
    /// In a VM's guest.
    Guest,
}

impl Side {
    /// The word in front of each step.
    pub fn name(self) -> &'static str {
        match self {
            Side::Host => "host",
            Side::Guest => "guest",
        }
    }
}

/// A plan as a table for people: both sides up to each barrier, host steps first.
pub fn as_text(plan: &Plan, side: Side) -> String {
    let mut out = String::new();
    let mut host = plan.host.iter();
    let mut container = plan.container.iter().enumerate();
    loop {
        let met = host_lines(&mut out, &mut host, side);
        for (index, placed) in container.by_ref() {
            if matches!(placed.step, Step::Barrier { .. }) {
                break;
            }
            let name = placed.step.name();
            let details = details(&placed.step);
            line(
                &mut out,
                ("container", Some(index)),
                name,
                &details,
                &placed.from,
            );
        }
        match met {
            Some(kind) => barrier(&mut out, kind),
            None => break,
        }
    }
    for fallback in plan.host.iter().flat_map(|placed| fallbacks(&placed.step)) {
        let _ = writeln!(out, "fallback: {fallback}");
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    for remark in &plan.remarks {
        let _ = writeln!(out, "remark: {remark}");
    }
    out
}

/// Host steps alone, whose other side is a VM's monitor or criu.
pub fn host_as_text(steps: &[Placed<HostStep>]) -> String {
    let mut out = String::new();
    let mut steps = steps.iter();
    while let Some(kind) = host_lines(&mut out, &mut steps, Side::Host) {
        barrier(&mut out, kind);
    }
    out
}

/// Writes host steps up to a barrier, and answers it.
fn host_lines<'a>(
    out: &mut String,
    steps: &mut impl Iterator<Item = &'a Placed<HostStep>>,
    side: Side,
) -> Option<Barrier> {
    for placed in steps {
        if let HostStep::Barrier(kind) = placed.step {
            return Some(kind);
        }
        let details = details(&placed.step);
        let name = placed.step.name();
        line(out, (side.name(), None), name, &details, &placed.from);
        if let HostStep::Network(setup) = &placed.step {
            for words in setup.describe() {
                let _ = writeln!(out, "{:32}{words}", "");
            }
        }
    }
    None
}

/// What the cgroup's plan leaves undone.
fn fallbacks(step: &HostStep) -> &[String] {
    match step {
        HostStep::Cgroup { plan, .. } | HostStep::Unit { plan } => &plan.fallbacks,
        _ => &[],
    }
}

fn barrier(out: &mut String, kind: Barrier) {
    let _ = writeln!(out, "──────── barrier {kind:?} ────────");
}

fn line(
    out: &mut String,
    (side, index): (&str, Option<usize>),
    name: &str,
    details: &str,
    from: &str,
) {
    let index = index.map_or(String::from("  –"), |index| format!("{index:3}"));
    let _ = writeln!(out, "{side:10}{index} {name:17} {details}  ← {from}");
}

/// The fields of a step in short; long values are cut.
fn details<S: serde::Serialize>(step: &S) -> String {
    let value = serde_json::to_value(step).unwrap_or(Value::Null);
    match value {
        Value::Object(map) => map
            .into_iter()
            .next()
            .map(|(_, fields)| short(&fields))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn short(fields: &Value) -> String {
    const LONGEST: usize = 100;
    let mut parts = Vec::new();
    match fields {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Bool(false) | Value::Null => {}
                    Value::Array(items) if items.is_empty() => {}
                    Value::String(text) if text.is_empty() => {}
                    Value::Array(items) if items.len() > 16 => {
                        parts.push(format!("{key}=[{} items]", items.len()))
                    }
                    other => parts.push(format!("{key}={other}")),
                }
            }
        }
        other => parts.push(other.to_string()),
    }
    let mut text = parts.join(" ");
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// A plan as JSON.
pub fn as_json(plan: &Plan, side: Side) -> Value {
    let container: Vec<Value> = plan
        .container
        .iter()
        .enumerate()
        .map(|(index, placed)| {
            json!({
                "side": "container",
                "index": index,
                "step": placed.step.name(),
                "from": placed.from,
                "fields": fields(&placed.step),
            })
        })
        .collect();
    json!({
        side.name(): host_as_json(&plan.host, side),
        "container": container,
        "warnings": plan.warnings,
        "remarks": plan.remarks,
    })
}

/// Host steps as JSON.
pub fn host_as_json(steps: &[Placed<HostStep>], side: Side) -> Vec<Value> {
    let one = |placed: &Placed<HostStep>| {
        json!({
            "side": side.name(),
            "step": placed.step.name(),
            "from": placed.from,
            "fields": fields(&placed.step),
        })
    };
    steps.iter().map(one).collect()
}

fn fields<S: serde::Serialize>(step: &S) -> Value {
    match serde_json::to_value(step) {
        Ok(Value::Object(map)) => map
            .into_iter()
            .next()
            .map_or(Value::Null, |(_, fields)| fields),
        _ => Value::Null,
    }
}
