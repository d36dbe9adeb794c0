//! Execution providers as the user writes them: `cpu`, `cuda`, `cuda:1`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A device that runs sessions. A device that is not available is an error; there is no fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Provider {
    Cpu,
    Cuda { device: u16 },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("execution provider `{text}` is unknown; write `cpu`, `cuda` or `cuda:N`")]
pub struct UnknownProvider {
    pub text: String,
}

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, UnknownProvider> {
        let unknown = || UnknownProvider {
            text: text.to_owned(),
        };
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda { device: 0 }),
            Some(("cuda", device)) => Ok(Self::Cuda {
                device: device.parse().map_err(|_| unknown())?,
            }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { device } => write!(f, "cuda:{device}"),
        }
    }
}

impl TryFrom<String> for Provider {
    type Error = UnknownProvider;

    fn try_from(text: String) -> Result<Self, UnknownProvider> {
        text.parse()
    }
}

impl From<Provider> for String {
    fn from(provider: Provider) -> String {
        provider.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_read_as_they_are_written() {
        assert_eq!("cpu".parse(), Ok(Provider::Cpu));
        assert_eq!("cuda".parse(), Ok(Provider::Cuda { device: 0 }));
        assert_eq!("cuda:3".parse(), Ok(Provider::Cuda { device: 3 }));
        assert_eq!(Provider::Cuda { device: 3 }.to_string(), "cuda:3");
    }

    #[test]
    fn other_words_are_refused_with_what_is_allowed() {
        for text in ["", "gpu", "cpu:1", "cuda:", "cuda:-1", "CUDA"] {
            let error = text.parse::<Provider>().unwrap_err();
            assert!(error.to_string().contains("`cuda:N`"), "{error}");
        }
    }
}
