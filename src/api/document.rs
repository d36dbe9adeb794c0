//! The OpenAPI document: generated from the handlers and their types, with the parameters of the registry's tables added.

use std::collections::BTreeMap;

use axum::Router;
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{
        self, Content, Ref, RefOr, Response,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{
            ArrayBuilder, KnownFormat, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type,
        },
    },
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{Api, problem, requester::TIMEOUT_HEADER};
use crate::{
    app::{
        compare::MAX_WAYS,
        options::OPTIONS,
        plan::{DEFAULT_TOP_K, MAX_TOP_K},
    },
    image::types::TYPES,
    jobs::registry::KINDS,
    methods::{
        parameters::{self, Kind},
        registry::METHODS,
    },
    render::options::HeatmapOptions,
    tensor::ShapedData,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "explaind",
        description = "Explains what an image classifier saw: derives gradient graphs from any ONNX classifier and answers with \
            a heat map or numbers. Every error is application/problem+json and names all that is wrong at once.",
    ),
    tags(
        (name = "explain", description = "Explanations and predictions"),
        (name = "catalogue", description = "Methods and models"),
        (name = "jobs", description = "Long work that survives crashes and restarts"),
        (name = "datasets", description = "Images for benchmarks, baselines and fits"),
        (name = "health", description = "For balancers and monitors"),
    ),
    components(schemas(problem::Problem, HeatmapOptions, ShapedData)),
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
    let (router, mut document) = OpenApiRouter::with_openapi(Description::openapi()).merge(routes).split_for_parts();
    add_parameters(&mut document, "/explain", explain_parameters());
    add_parameters(&mut document, "/compare", compare_parameters());
    add_parameters(&mut document, "/predict", predict_parameters());
    for path in ["/explain", "/compare", "/predict"] {
        add_image_types(&mut document, path);
    }
    add_kinds(&mut document);
    refuse_null(&mut document);
    add_refusals(&mut document);
    add_request_id(&mut document);
    (router, document)
}

/// The Swagger UI at /docs, out of the binary: it needs no network.
pub(super) fn docs() -> Router<Api> {
    SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none")).into()
}

fn add_parameters(document: &mut openapi::OpenApi, path: &str, parameters: Vec<Parameter>) {
    if let Some(operation) = document.paths.paths.get_mut(path).and_then(|item| item.post.as_mut()) {
        operation.parameters.get_or_insert_default().extend(parameters.into_iter().map(RefOr::T));
    }
}

/// The types that are decoded, as bodies.
fn add_image_types(document: &mut openapi::OpenApi, path: &str) {
    let post = document.paths.paths.get_mut(path).and_then(|item| item.post.as_mut());
    if let Some(RefOr::T(body)) = post.and_then(|operation| operation.request_body.as_mut()) {
        let content = || RefOr::T(Content::new(Some(Binary::schema())));
        body.content.extend(TYPES.iter().map(|kind| (kind.content_type.to_owned(), content())));
    }
}

/// What POST /jobs can start.
fn add_kinds(document: &mut openapi::OpenApi) {
    if let Some(operation) = document.paths.paths.get_mut("/jobs").and_then(|item| item.post.as_mut()) {
        let kinds: String = KINDS.iter().map(|kind| format!("\n- `{}`: {}", kind.id(), kind.doc())).collect();
        operation.description = Some(format!("Kinds:\n{kinds}"));
    }
}

/// What every operation may be refused with, whatever it does.
fn add_refusals(document: &mut openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in [item.post.as_mut(), item.put.as_mut(), item.delete.as_mut()].into_iter().flatten() {
            operation.responses.responses.extend(problems(&[FOREIGN]));
        }
        for operation in
            [item.get.as_mut(), item.post.as_mut(), item.put.as_mut(), item.delete.as_mut()].into_iter().flatten()
        {
            operation.responses.responses.extend(problems(&[METHOD_NOT_ALLOWED]));
        }
    }
}

/// Parameters of paths, queries and headers are absent or not: they are never null.
fn refuse_null(document: &mut openapi::OpenApi) {
    let items = document.paths.paths.values_mut();
    let operations =
        items.flat_map(|item| [item.get.as_mut(), item.post.as_mut(), item.put.as_mut(), item.delete.as_mut()]);
    for parameter in operations.flatten().flat_map(|operation| operation.parameters.iter_mut().flatten()) {
        if let RefOr::T(Parameter { schema: Some(schema), .. }) = parameter {
            refuse_null_in(schema);
        }
    }
}

