//! The state document (runtime.md, State).

use super::Spec;
use serde_json::{Map, Value, json};

/// The state document of a container (runtime.md, State), with `pid` where it is known.
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
