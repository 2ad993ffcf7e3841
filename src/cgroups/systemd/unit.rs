//! The transient unit for a container: its name, its slice and its properties.

use super::text::parse_value;
use super::value::{Property, Value};
use crate::cgroups::request::{CgroupRequest, Driver};
use crate::cgroups::tree::Tree;
use crate::{Error, Result};
use cgroups_rs::systemd as names;
use serde::{Deserialize, Serialize};

/// The unit that systemd is to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The unit's name: `prefix-name.scope`, or a slice.
    pub name: String,
    /// The slice that the unit is in.
    pub slice: String,
    /// Whether the user's own instance of systemd starts it.
    pub user: bool,
    /// The unit's properties, without the process.
    pub properties: Vec<Property>,
}

impl Unit {
    /// The unit for a request; `cgroupsPath` is `slice:prefix:name`, each part of which may be
    /// empty (runc's form).
    ///
    /// # Errors
    /// The path has another form; the name of the slice or unit is not valid; the name or value of
    /// an annotation `org.systemd.property.*` is not valid; the user's instance is to be used on a
    /// tree with v1 hierarchies.
    pub(in crate::cgroups) fn new(request: &CgroupRequest, tree: &Tree) -> Result<Self> {
        let user = request.driver == Driver::Systemd { user: true };
        if user && !tree.is_pure_v2() {
            return Err(Error::new(
                "cannot use rootless systemd cgroups manager on cgroup v1",
            ));
        }
        let default = if user {
            "user.slice"
        } else {
            names::DEFAULT_SLICE
        };
        let (slice, prefix, name) = match request.path.filter(|p| !p.is_empty()) {
            None => (default, "hull", request.id),
            Some(path) => {
                let parts: Vec<&str> = path.split(':').collect();
                let [slice, prefix, name] = parts[..] else {
                    return Err(Error::new(format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd \
                            cgroups, got \"{path}\" instead"
                    )));
                };
                (if slice.is_empty() { default } else { slice }, prefix, name)
            }
        };
        expand(slice)?;
        let is_slice = name.ends_with(names::SLICE_SUFFIX);
        let unit = match (is_slice, prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}{}", names::SCOPE_SUFFIX),
            (false, _) => format!("{prefix}-{name}{}", names::SCOPE_SUFFIX),
        };
        if name.is_empty() || unit.contains('/') {
            return Err(Error::new(format!(
                "cgroupsPath: \"{unit}\" is not a unit's name"
            )));
        }
        let mut properties = basic(slice, name, is_slice, tree.is_pure_v2());
        for (key, value) in request.annotations {
            if let Some(property) = key.strip_prefix("org.systemd.property.") {
                properties.push(
                    annotation(property, value)
                        .map_err(|e| e.within(format_args!("annotation {key}={value}")))?,
                );
            }
        }
        Ok(Self {
            name: unit,
            slice: slice.to_owned(),
            user,
            properties,
        })
    }

    /// The path of the unit's cgroup below a hierarchy's root. The user's instance itself is in
    /// `user@UID.service`.
    ///
    /// # Errors
    /// The name of the slice is not valid.
    pub(in crate::cgroups) fn path(&self, tree: &Tree) -> Result<String> {
        let below = expand(&self.slice)?;
        let below = if self.name.ends_with(names::SLICE_SUFFIX) {
            expand(&self.name)?
        } else {
            join(&below, &self.name)
        };
        if !self.user {
            return Ok(below);
        }
        let uid = tree.uid;
        Ok(join(
            &format!("user.slice/user-{uid}.slice/user@{uid}.service"),
            &below,
        ))
    }
}

fn join(above: &str, below: &str) -> String {
    if above.is_empty() {
        below.to_owned()
    } else {
        format!("{above}/{below}")
    }
}

/// The path of a slice: `a-b.slice` is in `a.slice`, so it is `a.slice/a-b.slice`.
fn expand(slice: &str) -> Result<String> {
    names::utils::expand_slice(slice)
        .map_err(|_| Error::new(format!("invalid slice name: {slice}")))
}

/// The properties of every container's unit (runc's list).
fn basic(slice: &str, name: &str, is_slice: bool, v2: bool) -> Vec<Property> {
    let yes = |name: &str| Property::new(name, Value::Bool(true));
    let mut all = vec![Property::new(
        names::DESCRIPTION,
        Value::Str(format!("hull container {name}")),
    )];
    if is_slice {
        // The name of a slice tells where it is.
        all.push(Property::new(
            names::WANTS,
            Value::Array("s".to_owned(), vec![Value::Str(slice.to_owned())]),
        ));
    } else {
        all.push(Property::new(names::SLICE, Value::Str(slice.to_owned())));
        // The cgroups below belong to the container: systemd does not manage them.
        all.push(yes(names::DELEGATE));
    }
    all.push(yes(names::MEMORY_ACCOUNTING));
    all.push(yes(names::CPU_ACCOUNTING));
    all.push(yes(if v2 {
        names::IO_ACCOUNTING
    } else {
        names::BLOCK_IO_ACCOUNTING
    }));
    all.push(yes(names::TASKS_ACCOUNTING));
    all.push(Property::new(
        names::DEFAULT_DEPENDENCIES,
        Value::Bool(false),
    ));
    all
}

/// The property of an annotation `org.systemd.property.NAME`: NAME has at least three letters, the
/// value is in the text form of GVariant. A property `...Sec` is on the bus `...USec`, in
/// microseconds.
fn annotation(name: &str, text: &str) -> Result<Property> {
    if name.len() < 3 {
        return Err(Error::new("name incorrect: too short"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(Error::new(
            "name incorrect: contains non-alphabetic character",
        ));
    }
    let value = parse_value(text)?;
    let seconds = name
        .strip_suffix("Sec")
        .filter(|rest| rest.ends_with(|c: char| c.is_ascii_lowercase()));
    let Some(rest) = seconds else {
        return Ok(Property::new(name, value));
    };
    const M: u64 = 1_000_000;
    let micro = match value {
        Value::Byte(n) => Some(u64::from(n) * M),
        Value::U16(n) => Some(u64::from(n) * M),
        Value::U32(n) => Some(u64::from(n) * M),
        Value::U64(n) => n.checked_mul(M),
        Value::I16(n) => u64::try_from(n).ok().map(|n| n * M),
        Value::I32(n) => u64::try_from(n).ok().map(|n| n * M),
        Value::I64(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(M)),
        Value::F64(n) if n >= 0.0 => Some((n * M as f64) as u64),
        _ => None,
    };
    micro
        .map(|n| Property::new(&format!("{rest}USec"), Value::U64(n)))
        .ok_or_else(|| Error::new("value parse error: not a number of seconds"))
}
