//! The OpenAPI document: generated from the handlers and their types, with the parameters of the
//! registry's tables added.

mod bodies;
mod parameters;
mod problems;

use axum::Router;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        self, Content, RefOr,
        path::Parameter,
        schema::{ObjectBuilder, Schema, SchemaType, Type},
    },
};
use utoipa_axum::router::OpenApiRouter;

use super::{Api, problem};
use crate::{
    jobs::{Kind, registry::KINDS},
    picture::types::TYPES,
    render::options::HeatmapOptions,
    tensor::ShapedData,
};

pub use bodies::*;
use parameters::Field;
pub use problems::*;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "explaind",
        version = "2.0.0",
        description = "Explains the predictions of image classifiers: attribution methods on any supported ONNX model, answered as a heat \
            map or as numbers. Errors are application/problem+json (RFC 9457) and list every fault of a request at once.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "The server that this document comes from")),
    external_docs(url = "/docs/README.md", description = "README"),
    tags(
        (name = "explain", description = "Explain and classify images"),
        (name = "catalogue", description = "Methods, metrics and models of this server"),
        (name = "jobs", description = "Benchmarks and other long-running work, continued after restarts"),
        (name = "datasets", description = "Images for benchmarks, baselines and pattern fitting"),
        (name = "protocols", description = "The routes of KServe (V1), the Open Inference Protocol (V2, Triton) and TorchServe, for their clients"),
        (name = "health", description = "Probes and metrics"),
    ),
    components(schemas(problem::Problem, super::protocols::ProtocolError, HeatmapOptions, ShapedData, Tensor)),
)]
struct Description;

/// The document, for `explaind openapi` and the stored copy.
pub fn document() -> openapi::OpenApi {
    split(super::routes_of_contract()).1
}

/// The document as YAML.
pub fn to_yaml() -> Result<String, String> {
    document().to_yaml().map_err(|error| error.to_string())
}

pub(super) fn split(routes: OpenApiRouter<Api>) -> (Router<Api>, openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(routes)
        .split_for_parts();
    add_parameters(&mut document, "/explain", parameters::of_explain());
    add_parameters(&mut document, "/compare", parameters::of_compare());
    add_parameters(&mut document, "/predict", parameters::of_predict());
    for path in ["/explain", "/compare", "/predict"] {
        add_image_types(&mut document, path);
    }
    add_kinds(&mut document);
    refuse_null(&mut document);
    add_types(&mut document);
    add_refusals(&mut document);
    add_request_id(&mut document);
    (router, document)
}

fn add_parameters(document: &mut openapi::OpenApi, path: &str, fields: Vec<Field>) {
    if let Some(operation) = document
        .paths
        .paths
        .get_mut(path)
        .and_then(|item| item.post.as_mut())
    {
        let parameters = fields
            .into_iter()
            .map(Field::into_query)
            .chain([parameters::timeout()]);
        operation
            .parameters
            .get_or_insert_default()
            .extend(parameters.map(RefOr::T));
    }
}

/// The types that are decoded, as bodies.
fn add_image_types(document: &mut openapi::OpenApi, path: &str) {
    let post = document
        .paths
        .paths
        .get_mut(path)
        .and_then(|item| item.post.as_mut());
    if let Some(RefOr::T(body)) = post.and_then(|operation| operation.request_body.as_mut()) {
        let content = || RefOr::T(Content::new(Some(Binary::schema())));
        body.content.extend(
            TYPES
                .iter()
                .map(|kind| (kind.content_type.to_owned(), content())),
        );
    }
}

/// What POST /jobs can start.
fn add_kinds(document: &mut openapi::OpenApi) {
    if let Some(operation) = document
        .paths
        .paths
        .get_mut("/jobs")
        .and_then(|item| item.post.as_mut())
    {
        let describe = |kind: &&dyn Kind| {
            let parameters = kind
                .parameters()
                .iter()
                .map(|(name, doc)| format!("\n  - `{name}`: {doc}"));
            format!(
                "\n- `{}`: {}. Its parameters:{}",
                kind.id(),
                kind.doc(),
                parameters.collect::<String>()
            )
        };
        operation.description = Some(format!(
            "Kinds:\n{}",
            KINDS.iter().map(describe).collect::<String>()
        ));
    }
}

/// What every operation may be refused with, whatever it does.
fn add_refusals(document: &mut openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in [item.post.as_mut(), item.put.as_mut(), item.delete.as_mut()]
            .into_iter()
            .flatten()
        {
            operation
                .responses
                .responses
                .extend(problems::problems(&[FOREIGN]));
        }
        for operation in [
            item.get.as_mut(),
            item.post.as_mut(),
            item.put.as_mut(),
            item.delete.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            operation
                .responses
                .responses
                .extend(problems::problems(&[METHOD_NOT_ALLOWED]));
        }
    }
}

/// Parameters are described one by one: of those of the picture and of methods only the types are
/// components.
fn add_types(document: &mut openapi::OpenApi) {
    if let Some(components) = &mut document.components {
        components.schemas.remove(&*HeatmapOptions::name());
        components.schemas.extend(parameters::types());
    }
}

/// Parameters of paths, queries and headers are absent or not: they are never null.
fn refuse_null(document: &mut openapi::OpenApi) {
    let items = document.paths.paths.values_mut();
    let operations = items.flat_map(|item| {
        [
            item.get.as_mut(),
            item.post.as_mut(),
            item.put.as_mut(),
            item.delete.as_mut(),
        ]
    });
    for parameter in operations
        .flatten()
        .flat_map(|operation| operation.parameters.iter_mut().flatten())
    {
        if let RefOr::T(Parameter {
            schema: Some(schema),
            ..
        }) = parameter
        {
            refuse_null_in(schema);
        }
    }
}

fn refuse_null_in(schema: &mut RefOr<Schema>) {
    let is_null = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::from(Type::Null));
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let [only] = types
                    .iter()
                    .filter(|one| **one != Type::Null)
                    .collect::<Vec<_>>()[..]
            {
                object.schema_type = only.clone().into();
            }
        }
        RefOr::T(Schema::OneOf(choice)) => {
            choice.items.retain(|item| !is_null(item));
            if let [_] = choice.items[..] {
                *schema = choice.items.remove(0);
            }
        }
        _ => {}
    }
}

fn add_request_id(document: &mut openapi::OpenApi) {
    let operations = document.paths.paths.values_mut().flat_map(|item| {
        [
            item.get.as_mut(),
            item.post.as_mut(),
            item.put.as_mut(),
            item.delete.as_mut(),
        ]
    });
    for response in operations
        .flatten()
        .flat_map(|operation| operation.responses.responses.values_mut())
    {
        if let RefOr::T(response) = response {
            let mut header =
                openapi::Header::new(ObjectBuilder::new().schema_type(Type::String).build());
            header.description =
                Some("The request's own id, or a new UUID; the log names it too.".into());
            response
                .headers
                .insert(super::REQUEST_ID.to_string(), RefOr::T(header));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_stored_document_is_the_generated_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.yaml");
        let generated = super::to_yaml().unwrap();
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == generated,
            "the contract changed: run `explaind openapi > openapi/openapi.yaml` and look at the difference"
        );
    }
}
