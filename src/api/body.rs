//! The bodies that POST /explain and /predict take: one image, multipart, JSON, npy. Reading is asynchronous, parsing is not
//! (it runs on the pool). Values of parameters come from the query and the body together.

use std::{convert::Infallible, fmt};

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Query, Request},
    http::{Uri, header, request::Parts},
};
use futures::{executor::block_on, stream};
use multer::Multipart;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Api,
    codes::ApiError,
    intake::{self, Share},
    json_body,
    negotiate::NPY,
    requester::Place,
};
use crate::{
    app::{App, AppError, Input, Uploads, plan::Sent},
    image::types,
    methods::{Fault, Faults},
    tensor::{NPY_MAGIC, TensorError},
};

/// The most images in one request.
pub const MAX_IMAGES: usize = 32;

/// Bounds of the parameters of one request: how many, and the bytes of their values as JSON, together.
const MAX_PARAMETERS: usize = 256;
const MAX_PARAMETER_BYTES: usize = 1 << 20;

/// A body as it came.
#[derive(Debug)]
pub enum Posted {
    Image(Bytes),
    Npy(Bytes),
    Json(Bytes),
    Multipart { images: Vec<Bytes>, baseline: Option<Bytes>, segments: Option<Bytes>, params: Option<Bytes> },
}

/// What a body holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub inputs: Vec<Input>,
    pub uploads: Uploads,
    pub parameters: Map<String, Value>,
}

/// The pairs of the query. A name given twice is a fault.
#[derive(Debug)]
pub struct Pairs(pub Map<String, Value>);

impl FromRequestParts<Api> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        parse_query(&parts.uri, &[]).map(Self)
    }
}

/// The pairs of the query. The names in `repeated` may be given several times and become lists; any other given twice is a fault.
pub fn parse_query(uri: &Uri, repeated: &[&str]) -> Result<Map<String, Value>, ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| ApiError::BrokenBody { reason: error.to_string() })?;
    let mut given = Map::new();
    let mut faults = Faults::default();
    for (name, value) in pairs {
        if repeated.contains(&name.as_str()) {
            if let Value::Array(values) = given.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                values.push(Value::String(value));
            }
            continue;
        }
        if given.contains_key(&name) {
            faults.push_with(|| twice(&name, "in the query"));
        }
        given.insert(name, Value::String(value));
    }
    Ok(faults.settle(given).map_err(AppError::from)?)
}

fn twice(name: &str, place: &str) -> Fault {
    Fault::says(name, format!("is given twice {place}"))
}

/// The query's values joined with the body's.
fn join(query: Map<String, Value>, body: Map<String, Value>) -> Result<Map<String, Value>, AppError> {
    let mut given = query;
    let mut faults = Faults::default();
    for (name, value) in body {
        if given.contains_key(&name) {
            faults.push_with(|| twice(&name, "(in the query and in the body)"));
        }
        given.insert(name, value);
    }
    Ok(faults.settle(given)?)
}

/// Reads the body, takes a place among the requests that are worked on, and settles with `plan` what the query and the body ask for.
/// What is large is worked on in the pool.
pub async fn settle<T: Send + 'static>(
    query: Map<String, Value>,
    request: Request,
    api: &Api,
    plan: impl FnOnce(&App, Map<String, Value>, Sent) -> Result<T, AppError> + Send + 'static,
) -> Result<(T, Vec<Input>, Uploads, Place), ApiError> {
    let (posted, body) = read_posted(request, api).await?;
    let place = Place::take(api, body)?;
    let app = api.app().clone();
    let settle = move || {
        let Contents { inputs, uploads, parameters } = posted.parse()?;
        Ok((plan(&app, join(query, parameters)?, uploads.sent())?, inputs, uploads, place))
    };
    api.app().pool().run(settle).await.map_err(AppError::from)?
}

/// Most parts of a multipart body: images, what goes with them, and some that are then named as unknown.
const MAX_PARTS: usize = 64;

/// Reads the body that the content type announces, or whose first bytes say what it is: curl's --data-binary announces a form.
pub async fn read_posted(request: Request, api: &Api) -> Result<(Posted, Share), ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let recognise: fn(Bytes) -> Posted = match essence.as_deref() {
        None | Some("" | "application/x-www-form-urlencoded" | "application/octet-stream") => Posted::recognise,
        // The decoder looks at the content, and refuses by name what it does not read.
        Some(image) if image.starts_with("image/") => Posted::Image,
        Some(NPY) => Posted::Npy,
        Some("application/json") => Posted::Json,
        Some("multipart/form-data") => {
            let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(broken_multipart)?;
            let (bytes, share) = read(request, api).await?;
            let parts = move || block_on(split(Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary)));
            return Ok((api.app().pool().run(parts).await.map_err(AppError::from)??, share));
        }
        _ => {
            return Err(ApiError::UnsupportedMediaType {
                found: essence,
                allowed: format!("{}, {NPY}, application/json or multipart/form-data", types::content_types()),
            });
        }
    };
    let (bytes, share) = read(request, api).await?;
    Ok((recognise(bytes), share))
}

