//! The bodies that POST /explain, /compare and /predict take: one image, multipart, JSON, npy.
//! Reading is asynchronous, parsing is not (it runs on the pool). Values of parameters come from
//! the query and the body together.

use std::convert::Infallible;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Query, Request},
    http::{HeaderMap, Uri, header, request::Parts},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{executor::block_on, stream};
use multer::Multipart;
use serde_json::{Map, Value};

use super::{
    Api,
    codes::ApiError,
    contents::{
        Contents, MAX_IMAGES, MAX_PARAMETER_BYTES, MAX_PARAMETERS, add, join, too_many, twice,
    },
    intake::{self, Share},
    json_body, negotiate,
    requester::Place,
};
use crate::{
    app::{
        App, AppError, Input, Uploads,
        format::{Accept, NPY},
        plan::RequestContext,
        requested::INPUT_PREFIX,
    },
    faults::{Fault, Faults},
    picture::types,
    tensor::{NPY_MAGIC, TensorError},
};

/// A body as it came.
#[derive(Debug)]
pub enum Posted {
    Image(Bytes),
    Npy(Bytes),
    Json(Bytes),
    Multipart { bytes: Bytes, boundary: String },
}

/// The parts of a multipart body.
#[derive(Default)]
struct Form {
    images: Vec<Bytes>,
    baseline: Option<Bytes>,
    segments: Option<Bytes>,
    reference: Option<Bytes>,
    /// Parameters as JSON.
    params: Option<Bytes>,
    /// Parameters as fields of their own.
    fields: Map<String, Value>,
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

/// The pairs of the query. The names in `repeated` may be given several times and become lists; any
/// other given twice is a fault.
pub fn parse_query(uri: &Uri, repeated: &[&str]) -> Result<Map<String, Value>, ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| {
        ApiError::BrokenBody {
            reason: error.to_string(),
        }
    })?;
    let mut given = Map::new();
    let mut faults = Faults::default();
    for (name, value) in pairs {
        add(
            &mut given,
            name,
            value,
            repeated,
            "in the query",
            &mut faults,
        );
    }
    Ok(faults.settle(given).map_err(AppError::from)?)
}

/// A request that is read, and can be carried out as far as is known.
pub struct Settled<T> {
    pub plan: T,
    pub inputs: Vec<Input>,
    pub uploads: Uploads,
    pub place: Place,
}

/// What to do with a body, and what else of its request counts.
pub struct Received {
    query: Map<String, Value>,
    accept: Accept,
    /// Whether it is of an image's type or of none.
    is_image: bool,
    place: Place,
}

/// Reads query and body, takes a place among the requests that are worked on, and settles with
/// `plan` what both ask for. Parameters in `repeated` may be given several times. The body is taken
/// apart on the pool, and so is the plan made, which compares the labels of a model.
pub async fn settle<T: Send + 'static>(
    request: Request,
    api: &Api,
    repeated: &'static [&'static str],
    plan: impl FnOnce(&App, Map<String, Value>, &RequestContext) -> Result<T, AppError> + Send + 'static,
) -> Result<Settled<T>, ApiError> {
    let query = parse_query(request.uri(), repeated)?;
    // Generated clients say so of every file, and read JSON.
    let is_binary = media_type(request.headers()).as_deref() == Some(OCTET_STREAM);
    let accept = negotiate::accept(request.headers());
    let (posted, body) = read_posted(request, api).await?;
    let received = Received {
        query,
        accept,
        is_image: matches!(posted, Posted::Image(_)) && !is_binary,
        place: Place::take(api, body)?,
    };
    received
        .settle(api, move || posted.parse(repeated), plan)
        .await
}

impl Received {
    /// Reads a body in a form of its own, whatever its content type.
    pub async fn read(request: Request, api: &Api) -> Result<(Self, Bytes), ApiError> {
        let query = parse_query(request.uri(), &[])?;
        let (bytes, body) = read(request, api).await?;
        let received = Self {
            query,
            accept: Accept::default(),
            is_image: false,
            place: Place::take(api, body)?,
        };
        Ok((received, bytes))
    }

    /// Takes the body apart by `parse`, and settles with `plan` what it and the query ask for.
    pub async fn settle<T: Send + 'static>(
        self,
        api: &Api,
        parse: impl FnOnce() -> Result<Contents, ApiError> + Send + 'static,
        plan: impl FnOnce(&App, Map<String, Value>, &RequestContext) -> Result<T, AppError>
        + Send
        + 'static,
    ) -> Result<Settled<T>, ApiError> {
        let app = api.app().clone();
        let settle = move || {
            let Contents {
                inputs,
                uploads,
                parameters,
            } = parse()?;
            let given = join(self.query, parameters, "(in the query and in the body)")?;
            let context = RequestContext {
                files: uploads.files(),
                accept: self.accept,
                is_image: self.is_image,
            };
            Ok(Settled {
                plan: plan(&app, given, &context)?,
                inputs,
                uploads,
                place: self.place,
            })
        };
        api.app().pool().run(settle).await.map_err(AppError::from)?
    }
}

/// Most parts of a multipart body: images, what goes with them, and parameters.
const MAX_PARTS: usize = MAX_IMAGES + MAX_PARAMETERS;

pub(super) const OCTET_STREAM: &str = "application/octet-stream";

