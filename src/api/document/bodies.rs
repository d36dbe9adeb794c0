//! The bodies of requests, as their handlers name them: inputs, and every parameter beside them
//! under its own name.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{
            AnyOfBuilder, ArrayBuilder, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat,
            SchemaType, Type,
        },
    },
};

use super::parameters::{self, Field};
use crate::{api::contents::MAX_IMAGES, app::requested::INPUTS_DOC};

/// Bytes, as the content type says.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        RefOr::T(file().build().into())
    }
}

impl ToSchema for Binary {}

/// Bodies: fields of an object, those that it must have, and an example that a server with the
/// bundled model answers.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $description:literal, $fields:expr, $required:expr, $example:expr })*) => {
        $($(#[$doc])* pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                object($description, $fields, $required, $example)
            }
        }

        impl ToSchema for $name {})*
    };
}

bodies! {
    /// JSON for POST /explain.
    ExplainRequest {
        "One of `image`, `images` and `tensor`, and parameters under their own names. `null` counts as absent.",
        inputs().into_iter().chain(uploads()).chain(parameters::of_explain()),
        None, Some(json!({ "image": DISC, "method": "integrated_gradients", "n_steps": 50 }))
    }
    /// JSON for POST /compare.
    CompareRequest {
        "One of `image`, `images` and `tensor`, and parameters under their own names; those beside `methods` are for every method that takes them.",
        inputs().into_iter().chain(uploads()).chain(parameters::of_compare_body()),
        Some("methods"), Some(json!({ "image": DISC, "methods": ["gradient", { "id": "integrated_gradients", "n_steps": 50 }] }))
    }
    /// JSON for POST /predict.
    PredictRequest {
        "One of `image`, `images` and `tensor`, and parameters under their own names. `null` counts as absent.",
        inputs().into_iter().chain(parameters::of_predict()),
        None, Some(json!({ "image": DISC, "top_k": 3 }))
    }
    /// A form for POST /explain.
    ExplainForm {
        "Images and what goes with them as files, parameters as text fields.",
        form_files().into_iter().chain(form_uploads()).chain(parameters::of_explain()).chain([params()]),
        Some("image"), None
    }
    /// A form for POST /compare.
    CompareForm {
        "An image and what goes with it as files, parameters as text fields; `method` is repeated.",
        form_files().into_iter().chain(form_uploads()).chain(parameters::of_compare()).chain([params()]),
        Some("image"), None
    }
    /// A form for POST /predict.
    PredictForm {
        "Images as files, parameters as text fields.",
        form_files().into_iter().chain(parameters::of_predict()).chain([params()]),
        Some("image"), None
    }
    /// JSON of KServe's V1 protocol.
    InstancesRequest {
        "Instances, and parameters of POST /explain.",
        instances().into_iter(),
        Some("instances"), Some(json!({ "instances": [{ "b64": DISC }], "parameters": { "method": "gradient" } }))
    }
    /// JSON of the Open Inference Protocol.
    InferRequest {
        "The model's input, the outputs wanted, and parameters of POST /explain.",
        infer_fields().into_iter(),
        Some("inputs"), Some(json!({
            "inputs": [{ "name": "input", "datatype": "BYTES", "shape": [1], "data": [DISC] }],
            "outputs": [{ "name": "scores" }, { "name": "attribution" }],
            "parameters": { "method": "gradient" },
        }))
    }
    /// A form for TorchServe's routes.
    FileForm {
        "An image file.",
        [Field::new("data", "The image file.", file())].into_iter(),
        Some("data"), None
    }
    /// A form for PUT /models/{id}.
    ModelForm {
        "The files of a model.",
        model_files().into_iter(),
        Some("model"), None
    }
}

/// An object with these fields; of two with the same name the first.
fn object(
    description: &str,
    fields: impl Iterator<Item = Field>,
    required: Option<&str>,
    example: Option<Value>,
) -> RefOr<Schema> {
    let mut object = ObjectBuilder::new()
        .description(Some(description))
        .examples(example)
        .build();
    for (name, schema) in fields.map(Field::into_property) {
        object.properties.entry(name).or_insert(schema);
    }
    object.required.extend(required.map(str::to_owned));
    RefOr::T(object.into())
}

/// A picture of 8 x 8 pixels, in base64: a blue disc.
const DISC: &str = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQMAAAD+wSzIAAAABlBMVEXIeCgeWqB0wpGFAAAAGElEQVR42mNgYLBhcmJiYGJgYmD+y8AAAAk9AYdnJaAyAAAAAElFTkSuQmCC";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn file() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
}

/// The numbers with their shape, or nested lists of them.
pub struct Tensor;

impl PartialSchema for Tensor {
    fn schema() -> RefOr<Schema> {
        let any = Object::with_type(SchemaType::AnyValue);
        let lists = ArrayBuilder::new()
            .items(any)
            .description(Some("Nested lists of numbers."));
        let forms = AnyOfBuilder::new()
            .item(Ref::from_schema_name("ShapedData"))
            .item(lists);
        RefOr::T(
            forms
                .description(Some("An array of numbers, in either form."))
                .build()
                .into(),
        )
    }
}

