//! The JSON object that a job is asked with: every field once, at any depth, in bounded numbers and
//! lengths.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{codes::ApiError, json_body::broken};
use crate::{
    app::AppError,
    faults::{Fault, Faults},
};

/// The most values in one object, those inside of it among them.
const MAX_VALUES: usize = 10_000;

/// The longest text among them, in bytes.
const LONGEST_TEXT: usize = 1000;

/// Takes as long as `bytes` are many: belongs in the pool.
pub(super) fn read(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let mut reader = Reader::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = Field {
        reader: &mut reader,
        name: "",
    }
    .deserialize(&mut json);
    let read = read.and_then(|value| json.end().map(|()| value));
    let value = read.map_err(|error| broken(bytes, &error))?;
    let Value::Object(fields) = value else {
        return Err(ApiError::BrokenJson {
            reason: "it is no object".into(),
        });
    };
    Ok(reader.faults.settle(fields).map_err(AppError::from)?)
}

#[derive(Default)]
struct Reader {
    values: usize,
    faults: Faults,
}

/// A value to be read, and the field that it is of.
struct Field<'a> {
    reader: &'a mut Reader,
    name: &'a str,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.reader.values += 1;
        if self.reader.values > MAX_VALUES {
            return Err(D::Error::custom(format_args!(
                "it holds more than {MAX_VALUES} values"
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        if text.len() > LONGEST_TEXT {
            let message = format!(
                "is a text of {} bytes; at most {LONGEST_TEXT} are read",
                text.len()
            );
            self.reader.faults.push(Fault::says(self.name, message));
            return Ok(Value::Null);
        }
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let Self { reader, name } = self;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Field { reader, name })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Field {
                reader: self.reader,
                name: &name,
            })?;
            if fields.contains_key(&name) {
                self.reader
                    .faults
                    .push_with(|| Fault::says(&name, "is given twice in the body"));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_json_is_told_in_words() {
        for (text, words) in [
            ("{", "it ends inside an object (line 1, column 1)"),
            (
                r#"{"kind": evaluate}"#,
                "a value is expected here (line 1, column 10)",
            ),
            (r#"{"kind": "x",}"#, "a comma stands before the end"),
            (r#"{"a": True}"#, "this is Python's notation"),
            (r#"{"a": 1e999}"#, "a number is too large"),
            (r#"{"a": 1} x"#, "something follows its end"),
        ] {
            assert!(refused(text).contains(words), "{}", refused(text));
        }
    }

    #[test]
    fn objects_are_read_as_they_are() {
        let text = r#"{"kind":"x","a":[1,-2,0.5,null,true,"é"],"b":{"c":{}}}"#;
        assert_eq!(
            Value::Object(read(text.as_bytes()).unwrap()).to_string(),
            text
        );
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused_at_any_depth() {
        assert_eq!(
            refused(r#"{"kind":"a","kind":"a"}"#),
            "kind: is given twice in the body"
        );
        assert_eq!(
            refused(r#"{"methods":[{"id":"a","n_steps":1,"n_steps":2}],"a":{"b":{"c":1,"c":1}}}"#),
            "n_steps: is given twice in the body; c: is given twice in the body"
        );
        assert!(read(br#"{"a":{"b":1},"b":{"b":1}}"#).is_ok());
    }

    #[test]
    fn what_is_long_many_or_no_object_is_refused() {
        let long = format!(r#"{{"a":["{}"]}}"#, "x".repeat(LONGEST_TEXT + 1));
        assert_eq!(
            refused(&long),
            "a: is a text of 1001 bytes; at most 1000 are read"
        );
        assert!(
            refused(&format!(r#"{{"a":[{}1]}}"#, "[],".repeat(MAX_VALUES)))
                .contains("more than 10000 values")
        );
        for text in [
            "",
            "[]",
            "{",
            "word",
            "7",
            r#"{"a":1} {"b":1}"#,
            &"[".repeat(100_000),
        ] {
            assert!(
                refused(text).starts_with("the body is not the JSON object that is wanted"),
                "{text}"
            );
        }
    }
}
