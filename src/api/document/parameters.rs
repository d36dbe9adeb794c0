//! The parameters of POST /explain, /compare and /predict, out of the tables that parse them: once
//! for the query, once as fields of JSON and of forms. None has a `default` in its schema: clients
//! would send it whatever the method, and methods refuse what they do not take.

use std::mem;

use indexmap::IndexSet;
use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use super::refuse_null_in;
use crate::{
    api::requester::TIMEOUT_HEADER,
    app::{
        compare::MAX_WAYS,
        options::OPTIONS,
        plan::{DEFAULT_TOP_K, MAX_TOP_K},
        requested,
    },
    methods::{
        parameters::{self, Kind},
        registry::{AUTO, METHODS},
    },
    render::options::{HeatmapOptions, Look},
};

/// A parameter, wherever it is given.
pub(super) struct Field {
    pub name: String,
    pub description: String,
    pub schema: RefOr<Schema>,
    /// What the page at /docs fills in.
    example: Option<Value>,
}

impl Field {
    pub(super) fn new(
        name: &str,
        description: impl Into<String>,
        schema: impl Into<RefOr<Schema>>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            description: description.into(),
            schema: schema.into(),
            example: None,
        }
    }

    pub(super) fn into_query(self) -> Parameter {
        self.into_parameter(ParameterIn::Query)
    }

    fn into_parameter(self, place: ParameterIn) -> Parameter {
        ParameterBuilder::new()
            .name(self.name)
            .parameter_in(place)
            .description(Some(self.description))
            .schema(Some(self.schema))
            .example(self.example)
            .build()
    }

    /// As a property of an object.
    pub(super) fn into_property(self) -> (String, RefOr<Schema>) {
        let mut schema = self.schema;
        match &mut schema {
            RefOr::T(Schema::Object(object)) => object.description = Some(self.description),
            RefOr::T(Schema::Array(array)) => array.description = Some(self.description),
            RefOr::Ref(reference) => reference.description = self.description,
            RefOr::T(_) => {}
        }
        (self.name, schema)
    }
}

/// Of POST /explain.
pub(super) fn of_explain() -> Vec<Field> {
    let doc = "The attribution method. Default: auto, which is pgig where the model has patterns, else integrated_gradients where every operation of \
               the network has a gradient, else occlusion; the answer says which and why.";
    [Field::new("method", doc, method_id())]
        .into_iter()
        .chain(shared())
        .collect()
}

/// Of POST /compare, in the query.
pub(super) fn of_compare() -> Vec<Field> {
    let methods = ArrayBuilder::new()
        .items(method_id())
        .max_items(Some(MAX_WAYS))
        .build();
    let method = Field::new(
        "method",
        "A method to compare; repeat it for each method.",
        Schema::from(methods),
    );
    let method = Field {
        example: Some(json!(["gradient", "integrated_gradients"])),
        ..method
    };
    [method].into_iter().chain(shared()).collect()
}

/// Of POST /compare, in a JSON body.
pub(super) fn of_compare_body() -> Vec<Field> {
    let id = Field::new("id", "The method.", method_id());
    let own = [id]
        .into_iter()
        .chain(of_methods())
        .map(Field::into_property);
    let own = own.fold(ObjectBuilder::new(), |object, (name, schema)| {
        object.property(name, schema)
    });
    let way = OneOfBuilder::new()
        .item(method_id())
        .item(own.required("id"));
    let methods = ArrayBuilder::new()
        .items(way)
        .max_items(Some(MAX_WAYS))
        .build();
    let doc = "The methods to compare: ids, or objects with an `id` and parameters for that method alone.";
    [Field::new("methods", doc, Schema::from(methods))]
        .into_iter()
        .chain(shared())
        .collect()
}

/// Of POST /predict.
pub(super) fn of_predict() -> Vec<Field> {
    let top_k = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(MAX_TOP_K as f64));
    let doc = format!("The number of classes. Default: {DEFAULT_TOP_K}.");
    let top_k = Field::new("top_k", doc, top_k);
    of_model().chain([top_k]).collect()
}

/// The deadline of a request.
pub(super) fn timeout() -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1));
    let doc = "Deadline of the request in milliseconds: work that takes longer is stopped and answered with 504.";
    Field::new(TIMEOUT_HEADER.as_str(), doc, schema).into_parameter(ParameterIn::Header)
}