fn refuse_null_in(schema: &mut RefOr<Schema>) {
    let is_null = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::from(Type::Null));
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let [only] = types.iter().filter(|one| **one != Type::Null).collect::<Vec<_>>()[..]
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
    let operations = document
        .paths
        .paths
        .values_mut()
        .flat_map(|item| [item.get.as_mut(), item.post.as_mut(), item.put.as_mut(), item.delete.as_mut()]);
    for response in operations.flatten().flat_map(|operation| operation.responses.responses.values_mut()) {
        if let RefOr::T(response) = response {
            let mut header = openapi::Header::new(ObjectBuilder::new().schema_type(Type::String).build());
            header.description = Some("the request's own, or a new UUID; it finds the request in the log".into());
            response.headers.insert(super::REQUEST_ID.to_string(), RefOr::T(header));
        }
    }
}

fn method_ids() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(METHODS.iter().map(|method| method.id)))
}

fn explain_parameters() -> Vec<Parameter> {
    let doc = "the attribution method; by default pgig where the model has patterns, else integrated_gradients";
    [query("method", doc, method_ids())].into_iter().chain(shared_parameters()).collect()
}

fn compare_parameters() -> Vec<Parameter> {
    let methods = ArrayBuilder::new().items(method_ids().build()).max_items(Some(MAX_WAYS));
    let methods = ParameterBuilder::new()
        .name("method")
        .parameter_in(ParameterIn::Query)
        .description(Some("a method to compare; repeated"))
        .schema(Some(methods.build()))
        .build();
    [methods].into_iter().chain(shared_parameters()).collect()
}

/// Of POST /explain and POST /compare: all but the methods.
fn shared_parameters() -> Vec<Parameter> {
    let mut found = vec![model_parameter()];
    let mut rows: Vec<&'static parameters::Parameter> = Vec::new();
    for row in METHODS.iter().flat_map(|method| method.parameters()) {
        if !rows.iter().any(|known| known.name == row.name) {
            rows.push(row);
        }
    }
    found.push(query(
        "targets",
        "a target for each of several inputs, in their order, in place of target: a list in JSON, else joined by commas",
        ObjectBuilder::new().schema_type(Type::String),
    ));
    found.extend(rows.into_iter().map(method_parameter));
    found.extend(OPTIONS.iter().map(|option| {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(option.allowed.iter().copied()))
            .default(option.default.map(Value::from));
        query(option.name, option.doc, schema)
    }));
    found.extend(picture_parameters());
    found.push(timeout_parameter());
    found
}

fn predict_parameters() -> Vec<Parameter> {
    let top_k = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(MAX_TOP_K as f64))
        .default(Some(json!(DEFAULT_TOP_K)));
    vec![model_parameter(), query("top_k", "how many classes", top_k), timeout_parameter()]
}

fn model_parameter() -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::String).examples([json!("squeezenet1_1")]);
    query("model", "the model, by its id; by default the server's default model", schema)
}

fn timeout_parameter() -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    let mut parameter = query(TIMEOUT_HEADER.as_str(), "after so many milliseconds the work stops: 504", schema);
    parameter.parameter_in = ParameterIn::Header;
    parameter
}

/// A row of the methods' table. Which methods take it stands in its description.
fn method_parameter(row: &'static parameters::Parameter) -> Parameter {
    let takers: Vec<_> = METHODS.iter().filter(|method| method.parameters().any(|p| p.name == row.name)).collect();
    let base = ObjectBuilder::new();
    let schema = match &row.kind {
        Kind::Integer { min, max, .. } => {
            base.schema_type(Type::Integer).minimum(Some(*min as f64)).maximum(Some(*max as f64))
        }
        Kind::Number { above, max, .. } => {
            base.schema_type(Type::Number).exclusive_minimum(Some(*above)).maximum(Some(*max))
        }
        Kind::Boolean { .. } => base.schema_type(Type::Boolean),
        // Rows of one name may differ in what they allow, as `compat` does.
        Kind::Choice { .. } => base.schema_type(Type::String).enum_values(Some(choices(row.name))),
        Kind::Name { form, .. } => base.schema_type(Type::String).description(Some(*form)),
        Kind::Text { forms, .. } => base.schema_type(Type::String).description(Some(forms.join(", "))),
    };
    let defaults: Vec<_> = takers.iter().filter_map(|method| row.default_of(method)).collect();
    let shared =
        defaults.first().filter(|first| defaults.len() == takers.len() && defaults.iter().all(|d| d == *first));
    let ids = takers.iter().map(|method| method.id).collect::<Vec<_>>().join(", ");
    // A `default` would be sent by clients whatever the method, and refused by methods that do not take it.
    let default = shared.map(|default| format!("; by default {default}")).unwrap_or_default();
    query(row.name, &format!("{} (of {ids}{default})", row.doc), schema)
}