/// The content type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .unwrap_or("unreadable");
    Some(
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

/// Reads the body that the content type announces, or whose first bytes say what it is: curl's
/// --data-binary announces a form.
async fn read_posted(request: Request, api: &Api) -> Result<(Posted, Share), ApiError> {
    let media_type = media_type(request.headers());
    let recognise: fn(Bytes) -> Posted = match media_type.as_deref() {
        None | Some("" | "application/x-www-form-urlencoded" | OCTET_STREAM) => Posted::recognise,
        // The decoder looks at the content, and refuses by name what it does not read.
        Some(image) if image.starts_with("image/") => Posted::Image,
        Some(NPY) => Posted::Npy,
        Some("application/json") => Posted::Json,
        Some("multipart/form-data") => {
            let content_type = request
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok());
            let boundary = multer::parse_boundary(content_type.unwrap_or_default())
                .map_err(broken_multipart)?;
            let (bytes, share) = read(request, api).await?;
            return Ok((Posted::Multipart { bytes, boundary }, share));
        }
        _ => {
            return Err(ApiError::UnsupportedMediaType {
                found: media_type,
                allowed: format!(
                    "{}, {NPY}, application/json or multipart/form-data",
                    types::content_types()
                ),
            });
        }
    };
    let (bytes, share) = read(request, api).await?;
    Ok((recognise(bytes), share))
}

async fn read(request: Request, api: &Api) -> Result<(Bytes, Share), ApiError> {
    intake::read(request, api, api.app().settings().max_upload_bytes).await
}

pub(super) fn broken_multipart(error: multer::Error) -> ApiError {
    let reason = match error {
        multer::Error::NoMultipart | multer::Error::NoBoundary => {
            "its content type names no boundary".to_owned()
        }
        multer::Error::IncompleteStream
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteFieldData { .. } => {
            "it ends before its last boundary".to_owned()
        }
        other => other.to_string(),
    };
    ApiError::BrokenMultipart { reason }
}

/// Takes the parts of a whole body apart. Their headers and names may be as long as the body. An
/// empty text is a field left blank.
async fn split(bytes: Bytes, boundary: String, repeated: &[&str]) -> Result<Form, ApiError> {
    let mut multipart = Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary);
    let (mut form, mut faults) = (Form::default(), Faults::default());
    let (mut parts, mut parameter_bytes) = (0, 0);
    while let Some(field) = multipart.next_field().await.map_err(broken_multipart)? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(ApiError::BrokenMultipart {
                reason: format!("it has more than {MAX_PARTS} parts"),
            });
        }
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(broken_multipart)?;
        let text = (!is_file)
            .then(|| std::str::from_utf8(&bytes).ok())
            .flatten();
        let place = match (name.as_str(), text) {
            ("image" | "file" | "data", _) if form.images.len() == MAX_IMAGES => {
                return Err(too_many("image"));
            }
            // `data` is TorchServe's name.
            ("image" | "file" | "data", _) => {
                form.images.push(bytes);
                continue;
            }
            ("params", _) => &mut form.params,
            ("baseline", None) => &mut form.baseline,
            ("segments", None) => &mut form.segments,
            ("reference", None) => &mut form.reference,
            (_, Some("")) => continue,
            (_, Some(text)) => {
                parameter_bytes += name.len() + text.len();
                if parameter_bytes > MAX_PARAMETER_BYTES {
                    let reason =
                        format!("its text fields hold more than {MAX_PARAMETER_BYTES} bytes");
                    return Err(ApiError::BrokenMultipart { reason });
                }
                add(
                    &mut form.fields,
                    name,
                    text.to_owned(),
                    repeated,
                    "in the form",
                    &mut faults,
                );
                continue;
            }
            (name, None) if name.starts_with(INPUT_PREFIX) => {
                let text = BASE64_STANDARD.encode(&bytes);
                let name = name.to_owned();
                add(
                    &mut form.fields,
                    name,
                    text,
                    &[],
                    "in the form",
                    &mut faults,
                );
                continue;
            }
            (_, None) => {
                let allowed = [
                    "image",
                    "file",
                    "baseline",
                    "segments",
                    "reference",
                    "inputs.NAME",
                ];
                faults.push_with(|| {
                    Fault::new(
                        name,
                        "is not a file of this form; parameters are texts",
                        allowed,
                    )
                });
                continue;
            }
        };
        if place.replace(bytes).is_some() {
            faults.push(twice(&name, "in the form"));
        }
    }
    Ok(faults.settle(form).map_err(AppError::from)?)
}

impl Posted {
    /// By the first bytes. What is neither an array nor JSON is left to the image decoder, which
    /// names what it allows.
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
    pub fn parse(self, repeated: &[&str]) -> Result<Contents, ApiError> {
        match self {
            Self::Image(bytes) => Ok(Contents {
                inputs: vec![Input::Image(bytes)],
                ..Contents::default()
            }),
            Self::Npy(bytes) if !bytes.starts_with(NPY_MAGIC) => {
                Err(AppError::from(TensorError::Npy {
                    reason: types::describe(&bytes),
                })
                .into())
            }
            Self::Npy(bytes) => Ok(Contents {
                inputs: vec![Input::Npy(bytes)],
                ..Contents::default()
            }),
            Self::Json(bytes) => json_body::parse(&bytes),
            Self::Multipart { bytes, boundary } => {
                block_on(split(bytes, boundary, repeated))?.contents()
            }
        }
    }
}

impl Form {
    fn contents(self) -> Result<Contents, ApiError> {
        let Self {
            images,
            baseline,
            segments,
            reference,
            params,
            fields,
        } = self;
        Ok(Contents {
            inputs: images.into_iter().map(Input::of).collect(),
            uploads: Uploads {
                baseline: baseline.map(Input::of),
                reference: reference.map(Input::of),
                segments,
            },
            parameters: match params {
                None => fields,
                Some(params) => {
                    let params = json_body::parse_parameters(&params)?.finish("in params")?;
                    join(fields, params, "(in a field and in params)")?
                }
            },
        })
    }
}
