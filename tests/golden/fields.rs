//! hull's own config types have every field of the crate `oci-spec`, under the same name, and keep
//! its value; and those fields of runtime-spec 1.3.0 that the crate lacks.
//!
//! serde's derived code tells a deserializer the names of a struct's fields: the deserializer here
//! gives each field a value of its type and notes its path. So the test finds the fields of a newer
//! crate without a change.

use hull::spec::config::Config;
use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeSet;

/// A deserializer that gives every field a value.
struct Filler<'a> {
    path: String,
    found: &'a mut BTreeSet<String>,
}

/// The fields of a struct, or the one entry of a map.
struct Fields<'a> {
    names: std::slice::Iter<'a, &'static str>,
    current: &'static str,
    path: String,
    found: &'a mut BTreeSet<String>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.current = name;
        let key: StrDeserializer<Error> = (*name).into_deserializer();
        seed.deserialize(key).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = format!("{}/{}", self.path, self.current);
        self.found.insert(path.clone());
        seed.deserialize(Filler {
            path,
            found: self.found,
        })
    }
}

/// A list of one.
struct Once<'a>(Option<Filler<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0
            .take()
            .map(|filler| seed.deserialize(filler))
            .transpose()
    }
}

macro_rules! plain {
    ($($name:ident $visit:ident $value:expr),*) => { $(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($value)
        }
    )* };
}

impl<'de> Deserializer<'de> for Filler<'_> {
    type Error = Error;
    plain!(
        deserialize_bool visit_bool true, deserialize_i8 visit_i8 1, deserialize_i16 visit_i16 1, deserialize_i32 visit_i32 1,
        deserialize_i64 visit_i64 1, deserialize_u8 visit_u8 1, deserialize_u16 visit_u16 1, deserialize_u32 visit_u32 1,
        deserialize_u64 visit_u64 1, deserialize_f32 visit_f32 1.0, deserialize_f64 visit_f64 1.0, deserialize_char visit_char 'x'
    );
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // The crate parses some strings.
        visitor.visit_borrowed_str(match self.path.as_str() {
            path if path.starts_with("/process/capabilities") => "CAP_KILL",
            path if path.starts_with("/process/execCPUAffinity") => "0",
            _ => "x",
        })
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once(Some(self)))
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields {
            names: ["KEY"].iter(),
            current: "",
            path: self.path,
            found: self.found,
        })
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields {
            names: fields.iter(),
            current: "",
            path: self.path,
            found: self.found,
        })
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant: StrDeserializer<Error> = variants[0].into_deserializer();
        visitor.visit_enum(variant)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match is_foreign(&self.path) {
            true => visitor.visit_borrowed_str("x"),
            false => Err(serde::de::Error::custom(format!(
                "{}: a type that asks for any value",
                self.path
            ))),
        }
    }
    serde::forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any }
}

/// A value with every field of a type, and the paths of the fields.
fn everything<T: for<'de> Deserialize<'de>>() -> (T, BTreeSet<String>) {
    let mut found = BTreeSet::new();
    let value = T::deserialize(Filler {
        path: String::new(),
        found: &mut found,
    })
    .unwrap();
    (value, found)
}

/// A document in which every field of hull's types has a value.
pub fn full_document() -> Value {
    serde_json::to_value(everything::<Config>().0).unwrap()
}

/// Sections of other platforms, and the crate's own: mappings at the top, which the spec has in
/// `linux`, and two names that the spec spells `enableCMT` and `enableMBM`.
fn is_foreign(path: &str) -> bool {
    let own = [
        "/uidMappings",
        "/gidMappings",
        "/linux/intelRdt/enableCmt",
        "/linux/intelRdt/enableMbm",
    ];
    ["/solaris", "/windows", "/zos"]
        .iter()
        .chain(&own)
        .any(|section| path.starts_with(section))
}

#[test]
fn every_field_of_the_crate_is_known() {
    let (crates, hulls) = (everything::<Spec>().1, everything::<Config>().1);
    let unknown: Vec<_> = crates
        .iter()
        .filter(|path| !is_foreign(path) && !hulls.contains(*path))
        .collect();
    assert!(
        crates.len() > 150,
        "the crate's types gave {} fields only",
        crates.len()
    );
    assert!(
        unknown.is_empty(),
        "fields of oci-spec that hull's config does not have: {unknown:#?}"
    );
}

/// hull reads what the crate's types write without loss.
#[test]
fn what_the_crate_writes_is_kept() {
    let written = serde_json::to_value(everything::<Spec>().0).unwrap();
    let config: Config = serde_json::from_value(written.clone()).unwrap();
    let kept = serde_json::to_value(config).unwrap();
    let mut lost = Vec::new();
    compare("", &written, &kept, &mut lost);
    assert!(lost.is_empty(), "not kept: {lost:#?}");
}

fn compare(path: &str, written: &Value, kept: &Value, lost: &mut Vec<String>) {
    match (written, kept) {
        _ if is_foreign(path) => {}
        (Value::Object(written), _) => written
            .iter()
            .for_each(|(key, value)| compare(&format!("{path}/{key}"), value, &kept[key], lost)),
        (Value::Array(written), _) => written
            .iter()
            .enumerate()
            .for_each(|(at, value)| compare(&format!("{path}/{at}"), value, &kept[at], lost)),
        _ if written == kept => {}
        _ => lost.push(format!("{path}: {written} became {kept}")),
    }
}

/// Fields of runtime-spec 1.3.0, by the names of its text; the crate may not have them yet.
#[test]
fn fields_of_1_3() {
    let hulls = everything::<Config>().1;
    let wanted = [
        "/linux/netDevices/KEY/name",
        "/linux/memoryPolicy/mode",
        "/linux/memoryPolicy/nodes",
        "/linux/memoryPolicy/flags",
        "/linux/intelRdt/closID",
        "/linux/intelRdt/schemata",
        "/linux/intelRdt/l3CacheSchema",
        "/linux/intelRdt/memBwSchema",
        "/linux/intelRdt/enableMonitoring",
        "/linux/resources/cpu/burst",
        "/linux/resources/cpu/idle",
        "/linux/timeOffsets/KEY/secs",
        "/linux/timeOffsets/KEY/nanosecs",
        "/process/execCPUAffinity/initial",
        "/process/execCPUAffinity/final",
        "/process/ioPriority/class",
        "/process/scheduler/policy",
        "/process/user/umask",
        "/domainname",
        "/mounts/uidMappings/hostID",
        "/vm/hypervisor/parameters",
        "/vm/kernel/initrd",
        "/vm/image/format",
        "/vm/hwConfig/deviceTree",
        "/vm/hwConfig/vcpus",
        "/vm/hwConfig/memory",
        "/vm/hwConfig/dtdevs",
        "/vm/hwConfig/iomems/firstGFN",
        "/vm/hwConfig/iomems/firstMFN",
        "/vm/hwConfig/iomems/nrMFNs",
        "/vm/hwConfig/irqs",
    ];
    let missing: Vec<_> = wanted
        .iter()
        .filter(|path| !hulls.contains(**path))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