fn choices(name: &str) -> Vec<String> {
    let rows = METHODS.iter().flat_map(|method| method.parameters()).filter(|row| row.name == name);
    let mut found: Vec<String> = Vec::new();
    for choice in rows.flat_map(parameters::Parameter::allowed) {
        if !found.contains(&choice) {
            found.push(choice);
        }
    }
    found
}

/// From the schema of the picture's options.
fn picture_parameters() -> Vec<Parameter> {
    let RefOr::T(Schema::Object(object)) = HeatmapOptions::schema() else { return Vec::new() };
    let defaults = serde_json::to_value(HeatmapOptions::default()).unwrap_or_default();
    object
        .properties
        .into_iter()
        .map(|(name, schema)| {
            let default = &defaults[&name];
            ParameterBuilder::new()
                .description(Some(format!("option of the picture; by default {default}")))
                .name(name)
                .parameter_in(ParameterIn::Query)
                .schema(Some(schema))
                .build()
        })
        .collect()
}

fn query(name: &str, doc: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(doc))
        .schema(Some(schema.build()))
        .build()
}

/// Bytes, as the content type says.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        RefOr::T(ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build().into())
    }
}

impl ToSchema for Binary {}

/// One or several images, and what goes with them.
#[derive(ToSchema)]
pub struct MultipartRequest {
    /// One or several files.
    #[schema(value_type = Vec<Binary>, inline, max_items = 32)]
    pub image: Vec<Binary>,
    /// An image to use as `baseline=uploaded`.
    #[schema(value_type = Binary, inline, required = false)]
    pub baseline: Option<Binary>,
    /// Regions for `segments=uploaded`: a PNG (or another lossless type) whose colours are labels, or an npy file of integer labels `[height, width]` or `[n, height, width]`
    /// (negative: no region) or of bool masks `[n, height, width]`, in the size of the upload or of the model's input.
    #[schema(value_type = Binary, inline, required = false)]
    pub segments: Option<Binary>,
    /// The parameters as a JSON object.
    #[schema(value_type = String, required = false, example = r#"{"method": "integrated_gradients", "n_steps": 50}"#)]
    pub params: Option<String>,
}

/// One or several images to predict.
#[derive(ToSchema)]
pub struct PredictMultipartRequest {
    /// One or several files.
    #[schema(value_type = Vec<Binary>, inline, max_items = 32)]
    pub image: Vec<Binary>,
    /// The parameters as a JSON object.
    #[schema(value_type = String, required = false)]
    pub params: Option<String>,
}

/// A picture of 8 x 8 pixels, in base64: a blue disc.
const DISC: &str = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQMAAAD+wSzIAAAABlBMVEXIeCgeWqB0wpGFAAAAGElEQVR42mNgYLBhcmJiYGJgYmD+y8AAAAk9AYdnJaAyAAAAAElFTkSuQmCC";

/// The numbers with their shape, or nested lists of them.
fn tensor_schema() -> Schema {
    let inner = Object::with_type(Type::Array);
    let rows = OneOfBuilder::new().item(Object::with_type(Type::Number)).item(inner);
    let lists = ArrayBuilder::new().items(RefOr::T(Schema::from(rows.build())));
    let none = Object::with_type(Type::Null);
    OneOfBuilder::new().item(none).item(Ref::from_schema_name("ShapedData")).item(lists).build().into()
}

