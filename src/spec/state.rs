//! The state document (runtime.md, State), which `hull state` prints and hooks read.

use super::Spec;
use serde_json::{Map, Value, json};

/// The state document of a container; without `pid` where there is no process (yet or any more).
pub fn state_document(spec: &Spec, id: &str, status: &str, pid: Option<i32>) -> Value {
    let mut document = Map::new();
    document.insert("ociVersion".into(), json!(spec.config().oci_version));
    document.insert("id".into(), json!(id));
    document.insert("status".into(), json!(status));
    if let Some(pid) = pid {
        document.insert("pid".into(), json!(pid));
    }
    document.insert("bundle".into(), json!(spec.bundle()));
    if !spec.config().annotations.is_empty() {
        document.insert("annotations".into(), json!(spec.config().annotations));
    }
    Value::Object(document)
}