/// All but the methods: what is explained, how it is answered, how it is drawn, then what only some
/// methods take.
fn shared() -> impl Iterator<Item = Field> {
    let targets = "A target for each of several inputs, in their order, instead of `target`: joined by commas, or a list in JSON.";
    let options = OPTIONS.iter().map(|option| {
        let default = option
            .default
            .map(|default| format!(" Default: {default}."))
            .unwrap_or_default();
        let one = Ref::from_schema_name(type_of_option(option.name));
        let schema = match option.is_list {
            true => RefOr::T(ArrayBuilder::new().items(one).build().into()),
            false => RefOr::Ref(one),
        };
        Field::new(option.name, format!("{}{default}", option.doc), schema)
    });
    let (for_all, for_some): (Vec<_>, Vec<_>) = rows()
        .into_iter()
        .partition(|(_, takers)| takers.len() == METHODS.len());
    let describe =
        |(row, takers): (&'static parameters::Parameter, Vec<&'static str>)| of_row(row, &takers);
    of_model()
        .chain(for_all.into_iter().map(describe))
        .chain([Field::new(
            "targets",
            targets,
            ObjectBuilder::new().schema_type(Type::String),
        )])
        .chain(options)
        .chain(of_picture())
        .chain(for_some.into_iter().map(describe))
}

/// The rows of all methods, each name once, with the methods that take it.
fn rows() -> Vec<(&'static parameters::Parameter, Vec<&'static str>)> {
    let mut found: Vec<(&'static parameters::Parameter, Vec<&'static str>)> = Vec::new();
    for method in METHODS {
        for row in method.parameters() {
            match found.iter_mut().find(|(known, _)| known.name == row.name) {
                Some((_, takers)) => takers.push(method.id),
                None => found.push((row, vec![method.id])),
            }
        }
    }
    found
}

fn of_methods() -> impl Iterator<Item = Field> {
    rows().into_iter().map(|(row, takers)| of_row(row, &takers))
}

/// The model, and how it is used.
fn of_model() -> impl Iterator<Item = Field> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let model = "The model's id. Default: the server's default model.";
    let others = requested::PARAMETERS.into_iter();
    [("model", model)]
        .into_iter()
        .chain(others)
        .map(move |(name, doc)| Field::new(name, doc, text()))
}

/// What parameters choose among: types of their own, which clients know by one name wherever they
/// are given.
pub(super) fn types() -> impl Iterator<Item = (String, RefOr<Schema>)> {
    let ids = METHODS.iter().map(|method| method.id).chain([AUTO]);
    let methods = ids.map(str::to_owned).collect();
    let rows = rows()
        .into_iter()
        .filter(|(row, _)| matches!(row.kind, Kind::Choice { .. }));
    let options = OPTIONS.iter().map(|option| {
        let allowed = option
            .allowed
            .iter()
            .map(|choice| (*choice).to_owned())
            .collect();
        (type_of_option(option.name), allowed)
    });
    let all = [(METHOD.to_owned(), methods)]
        .into_iter()
        .chain(rows.map(|(row, _)| (camel_case(row.name), choices(row.name))))
        .chain(options);
    all.map(|(name, allowed): (String, Vec<String>)| {
        (
            name,
            RefOr::T(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(allowed))
                    .build()
                    .into(),
            ),
        )
    })
}

const METHOD: &str = "Method";

fn method_id() -> Ref {
    Ref::from_schema_name(METHOD)
}

fn type_of_option(name: &str) -> String {
    format!("Answer{}", camel_case(name))
}

/// `RuleSet` of `rule_set`.
fn camel_case(name: &str) -> String {
    let words = name.split('_').filter_map(|word| word.split_at_checked(1));
    words
        .flat_map(|(first, rest)| [first.to_ascii_uppercase(), rest.to_owned()])
        .collect()
}

