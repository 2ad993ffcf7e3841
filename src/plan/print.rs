//! The output of `hull plan`: the steps in order, each with the side that executes it and the field
//! that it comes from.

use crate::step::container::{Barrier, Step};
use crate::step::draft::{Placed, Plan};
use crate::step::host::HostStep;
use serde_json::{Value, json};
use std::fmt::Write;

/// The side that executes the host steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host.
    Host,
    /// The guest of a VM.
    Guest,
}

impl Side {
    /// The word before each step.
    pub fn name(self) -> &'static str {
        match self {
            Side::Host => "host",
            Side::Guest => "guest",
        }
    }
}

/// A plan as text: the steps of both sides up to each barrier, host steps first.
pub fn as_text(plan: &Plan, side: Side) -> String {
    let mut out = String::new();
    let mut host = plan.host.iter();
    let mut container = plan.container.iter().enumerate();
    loop {
        let reached = host_lines(&mut out, &mut host, side);
        for (index, placed) in container.by_ref() {
            if matches!(placed.step, Step::Barrier { .. }) {
                break;
            }
            let line = StepLine {
                side: "container",
                index: Some(index),
                name: placed.step.name(),
                details: details(&placed.step),
                from: &placed.from,
            };
            line.write(&mut out);
        }
        match reached {
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

/// Host steps as text, for plans whose child is a VM's monitor or criu and has no container steps.
pub fn host_as_text(steps: &[Placed<HostStep>]) -> String {
    let mut out = String::new();
    let mut steps = steps.iter();
    while let Some(kind) = host_lines(&mut out, &mut steps, Side::Host) {
        barrier(&mut out, kind);
    }
    out
}

/// Writes the host steps up to the next barrier, and returns that barrier.
fn host_lines<'a>(
    out: &mut String,
    steps: &mut impl Iterator<Item = &'a Placed<HostStep>>,
    side: Side,
) -> Option<Barrier> {
    for placed in steps {
        if let HostStep::Barrier(kind) = placed.step {
            return Some(kind);
        }
        let line = StepLine {
            side: side.name(),
            index: None,
            name: placed.step.name(),
            details: details(&placed.step),
            from: &placed.from,
        };
        line.write(out);
        if let HostStep::Network(setup) = &placed.step {
            for words in setup.describe() {
                let _ = writeln!(out, "{:32}{words}", "");
            }
        }
    }
    None
}

/// What the cgroup's plan does in place of limits that this host does not have.
fn fallbacks(step: &HostStep) -> &[String] {
    match step {
        HostStep::Cgroup { plan, .. } | HostStep::Unit { plan } => &plan.fallbacks,
        _ => &[],
    }
}

fn barrier(out: &mut String, kind: Barrier) {
    let _ = writeln!(out, "──────── barrier {kind:?} ────────");
}

/// A line of the text: one step.
struct StepLine<'a> {
    /// The side that executes it.
    side: &'a str,
    /// The index of a container step, which error messages name.
    index: Option<usize>,
    /// The step's name.
    name: &'a str,
    /// Its fields in short.
    details: String,
    /// The field of the config that it comes from.
    from: &'a str,
}

impl StepLine<'_> {
    fn write(&self, out: &mut String) {
        let Self {
            side,
            index,
            name,
            details,
            from,
        } = self;
        let index = index.map_or(String::from("  –"), |index| format!("{index:3}"));
        let _ = writeln!(out, "{side:10}{index} {name:17} {details}  ← {from}");
    }
}

/// The fields of a step in short; long values are truncated.
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