async fn read(request: Request, api: &Api) -> Result<(Bytes, Share), ApiError> {
    intake::read(request, api, api.app().settings().max_upload_bytes).await
}

fn broken_multipart(error: multer::Error) -> ApiError {
    ApiError::BrokenMultipart { reason: error.to_string() }
}

/// Takes the parts of a whole body apart. Their headers and names may be as long as the body.
async fn split(mut multipart: Multipart<'_>) -> Result<Posted, ApiError> {
    let mut parts = 0;
    let (mut images, mut baseline, mut segments, mut params) = (Vec::new(), None, None, None);
    let mut faults = Faults::default();
    while let Some(field) = multipart.next_field().await.map_err(broken_multipart)? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(ApiError::BrokenMultipart { reason: format!("it has more than {MAX_PARTS} parts") });
        }
        let name = field.name().unwrap_or_default().to_owned();
        let bytes = field.bytes().await.map_err(broken_multipart)?;
        let place = match name.as_str() {
            "image" if images.len() == MAX_IMAGES => {
                return Err(too_many("image"));
            }
            "image" => {
                images.push(bytes);
                continue;
            }
            "baseline" => &mut baseline,
            "segments" => &mut segments,
            "params" => &mut params,
            _ => {
                faults.push_with(|| {
                    let allowed = ["image", "baseline", "segments", "params"];
                    Fault::new(name, "is not a field of the multipart body", allowed)
                });
                continue;
            }
        };
        if place.replace(bytes).is_some() {
            faults.push(twice(&name, "in the multipart body"));
        }
    }
    Ok(faults.settle(Posted::Multipart { images, baseline, segments, params }).map_err(AppError::from)?)
}

impl Posted {
    /// By the first bytes. What is neither an array nor JSON is left to the image decoder, which names what it allows.
    fn recognise(bytes: Bytes) -> Self {
        if bytes.starts_with(NPY_MAGIC) {
            Self::Npy(bytes)
        } else if json_body::starts_as_json(&bytes) {
            Self::Json(bytes)
        } else {
            Self::Image(bytes)
        }
    }

    /// Takes the body apart. May take as long as the body is large.
    pub fn parse(self) -> Result<Contents, ApiError> {
        match self {
            Self::Image(bytes) => Ok(Contents { inputs: vec![Input::Image(bytes)], ..Contents::default() }),
            Self::Npy(bytes) if !bytes.starts_with(NPY_MAGIC) => {
                Err(AppError::from(TensorError::Npy { reason: types::describe(&bytes) }).into())
            }
            Self::Npy(bytes) => Ok(Contents { inputs: vec![Input::Npy(bytes)], ..Contents::default() }),
            Self::Json(bytes) => json_body::parse(&bytes),
            Self::Multipart { images, baseline, segments, params } => Ok(Contents {
                inputs: images.into_iter().map(Input::of).collect(),
                uploads: Uploads { baseline: baseline.map(Input::of), segments },
                parameters: match params {
                    None => Map::new(),
                    Some(params) => json_body::parse_parameters(&params)?.finish("in params")?,
                },
            }),
        }
    }
}

pub(super) fn too_many(field: &str) -> ApiError {
    let message = format!("more than {MAX_IMAGES} images");
    AppError::from(Faults::from(Fault::new(field, message, [format!("1 to {MAX_IMAGES}")]))).into()
}

/// The fields of an object within the bounds of parameters, and those that it has twice.
#[derive(Default)]
pub(super) struct Named {
    values: Map<String, Value>,
    bytes: usize,
    repeated: Vec<String>,
}

impl Named {
    /// Takes the field whose name was just read. Its value is only taken apart when the bounds hold.
    pub(super) fn read<'de, A: MapAccess<'de>>(&mut self, name: String, map: &mut A) -> Result<(), A::Error> {
        let value: Box<RawValue> = map.next_value()?;
        self.bytes += name.len() + value.get().len();
        if self.values.len() + self.repeated.len() == MAX_PARAMETERS || self.bytes > MAX_PARAMETER_BYTES {
            let bounds =
                format!("more than {MAX_PARAMETERS} parameters, or more than {MAX_PARAMETER_BYTES} bytes of them");
            return Err(A::Error::custom(bounds));
        }
        if self.values.contains_key(&name) {
            self.repeated.push(name.clone());
        }
        self.values.insert(name, serde_json::from_str(value.get()).map_err(A::Error::custom)?);
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
        let faults: Faults = self.repeated.iter().map(|name| twice(name, place)).collect();
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
