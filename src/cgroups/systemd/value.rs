//! Properties of units and their values, as D-Bus has them.

use serde::{Deserialize, Serialize};

/// A property's value; the letters are the types of D-Bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// b
    Bool(bool),
    /// y
    Byte(u8),
    /// n
    I16(i16),
    /// q
    U16(u16),
    /// i
    I32(i32),
    /// u
    U32(u32),
    /// x
    I64(i64),
    /// t
    U64(u64),
    /// d
    F64(f64),
    /// s
    Str(String),
    /// o
    Path(String),
    /// a: the type of the elements, and the elements.
    Array(String, Vec<Value>),
    /// a(ss), the type of DeviceAllow.
    Pairs(Vec<(String, String)>),
}

/// A property of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Property {
    /// The name, as in org.freedesktop.systemd1(5).
    pub name: String,
    /// The value.
    pub value: Value,
    /// The first version of systemd that has it; 0 for every version. hull does not give it to an
    /// older one: the cgroup's file has the value in any case.
    #[serde(default)]
    pub since: u32,
}

impl Property {
    /// A property that every version of systemd has.
    pub(in crate::cgroups) fn new(name: &str, value: Value) -> Self {
        Self {
            name: name.to_owned(),
            value,
            since: 0,
        }
    }
}

/// The D-Bus signature of a value.
pub(super) fn signature(value: &Value) -> String {
    match value {
        Value::Bool(_) => "b".to_owned(),
        Value::Byte(_) => "y".to_owned(),
        Value::I16(_) => "n".to_owned(),
        Value::U16(_) => "q".to_owned(),
        Value::I32(_) => "i".to_owned(),
        Value::U32(_) => "u".to_owned(),
        Value::I64(_) => "x".to_owned(),
        Value::U64(_) => "t".to_owned(),
        Value::F64(_) => "d".to_owned(),
        Value::Str(_) => "s".to_owned(),
        Value::Path(_) => "o".to_owned(),
        Value::Array(element, _) => format!("a{element}"),
        Value::Pairs(_) => "a(ss)".to_owned(),
    }
}