/// An image or a tensor, and parameters beside it under their own names. `null` is as good as absent.
#[derive(ToSchema)]
#[schema(example = json!({ "image": DISC, "method": "integrated_gradients", "n_steps": 50 }))]
pub struct JsonRequest {
    /// An encoded image (or an npy file) in base64: either alphabet, padded or not, wrapped or not, or a data URL.
    pub image: Option<String>,
    /// Several, in base64.
    #[schema(max_items = 32)]
    pub images: Option<Vec<String>>,
    #[schema(schema_with = tensor_schema)]
    pub tensor: Option<ShapedData>,
    /// An encoded image to use as `baseline=uploaded`, in base64.
    pub baseline_image: Option<String>,
    /// A tensor to use as `baseline=uploaded`.
    #[schema(schema_with = tensor_schema)]
    pub baseline_tensor: Option<ShapedData>,
    /// The file `segments` of the multipart form, in base64.
    pub segments_file: Option<String>,
}

/// An image or a tensor to predict, and parameters beside it under their own names. `null` is as good as absent.
#[derive(ToSchema)]
#[schema(example = json!({ "image": DISC }))]
pub struct JsonPredictRequest {
    /// An encoded image (or an npy file) in base64: either alphabet, padded or not, wrapped or not, or a data URL.
    pub image: Option<String>,
    /// Several, in base64.
    #[schema(max_items = 32)]
    pub images: Option<Vec<String>>,
    #[schema(schema_with = tensor_schema)]
    pub tensor: Option<ShapedData>,
}

const BAD_REQUEST: (u16, &str) = (400, "The body cannot be read.");
const BAD_PATH: (u16, &str) = (400, "The path cannot be read.");
const FOREIGN: (u16, &str) = (403, "A page of another origin asks; cors_origins and allowed_hosts say which may.");
const METHOD_NOT_ALLOWED: (u16, &str) = (405, "Another method was used than those of this path; Allow lists them.");
const NOT_FOUND: (u16, &str) = (404, "There is no such thing.");
const BODY_TIMEOUT: (u16, &str) = (408, "The body did not come in time.");
const CONFLICT: (u16, &str) = (409, "Its state does not allow it.");
const NOT_ACCEPTABLE: (u16, &str) = (406, "None of the types in Accept can be given.");
const TOO_LARGE: (u16, &str) = (413, "The body, image or tensor is too large.");
const UNSUPPORTED: (u16, &str) = (415, "The content type or image type is not supported.");
const UNPROCESSABLE: (u16, &str) =
    (422, "Parameters that are not allowed (all of them in `errors`), input that cannot be used, or too high a cost.");
const TOO_MANY: (u16, &str) = (429, "Overloaded; see Retry-After.");
const INTERNAL: (u16, &str) = (500, "An internal fault.");
const UNAVAILABLE: (u16, &str) = (503, "The server drains or is not ready, or the jobs' database or files are away.");
const INSUFFICIENT: (u16, &str) =
    (507, "There is no room: the disk, the data folder's quota or the number of data sets is used up.");
const TIMEOUT: (u16, &str) = (504, "The deadline passed; the work was stopped.");

fn problems(kinds: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let schema = Ref::from_schema_name("Problem");
    let response = |description: &str| {
        let mut response = Response::new(description);
        response.content.insert(problem::CONTENT_TYPE.to_owned(), RefOr::T(Content::new(Some(schema.clone()))));
        RefOr::T(response)
    };
    kinds.iter().map(|(status, description)| (status.to_string(), response(description))).collect()
}

macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident = [$($kind:ident),*];)*) => {
        $($(#[$doc])* pub struct $name;
        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                problems(&[$($kind),*])
            }
        })*
    };
}

problem_sets! {
    /// Of POST /explain, /compare and /predict.
    Problems = [BAD_REQUEST, NOT_ACCEPTABLE, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, TIMEOUT];
    /// Of what is looked up by id.
    MissingProblems = [BAD_PATH, NOT_FOUND, UNPROCESSABLE, INTERNAL];
    /// Of data sets, which may lie in a store that is away.
    DatasetProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    /// Of what is uploaded and taken away.
    UploadProblems = [BAD_REQUEST, NOT_FOUND, BODY_TIMEOUT, CONFLICT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    InternalProblems = [INTERNAL];
    /// Of POST /jobs.
    SubmitProblems = [BAD_REQUEST, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    JobsProblems = [BAD_REQUEST, UNPROCESSABLE, INTERNAL, UNAVAILABLE];
    /// Of what is about one job.
    JobProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    EventsProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE];
    ReportProblems = [BAD_PATH, NOT_FOUND, NOT_ACCEPTABLE, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE];
    ReadinessProblems = [INTERNAL, UNAVAILABLE];
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
