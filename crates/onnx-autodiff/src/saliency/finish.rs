//! What is done to a finished map.

use super::MAP;
use crate::autodiff::{DeriveError, emit::Emitter};

/// What a map is divided by, for each input of its own. Maps of zeros stay zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing.
    None,
    /// Its largest absolute value: from -1 to 1, zero stays zero.
    MaxAbs,
    /// Its range, after its smallest value is taken away: from 0 to 1.
    MinMax,
}

pub(super) fn normalize(
    emit: &mut Emitter,
    map: &str,
    how: Normalize,
) -> Result<String, DeriveError> {
    emit.set_scope(MAP.into());
    let axes: Vec<usize> = (1..emit.shape(map)?.len()).collect();
    let (map, size) = match how {
        Normalize::None => return Ok(map.to_owned()),
        Normalize::MaxAbs => {
            let sizes = emit.unary("Abs", map)?;
            (map.to_owned(), emit.reduce("ReduceMax", &sizes, &axes)?)
        }
        Normalize::MinMax => {
            let low = emit.reduce("ReduceMin", map, &axes)?;
            let map = emit.binary("Sub", map, &low)?;
            let size = emit.reduce("ReduceMax", &map, &axes)?;
            (map, size)
        }
    };
    let smallest = emit.scalar(f32::MIN_POSITIVE, &size)?;
    let size = emit.binary("Max", &size, &smallest)?;
    emit.binary("Div", &map, &size)
}
