//! The text form of GVariant, as far as annotations use it: `true`, `'text'`, `5`, `uint64 5`,
//! `1.5`, `['a', 'b']`, `@as []`.

use super::value::{Value, signature};
use crate::{Error, Result};

/// Parses one value.
///
/// # Errors
/// The text is not a value, or has more after it.
pub fn parse_value(text: &str) -> Result<Value> {
    let mut reader = Reader {
        text,
        rest: text.trim_start(),
    };
    let value = reader.value(None)?;
    if reader.rest.trim().is_empty() {
        Ok(value)
    } else {
        Err(reader.bad("there is more text after it"))
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Reader<'_> {
    fn bad(&self, why: &str) -> Error {
        Error::new(format!("value parse error: \"{}\": {why}", self.text))
    }

    fn word(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",]".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word.to_owned()
    }

    /// `kind` is the D-Bus type, where a type name or an array's type before the value gives it.
    fn value(&mut self, kind: Option<&str>) -> Result<Value> {
        match self.rest.chars().next() {
            None => Err(self.bad("the value is missing")),
            Some('@') => {
                self.rest = &self.rest[1..];
                let kind = self.word();
                self.value(Some(&kind))
            }
            Some('[') => self.array(kind.and_then(|k| k.strip_prefix('a'))),
            Some(quote @ ('\'' | '"')) => {
                let text = self.quoted(quote)?;
                match kind {
                    None | Some("s") => Ok(Value::Str(text)),
                    Some("o") => Ok(Value::Path(text)),
                    Some(_) => Err(self.bad("a text is not of this type")),
                }
            }
            Some(_) => self.plain(kind),
        }
    }

    fn array(&mut self, element: Option<&str>) -> Result<Value> {
        self.rest = self.rest[1..].trim_start();
        let mut values: Vec<Value> = Vec::new();
        let mut kind = element.map(str::to_owned);
        while !self.rest.starts_with(']') {
            if !values.is_empty() {
                self.rest = self
                    .rest
                    .strip_prefix(',')
                    .ok_or_else(|| self.bad("a comma is missing"))?
                    .trim_start();
            }
            let value = self.value(kind.as_deref())?;
            let its = signature(&value);
            if kind.get_or_insert_with(|| its.clone()) != &its {
                return Err(self.bad("the elements are of different types"));
            }
            values.push(value);
        }
        self.rest = self.rest[1..].trim_start();
        let kind = kind.ok_or_else(|| self.bad("an empty array needs a type (@as [])"))?;
        Ok(Value::Array(kind, values))
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = self.rest[at + 1..].trim_start();
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"'))) => text.push(c),
                    _ => return Err(self.bad("unknown escape")),
                },
                _ => text.push(c),
            }
        }
        Err(self.bad("the closing quote is missing"))
    }

    /// A number or a boolean, or a type's name before one.
    fn plain(&mut self, kind: Option<&str>) -> Result<Value> {
        let word = self.word();
        let named = match word.as_str() {
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "true" | "false" if kind.is_none_or(|k| k == "b") => {
                return Ok(Value::Bool(word == "true"));
            }
            _ => return self.number(&word, kind),
        };
        self.value(Some(named))
    }

    fn number(&self, word: &str, kind: Option<&str>) -> Result<Value> {
        let kind = kind.unwrap_or(
            if word.contains(['.', 'e', 'E']) && !word.starts_with("0x") {
                "d"
            } else {
                "i"
            },
        );
        let whole = || match word.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16).ok(),
            None => word.parse::<i128>().ok(),
        };
        let value = match kind {
            "y" => whole().and_then(|n| n.try_into().ok()).map(Value::Byte),
            "n" => whole().and_then(|n| n.try_into().ok()).map(Value::I16),
            "q" => whole().and_then(|n| n.try_into().ok()).map(Value::U16),
            "i" => whole().and_then(|n| n.try_into().ok()).map(Value::I32),
            "u" => whole().and_then(|n| n.try_into().ok()).map(Value::U32),
            "x" => whole().and_then(|n| n.try_into().ok()).map(Value::I64),
            "t" => whole().and_then(|n| n.try_into().ok()).map(Value::U64),
            "d" => word.parse().ok().map(Value::F64),
            _ => None,
        };
        value.ok_or_else(|| self.bad("not a value of its type"))
    }
}
