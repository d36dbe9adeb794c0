//! The only room that knows HTTP: routes, extractors, problem+json, OpenAPI.