/// Which methods take it stands in its description, with what those have in common as default.
fn of_row(row: &'static parameters::Parameter, takers: &[&'static str]) -> Field {
    let base = |kind| ObjectBuilder::new().schema_type(kind);
    let text = || RefOr::T(base(Type::String).build().into());
    let (schema, forms): (RefOr<Schema>, _) = match &row.kind {
        Kind::Integer { min, max, .. } => (
            base(Type::Integer)
                .minimum(Some(*min as f64))
                .maximum(Some(*max as f64))
                .into(),
            None,
        ),
        Kind::Number { above, max, .. } => (
            base(Type::Number)
                .exclusive_minimum(Some(*above))
                .maximum(Some(*max))
                .into(),
            None,
        ),
        Kind::Boolean { .. } => (base(Type::Boolean).into(), None),
        Kind::Choice { .. } => (
            RefOr::Ref(Ref::from_schema_name(camel_case(row.name))),
            None,
        ),
        Kind::Name { form, .. } => (text(), Some(format!("Allowed: {form}."))),
        Kind::Text { forms, .. } => (
            text(),
            Some(format!(
                "One of: {}.",
                forms
                    .iter()
                    .map(|form| format!("`{form}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        ),
    };
    let methods = METHODS.iter().filter(|method| takers.contains(&method.id));
    let defaults: Vec<Option<Value>> = methods.map(|method| method.default_of(row)).collect();
    let shared = defaults
        .first()
        .cloned()
        .flatten()
        .filter(|first| defaults.iter().all(|d| d.as_ref() == Some(first)));
    let mut description = docs(row.name).join(" ");
    if let Some(forms) = forms {
        description.push_str(&format!(" {forms}"));
    }
    if let Some(default) = shared {
        let default = default
            .as_str()
            .map_or_else(|| default.to_string(), str::to_owned);
        description.push_str(&format!(" Default: {default}."));
    } else if defaults.iter().any(Option::is_some) {
        description.push_str(" The default depends on the method: GET /methods.");
    } else if row.from_model {
        description.push_str(" Default: the model's own.");
    }
    description.push_str(&format!("\n\nMethods: {}.", among_all(takers)));
    Field::new(row.name, description, schema)
}

/// The methods by name, or those left out where they are fewer.
fn among_all(takers: &[&str]) -> String {
    let others: Vec<&str> = METHODS
        .iter()
        .map(|method| method.id)
        .filter(|id| !takers.contains(id))
        .collect();
    match others.len() {
        0 => "all".to_owned(),
        few if few <= 3 => format!("all except {}", others.join(", ")),
        _ => takers.join(", "),
    }
}

/// Rows of one name may differ in what they say and allow, as those of `compat` do.
fn rows_named(name: &str) -> impl Iterator<Item = &'static parameters::Parameter> {
    METHODS
        .iter()
        .flat_map(|method| method.parameters())
        .filter(move |row| row.name == name)
}

fn docs(name: &str) -> Vec<&'static str> {
    rows_named(name)
        .map(|row| row.doc)
        .collect::<IndexSet<_>>()
        .into_iter()
        .collect()
}

fn choices(name: &str) -> Vec<String> {
    rows_named(name)
        .flat_map(parameters::Parameter::allowed)
        .collect::<IndexSet<_>>()
        .into_iter()
        .collect()
}

/// From the schema of the picture's options.
fn of_picture() -> Vec<Field> {
    let RefOr::T(Schema::Object(object)) = HeatmapOptions::schema() else {
        return Vec::new();
    };
    // Through text: a float32 is 0.9 there, and 0.8999999761581421 as a JSON value.
    let defaults = Look::ALL.map(|look| {
        let options = serde_json::to_string(&look.options()).unwrap_or_default();
        (
            look.maps(),
            serde_json::from_str::<Value>(&options).unwrap_or_default(),
        )
    });
    let mut types = Vec::new();
    HeatmapOptions::schemas(&mut types);
    let of_type = |place: &str| {
        let (_, schema) = types
            .iter()
            .find(|(name, _)| place.ends_with(&format!("/{name}")))?;
        if let RefOr::T(Schema::Object(object)) = schema {
            object.description.clone()
        } else {
            None
        }
    };
    let option = |(name, mut schema): (String, RefOr<Schema>)| {
        refuse_null_in(&mut schema);
        let doc = match &mut schema {
            RefOr::T(Schema::Object(object)) => {
                object.default = None;
                object.description.take()
            }
            RefOr::Ref(reference) => {
                reference.default = None;
                let own = Some(mem::take(&mut reference.description));
                own.filter(|own| !own.is_empty())
                    .or_else(|| of_type(&reference.ref_location))
            }
            RefOr::T(_) => None,
        };
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let [(_, first), others @ ..] = &defaults;
        let default = match first.get(&name) {
            None => String::new(),
            Some(first) if others.iter().all(|(_, other)| other[&name] == *first) => {
                format!(" Default: {}.", text(first))
            }
            Some(_) => {
                let each = defaults
                    .iter()
                    .map(|(maps, options)| format!("{} for {maps}", text(&options[&name])));
                format!(" Default: {}.", each.collect::<Vec<_>>().join(", "))
            }
        };
        Field::new(
            &name,
            format!("Picture: {}{default}", doc.unwrap_or_default()),
            schema,
        )
    };
    object.properties.into_iter().map(option).collect()
}
