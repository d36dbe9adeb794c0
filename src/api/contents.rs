//! What bodies and queries hold: inputs, and parameters by name, within the bounds of a request.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::codes::ApiError;
use crate::{
    app::{AppError, Input, Uploads},
    faults::{Fault, Faults},
};

/// The most images in one request.
pub(super) const MAX_IMAGES: usize = 32;

/// Bounds of the parameters of one request: how many, and the bytes of their values as JSON,
/// together.
pub(super) const MAX_PARAMETERS: usize = 256;
pub(super) const MAX_PARAMETER_BYTES: usize = 1 << 20;

/// What a body holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub inputs: Vec<Input>,
    pub uploads: Uploads,
    pub parameters: Map<String, Value>,
}

/// Adds a pair of a query or form: to a list where its name may be repeated.
pub(super) fn add(
    given: &mut Map<String, Value>,
    name: String,
    value: String,
    repeated: &[&str],
    place: &str,
    faults: &mut Faults,
) {
    if repeated.contains(&name.as_str()) {
        if let Value::Array(values) = given
            .entry(name)
            .or_insert_with(|| Value::Array(Vec::new()))
        {
            values.push(Value::String(value));
        }
        return;
    }
    if given.contains_key(&name) {
        faults.push_with(|| twice(&name, place));
    }
    given.insert(name, Value::String(value));
}

pub(super) fn twice(name: &str, place: &str) -> Fault {
    Fault::says(name, format!("is given twice {place}"))
}

/// The values of two places, where each is given once.
pub(super) fn join(
    one: Map<String, Value>,
    other: Map<String, Value>,
    places: &str,
) -> Result<Map<String, Value>, AppError> {
    let mut given = one;
    let mut faults = Faults::default();
    for (name, value) in other {
        if given.contains_key(&name) {
            faults.push_with(|| twice(&name, places));
        }
        given.insert(name, value);
    }
    Ok(faults.settle(given)?)
}

pub(super) fn too_many(field: &str) -> ApiError {
    let message = format!("more than {MAX_IMAGES} images");
    AppError::from(Faults::from(Fault::new(
        field,
        message,
        [format!("1 to {MAX_IMAGES}")],
    )))
    .into()
}

/// The fields of an object within the bounds of parameters, and those that it has twice.
#[derive(Default)]
pub(super) struct Named {
    values: Map<String, Value>,
    bytes: usize,
    repeated: Vec<String>,
}

impl Named {
    /// Takes the field whose name was just read. Its value is only taken apart when the bounds
    /// hold.
    pub(super) fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: String,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let value: Box<RawValue> = map.next_value()?;
        self.bytes += name.len() + value.get().len();
        if self.values.len() + self.repeated.len() == MAX_PARAMETERS
            || self.bytes > MAX_PARAMETER_BYTES
        {
            let bounds = format!(
                "more than {MAX_PARAMETERS} parameters, or more than {MAX_PARAMETER_BYTES} bytes of them"
            );
            return Err(A::Error::custom(bounds));
        }
        if self.values.contains_key(&name) {
            self.repeated.push(name.clone());
        }
        self.values.insert(
            name,
            serde_json::from_str(value.get()).map_err(A::Error::custom)?,
        );
        Ok(())
    }

    /// A name that was given again.
    pub(super) fn repeat(&mut self, name: &str) {
        if self.repeated.len() < MAX_PARAMETERS {
            self.repeated.push(name.to_owned());
        }
    }

    /// `null` is absent.
    pub(super) fn finish(mut self, place: &str) -> Result<Map<String, Value>, ApiError> {
        self.values.retain(|_, value| !value.is_null());
        let faults: Faults = self
            .repeated
            .iter()
            .map(|name| twice(name, place))
            .collect();
        Ok(faults.settle(self.values).map_err(AppError::from)?)
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut named = Named::default();
        while let Some(name) = map.next_key()? {
            named.read(name, &mut map)?;
        }
        Ok(named)
    }
}
