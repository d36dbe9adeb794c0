//! The format of an answer: `format=`, else `Accept`, else what suits the input.

use axum::http::{HeaderMap, header};
use mime::Mime;

use super::codes::ApiError;
use crate::app::options::Format;

pub const NPY: &str = "application/x-npy";

const FORMATS: [(Format, &str); 5] = [
    (Format::Png, "image/png"),
    (Format::Jpeg, "image/jpeg"),
    (Format::Webp, "image/webp"),
    (Format::Json, "application/json"),
    (Format::Npy, NPY),
];

pub fn content_type(format: Format) -> &'static str {
    FORMATS
        .iter()
        .find(|(known, _)| *known == format)
        .map_or(mime::APPLICATION_OCTET_STREAM.as_ref(), |(_, name)| name)
}

/// `asked` is the parameter, `suited` what a caller without wishes gets.
pub fn choose_format(
    asked: Option<Format>,
    headers: &HeaderMap,
    suited: Format,
) -> Result<Format, ApiError> {
    match asked {
        Some(format) => Ok(format),
        None => {
            let mut formats = FORMATS;
            formats.sort_by_key(|(format, _)| *format != suited);
            choose(&formats, headers)
        }
    }
}

/// What `Accept` likes best among `formats`; the first wins a tie, and serves callers without
/// wishes.
pub fn choose<F: Copy>(formats: &[(F, &str)], headers: &HeaderMap) -> Result<F, ApiError> {
    let accept = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect::<Vec<_>>()
        .join(",");
    let wishes = if accept.is_empty() { "*/*" } else { &accept };
    let ranges: Vec<(Mime, f32)> = wishes.split(',').filter_map(parse_range).collect();
    let mut best: Option<(F, f32)> = None;
    for (format, name) in formats {
        let quality = quality_of(name, &ranges);
        if quality > best.map_or(0.0, |(_, quality)| quality) {
            best = Some((*format, quality));
        }
    }
    let allowed = || {
        formats
            .iter()
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    best.map(|(format, _)| format)
        .ok_or_else(|| ApiError::NotAcceptable {
            accept,
            allowed: allowed(),
        })
}

fn parse_range(text: &str) -> Option<(Mime, f32)> {
    let range: Mime = text.trim().parse().ok()?;
    let quality = range
        .get_param("q")
        .and_then(|q| q.as_str().parse().ok())
        .unwrap_or(1.0);
    Some((range, quality))
}

/// Of the most specific range that covers the type.
fn quality_of(name: &str, ranges: &[(Mime, f32)]) -> f32 {
    let (kind, _) = name.split_once('/').unwrap_or((name, ""));
    let specificity = |range: &Mime| match range.essence_str() {
        "*/*" => Some(0),
        exact if exact == name => Some(2),
        _ if range.type_() == kind && range.subtype() == mime::STAR => Some(1),
        _ => None,
    };
    ranges
        .iter()
        .filter_map(|(range, quality)| Some((specificity(range)?, *quality)))
        .max_by_key(|(specificity, _)| *specificity)
        .map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn choose(accept: &str, suited: Format) -> Option<Format> {
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]);
        choose_format(None, &headers, suited).ok()
    }

    #[test]
    fn accept_is_read_as_http_says() {
        for (accept, suited, expected) in [
            ("*/*", Format::Png, Some(Format::Png)),
            ("*/*", Format::Json, Some(Format::Json)),
            ("application/json", Format::Png, Some(Format::Json)),
            ("image/*", Format::Json, Some(Format::Png)),
            ("image/jpeg", Format::Png, Some(Format::Jpeg)),
            (
                "image/avif,image/webp,*/*;q=0.8",
                Format::Png,
                Some(Format::Webp),
            ),
            (
                "application/x-npy, application/json;q=0.5",
                Format::Png,
                Some(Format::Npy),
            ),
            ("text/html, */*;q=0.1", Format::Json, Some(Format::Json)),
            ("image/*;q=0, */*", Format::Png, Some(Format::Json)),
            ("text/html", Format::Png, None),
        ] {
            assert_eq!(choose(accept, suited), expected, "{accept}");
        }
    }

    #[test]
    fn the_parameter_wins_over_accept() {
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("text/html"))]);
        assert_eq!(
            choose_format(Some(Format::Npy), &headers, Format::Png).unwrap(),
            Format::Npy
        );
        assert_eq!(
            choose_format(None, &HeaderMap::new(), Format::Json).unwrap(),
            Format::Json
        );
    }
}
