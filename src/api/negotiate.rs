//! HTTP's `Accept`: how well a caller takes each type of answer.

use axum::http::{HeaderMap, header};
use mime::Mime;

use super::codes::ApiError;
use crate::app::{
    AppError,
    format::{Accept, Format},
};

/// The formats of POST /explain and POST /compare that a caller takes.
pub fn accept(headers: &HeaderMap) -> Accept {
    let accept = accept_of(headers);
    let ranges = ranges(&accept);
    Accept {
        quality: Format::ALL.map(|format| quality_of(format.media_type(), &ranges)),
        header: accept,
    }
}

/// What `Accept` likes best among `formats`; the first wins a tie, and serves callers without
/// wishes.
pub fn choose<F: Copy>(formats: &[(F, &str)], headers: &HeaderMap) -> Result<F, ApiError> {
    let accept = accept_of(headers);
    let ranges = ranges(&accept);
    let mut best: Option<(F, f32)> = None;
    for (format, name) in formats {
        let quality = quality_of(name, &ranges);
        if quality > best.map_or(0.0, |(_, quality)| quality) {
            best = Some((*format, quality));
        }
    }
    let allowed: Vec<&str> = formats.iter().map(|(_, name)| *name).collect();
    best.map(|(format, _)| format).ok_or_else(|| {
        AppError::NotAcceptable {
            accept,
            allowed: allowed.join(", "),
        }
        .into()
    })
}

/// All headers of that name.
fn accept_of(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    texts.join(",")
}

fn ranges(accept: &str) -> Vec<(Mime, f32)> {
    let wishes = if accept.is_empty() { "*/*" } else { accept };
    wishes.split(',').filter_map(parse_range).collect()
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

    fn choose(header: &str, suited: Format) -> Option<Format> {
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(header).unwrap())]);
        accept(&headers).choose(suited).ok()
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
    fn callers_without_wishes_get_what_suits() {
        let accept = accept(&HeaderMap::new());
        assert_eq!(accept.choose(Format::Png).unwrap(), Format::Png);
        assert_eq!(accept.choose(Format::Json).unwrap(), Format::Json);
    }
}
