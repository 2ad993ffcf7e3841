//! `hull plan`: the steps in order, who executes each, which field each comes from.

use crate::step::container::{Barrier, Step};
use crate::step::draft::{Placed, Plan};
use crate::step::host::HostStep;
use serde_json::{Value, json};
use std::fmt::Write;

/// The plan as a table for people.
pub fn as_text(plan: &Plan) -> String {
    let mut out = String::new();
    let (mut host, mut container) = (
        plan.host.iter().peekable(),
        plan.container.iter().enumerate().peekable(),
    );
    let barrier_out = |placed: &&Placed<HostStep>| match placed.step {
        HostStep::Barrier(kind) => Some(kind),
        _ => None,
    };
    let barrier_in = |placed: &(usize, &Placed<Step>)| match placed.1.step {
        Step::Barrier { kind } => Some(kind),
        _ => None,
    };
    loop {
        let mut met = None;
        for placed in host.by_ref() {
            if let Some(kind) = barrier_out(&placed) {
                met = Some(kind);
                break;
            }
            line(
                &mut out,
                "host",
                None,
                placed.step.name(),
                &details(&placed.step),
                &placed.from,
            );
            if let HostStep::Network(setup) = &placed.step {
                for words in setup.in_words() {
                    let _ = writeln!(out, "{:30}{words}", "");
                }
            }
        }
        for placed in container.by_ref() {
            if barrier_in(&placed).is_some() {
                break;
            }
            line(
                &mut out,
                "container",
                Some(placed.0),
                placed.1.step.name(),
                &details(&placed.1.step),
                &placed.1.from,
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

fn line(out: &mut String, side: &str, index: Option<usize>, name: &str, details: &str, from: &str) {
    let index = index.map_or(String::from("  –"), |index| format!("{index:3}"));
    let _ = writeln!(out, "{side:8}{index} {name:17} {details}  ← {from}");
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

/// The plan as JSON.
pub fn as_json(plan: &Plan) -> Value {
    let host: Vec<Value> = plan.host.iter().map(|p| json!({"side": "host", "step": p.step.name(), "from": p.from, "fields": fields(&p.step)})).collect();
    let container: Vec<Value> = plan
        .container
        .iter()
        .enumerate()
        .map(|(index, p)| json!({"side": "container", "index": index, "step": p.step.name(), "from": p.from, "fields": fields(&p.step)}))
        .collect();
    json!({"host": host, "container": container, "warnings": plan.warnings, "remarks": plan.remarks})
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
