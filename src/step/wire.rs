//! The encoding of container steps. The child decodes them without a copy, since it may not
//! allocate.
//!
//! Numbers are little-endian; a string is its length, its bytes and a closing NUL, so that the
//! child can pass it to the kernel in place; a list is its count and its items. Every length is
//! checked against the number of bytes left (CVE-2021-43784 was an overflowing length in an encoded
//! bootstrap).

use serde::Serialize;
use std::ffi::CStr;

/// The error of bytes that do not decode to container steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes fields from the front of a byte string.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Whether all bytes are consumed.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Malformed`]: fewer than `count` bytes are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.left.split_at_checked(count).ok_or(Malformed)?;
        self.left = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
}

/// A type of field: its owned and its borrowed form, and its encoding.
pub trait Field {
    /// The form in a plan.
    type Owned: Clone + std::fmt::Debug + PartialEq + Serialize;
    /// The form that the child decodes, which borrows from the bytes.
    type Ref<'a>: Copy;
    /// Appends the encoded field.
    fn put(value: &Self::Owned, out: &mut Vec<u8>);
    /// Decodes the field.
    ///
    /// # Errors
    /// [`Malformed`]: the bytes are not such a field.
    fn get<'a>(from: &mut Reader<'a>) -> Result<Self::Ref<'a>, Malformed>;
    /// The owned form of a decoded field.
    #[cfg(test)]
    fn own(seen: Self::Ref<'_>) -> Self::Owned;
    /// A random value.
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> Self::Owned;
}

macro_rules! number {
    ($($name:ident $ty:ty),*) => { $(
        /// A number.
        pub struct $name;
        impl Field for $name {
            type Owned = $ty;
            type Ref<'a> = $ty;
            fn put(value: &$ty, out: &mut Vec<u8>) {
                out.extend_from_slice(&value.to_le_bytes());
            }
            fn get<'a>(from: &mut Reader<'a>) -> Result<$ty, Malformed> {
                Ok(<$ty>::from_le_bytes(from.array()?))
            }
            #[cfg(test)]
            fn own(seen: $ty) -> $ty {
                seen
            }
            #[cfg(test)]
            fn any(random: &mut crate::step::tests::Random) -> $ty {
                random.number() as $ty
            }
        }
    )* };
}
number!(U32 u32, U64 u64);

/// A boolean, as one byte.
pub struct Flag;
impl Field for Flag {
    type Owned = bool;
    type Ref<'a> = bool;
    fn put(value: &bool, out: &mut Vec<u8>) {
        out.push(u8::from(*value));
    }
    fn get<'a>(from: &mut Reader<'a>) -> Result<bool, Malformed> {
        match from.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed),
        }
    }
    #[cfg(test)]
    fn own(seen: bool) -> bool {
        seen
    }
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> bool {
        random.below(2) == 1
    }
}

/// A byte string.
pub struct Bytes;
impl Field for Bytes {
    type Owned = Vec<u8>;
    type Ref<'a> = &'a [u8];
    fn put(value: &Vec<u8>, out: &mut Vec<u8>) {
        U32::put(&(value.len() as u32), out);
        out.extend_from_slice(value);
    }
    fn get<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
        let count = U32::get(from)? as usize;
        from.take(count)
    }
    #[cfg(test)]
    fn own(seen: &[u8]) -> Vec<u8> {
        seen.to_vec()
    }
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> Vec<u8> {
        random.bytes()
    }
}

/// A string without a NUL byte, decoded to one that the kernel can read.
pub struct Str;
impl Field for Str {
    type Owned = String;
    type Ref<'a> = &'a CStr;
    fn put(value: &String, out: &mut Vec<u8>) {
        U32::put(&(value.len() as u32), out);
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    }
    fn get<'a>(from: &mut Reader<'a>) -> Result<&'a CStr, Malformed> {
        let count = U32::get(from)? as usize;
        let bytes = from.take(count.checked_add(1).ok_or(Malformed)?)?;
        CStr::from_bytes_with_nul(bytes).map_err(|_| Malformed)
    }
    #[cfg(test)]
    fn own(seen: &CStr) -> String {
        seen.to_string_lossy().into_owned()
    }
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> String {
        random.text()
    }
}

/// A list of strings.
pub struct Strs;

/// The decoded form of a list of strings: each item is decoded as it is read.
#[derive(Clone, Copy)]
pub struct StrList<'a> {
    count: u32,
    items: Reader<'a>,
}

impl<'a> StrList<'a> {
    /// The number of strings.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for StrList<'a> {
    type Item = &'a CStr;
    type IntoIter = StrIter<'a>;
    fn into_iter(self) -> StrIter<'a> {
        StrIter {
            left: self.count,
            items: self.items,
        }
    }
}

/// An iterator over a list of strings.
pub struct StrIter<'a> {
    left: u32,
    items: Reader<'a>,
}

impl<'a> Iterator for StrIter<'a> {
    type Item = &'a CStr;
    fn next(&mut self) -> Option<&'a CStr> {
        self.left = self.left.checked_sub(1)?;
        Str::get(&mut self.items).ok()
    }
}

