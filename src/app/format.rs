//! The format of an answer: what the parameter `format` asks for, else what the caller accepts, else
//! what suits the input.

use serde::Deserialize;

use super::AppError;
use crate::render::encode::FileType;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Png,
    #[serde(alias = "jpg")]
    Jpeg,
    Webp,
    #[default]
    Json,
    Npy,
    /// A zip of the answer and all that it was made of.
    Bundle,
}

/// The media type of npy files.
pub const NPY: &str = "application/x-npy";

impl Format {
    pub const ALL: [Self; 6] = [
        Self::Png,
        Self::Jpeg,
        Self::Webp,
        Self::Json,
        Self::Npy,
        Self::Bundle,
    ];

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Json => "application/json",
            Self::Npy => NPY,
            Self::Bundle => "application/zip",
        }
    }

    /// Of answers that are a picture.
    pub fn file_type(self) -> Option<FileType> {
        match self {
            Self::Png => Some(FileType::Png),
            Self::Jpeg => Some(FileType::Jpeg),
            Self::Webp => Some(FileType::Webp),
            Self::Json | Self::Npy | Self::Bundle => None,
        }
    }
}

/// Which formats a caller accepts: HTTP's header `Accept`.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The header itself, for errors.
    pub header: String,
    /// The quality of each of [`Format::ALL`], 0 to 1; 0 is not accepted.
    pub quality: [f32; Format::ALL.len()],
}

/// Whatever comes.
impl Default for Accept {
    fn default() -> Self {
        Self {
            header: String::new(),
            quality: [1.0; Format::ALL.len()],
        }
    }
}

impl Accept {
    /// The format that is accepted best; `suited` wins a tie.
    pub fn choose(&self, suited: Format) -> Result<Format, AppError> {
        let mut formats: Vec<(Format, f32)> = Format::ALL.into_iter().zip(self.quality).collect();
        formats.sort_by_key(|(format, _)| *format != suited);
        let accepted = formats.iter().filter(|(_, quality)| *quality > 0.0);
        // `max_by` gives the last of equals.
        let best = accepted
            .rev()
            .max_by(|(_, one), (_, other)| one.total_cmp(other));
        best.map(|(format, _)| *format).ok_or_else(|| {
            let allowed: Vec<_> = formats
                .iter()
                .map(|(format, _)| format.media_type())
                .collect();
            AppError::NotAcceptable {
                accept: self.header.clone(),
                allowed: allowed.join(", "),
            }
        })
    }
}