impl ToSchema for Tensor {}

fn tensor() -> Ref {
    Ref::from_schema_name("Tensor")
}

fn inputs() -> [Field; 4] {
    let others = ObjectBuilder::new()
        .additional_properties(Some(Schema::from(Object::with_type(SchemaType::AnyValue))));
    let images = ArrayBuilder::new()
        .items(text())
        .max_items(Some(MAX_IMAGES))
        .build();
    let image = "An encoded image (or an npy file) in base64: standard or URL-safe alphabet, with or without padding or line breaks, or a \
        data URL.";
    [
        Field::new("image", image, text()),
        Field::new(
            "images",
            "Several images, each in base64.",
            Schema::from(images),
        ),
        Field::new(
            "tensor",
            "An input that is already preprocessed; with one leading axis more, a batch of them.",
            tensor(),
        ),
        Field::new("inputs", INPUTS_DOC, others),
    ]
}

fn uploads() -> [Field; 5] {
    [
        Field::new(
            "baseline_image",
            "An encoded image to use as `baseline=uploaded`, in base64.",
            text(),
        ),
        Field::new(
            "baseline_tensor",
            "A tensor to use as `baseline=uploaded`.",
            tensor(),
        ),
        Field::new(
            "reference_image",
            "An encoded image in base64: the target `reference` is the similarity of the model's embedding to that of this image.",
            text(),
        ),
        Field::new(
            "reference_tensor",
            "A tensor in place of `reference_image`.",
            tensor(),
        ),
        Field::new(
            "segments_file",
            "The file `segments` of the multipart form, in base64.",
            text(),
        ),
    ]
}

fn any_object() -> ObjectBuilder {
    let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(any))
}

fn instances() -> [Field; 2] {
    let instances = ArrayBuilder::new()
        .items(Object::with_type(SchemaType::AnyValue))
        .min_items(Some(1))
        .max_items(Some(MAX_IMAGES))
        .build();
    [
        Field::new(
            "instances",
            "Tensors that are preprocessed for the model, as nested lists, or images in base64: texts, or objects with `b64`, `data`, `image` or `image_bytes`.",
            Schema::from(instances),
        ),
        Field::new(
            "parameters",
            "Those of POST /explain, by name.",
            any_object(),
        ),
    ]
}

fn infer_fields() -> [Field; 4] {
    let list = || {
        Schema::from(
            ArrayBuilder::new()
                .items(any_object())
                .max_items(Some(MAX_IMAGES))
                .build(),
        )
    };
    [
        Field::new("id", "Repeated in the answer.", text()),
        Field::new(
            "inputs",
            "The model's input: `name`, `shape` with the batch, `datatype` (FP32, FP64 or FP16: preprocessed; UINT8: pixels; BYTES: encoded images, in base64) and `data`.",
            list(),
        ),
        Field::new(
            "outputs",
            "Objects whose `name` is `scores`, `attribution` or `target`.",
            list(),
        ),
        Field::new(
            "parameters",
            "Those of POST /explain, by name.",
            any_object(),
        ),
    ]
}

fn model_files() -> [Field; 5] {
    let data = ArrayBuilder::new().items(file()).build();
    [
        Field::new("model", "The ONNX file.", file()),
        Field::new(
            "data",
            "Files of its external data, each with the file name by which the ONNX file knows it.",
            Schema::from(data),
        ),
        Field::new(
            "manifest",
            "model.toml, or the same as JSON: what the model's input and output mean.",
            file(),
        ),
        Field::new("labels", "The name of each class, one a line.", file()),
        Field::new(
            "patterns",
            "patterns.safetensors, as `explaind fit-patterns` writes them.",
            file(),
        ),
    ]
}

fn form_files() -> [Field; 1] {
    let files = ArrayBuilder::new()
        .items(file())
        .max_items(Some(MAX_IMAGES))
        .build();
    [Field::new(
        "image",
        "One or several image or npy files. The field may also be called `file` or `data`.",
        Schema::from(files),
    )]
}

fn form_uploads() -> [Field; 3] {
    let segments = "A file of regions, to use as `segments=uploaded`: a PNG (or another lossless type) whose colours are labels, or an npy \
        file of integer labels `[height, width]` or `[n, height, width]` (negative: no region) or of bool masks `[n, height, width]`, in \
        the size of the upload or of the model's input. A text is the parameter `segments`.";
    let baseline =
        "An image or npy file to use as `baseline=uploaded`. A text is the parameter `baseline`.";
    let reference = "An image or npy file: the target `reference` is the similarity of the model's embedding to that of this image.";
    [
        Field::new("baseline", baseline, file()),
        Field::new("segments", segments, file()),
        Field::new("reference", reference, file()),
    ]
}

fn params() -> Field {
    Field::new(
        "params",
        "Parameters as one JSON object, beside or instead of text fields.",
        text(),
    )
}