impl Field for Strs {
    type Owned = Vec<String>;
    type Ref<'a> = StrList<'a>;
    fn put(value: &Vec<String>, out: &mut Vec<u8>) {
        U32::put(&(value.len() as u32), out);
        value.iter().for_each(|item| Str::put(item, out));
    }
    fn get<'a>(from: &mut Reader<'a>) -> Result<StrList<'a>, Malformed> {
        let count = U32::get(from)?;
        let items = *from;
        for _ in 0..count {
            Str::get(from)?;
        }
        Ok(StrList { count, items })
    }
    #[cfg(test)]
    fn own(seen: StrList) -> Vec<String> {
        seen.into_iter().map(Str::own).collect()
    }
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> Vec<String> {
        (0..random.below(5)).map(|_| random.text()).collect()
    }
}

/// A list of 32-bit numbers, decoded to their bytes.
pub struct U32s;
impl Field for U32s {
    type Owned = Vec<u32>;
    type Ref<'a> = &'a [u8];
    fn put(value: &Vec<u32>, out: &mut Vec<u8>) {
        U32::put(&(value.len() as u32), out);
        value.iter().for_each(|item| U32::put(item, out));
    }
    fn get<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
        let count = U32::get(from)? as usize;
        from.take(count.checked_mul(4).ok_or(Malformed)?)
    }
    #[cfg(test)]
    fn own(seen: &[u8]) -> Vec<u32> {
        seen.chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    }
    #[cfg(test)]
    fn any(random: &mut crate::step::tests::Random) -> Vec<u32> {
        (0..random.below(9))
            .map(|_| random.number() as u32)
            .collect()
    }
}

/// Declares an enum without fields that is encoded as one byte.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $tag:literal ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum $name { $( $(#[$vmeta])* $variant = $tag ),* }
        impl $crate::step::wire::Field for $name {
            type Owned = $name;
            type Ref<'a> = $name;
            fn put(value: &$name, out: &mut Vec<u8>) { out.push(*value as u8); }
            fn get<'a>(
                from: &mut $crate::step::wire::Reader<'a>,
            ) -> Result<$name, $crate::step::wire::Malformed> {
                match from.take(1)? {
                    $( [$tag] => Ok($name::$variant), )*
                    _ => Err($crate::step::wire::Malformed),
                }
            }
            #[cfg(test)]
            fn own(seen: $name) -> $name { seen }
            #[cfg(test)]
            fn any(random: &mut $crate::step::tests::Random) -> $name {
                let all = [ $( $name::$variant ),* ];
                all[random.below(all.len())]
            }
        }
    };
}
pub(crate) use choice;

/// Declares the steps once: the plan's owned enum, the child's borrowed one, and the encoding and
/// decoding of both.
macro_rules! steps {
    ($(
        $(#[$meta:meta])*
        $name:ident = $tag:literal { $( $(#[$fmeta:meta])* $field:ident : $kind:ty ),* $(,)? }
    )*) => {
        /// A container step, in the owned form of a plan.
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(missing_docs)] // each step is described in `step::container`
        pub enum Step { $(
            $(#[$meta])*
            $name { $(
                $(#[$fmeta])* $field: <$kind as $crate::step::wire::Field>::Owned
            ),* }
        ),* }

        /// A container step, in the form that the child decodes.
        #[derive(Clone, Copy)]
        #[allow(missing_docs)]
        pub enum StepRef<'a> {
            $(
                $(#[$meta])*
                $name { $(
                    $(#[$fmeta])* $field: <$kind as $crate::step::wire::Field>::Ref<'a>
                ),* }
            ),*
        }

        impl Step {
            /// The step's name, as `hull plan` prints it.
            pub fn name(&self) -> &'static str {
                match self { $( Step::$name { .. } => stringify!($name) ),* }
            }

            /// Appends the encoded step.
            pub fn put(&self, out: &mut Vec<u8>) {
                match self { $( Step::$name { $( $field ),* } => {
                    out.push($tag);
                    $( <$kind as $crate::step::wire::Field>::put($field, out); )*
                } ),* }
            }
        }

        impl<'a> StepRef<'a> {
            /// Decodes the next step.
            ///
            /// # Errors
            /// [`Malformed`](crate::step::wire::Malformed): the bytes are not a step.
            pub fn get(
                from: &mut $crate::step::wire::Reader<'a>,
            ) -> Result<Self, $crate::step::wire::Malformed> {
                match from.take(1)? {
                    $( [$tag] => Ok(StepRef::$name {
                        $( $field: <$kind as $crate::step::wire::Field>::get(from)? ),*
                    }), )*
                    _ => Err($crate::step::wire::Malformed),
                }
            }

            /// The owned form of the step.
            #[cfg(test)]
            pub fn own(self) -> Step {
                match self { $( StepRef::$name { $( $field ),* } => {
                    Step::$name { $( $field: <$kind as $crate::step::wire::Field>::own($field) ),* }
                } ),* }
            }
        }

        #[cfg(test)]
        impl Step {
            /// Each step once, with random fields.
            pub fn any_of_each(random: &mut $crate::step::tests::Random) -> Vec<Self> {
                let _ = &random;
                vec![ $( Step::$name {
                    $( $field: <$kind as $crate::step::wire::Field>::any(random) ),*
                } ),* ]
            }
        }
    };
}
pub(crate) use steps;
