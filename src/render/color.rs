//! Colour maps as tables: strength in -1..=1 -> RGB and opacity.
//! Hue maps (PINK_GREEN, RED, ...) fade to what lies under them; the others run through their own colours.

use colorous::Gradient;

use super::options::{ColorMap, OverlayType};

/// Entries of a table: strength -1, 0 and 1 are the first, the middle and the last but one, which the last repeats: a power of two.
const ENTRIES: usize = 512;
const MIDDLE: f32 = 255.0;
/// From here on floats are whole numbers, which are their lowest bits.
const WHOLE: f32 = 8_388_608.0;
const PINK: [u8; 3] = [240, 30, 150];
const GREEN: [u8; 3] = [40, 230, 60];
const RED: [u8; 3] = [240, 40, 40];

/// How one strength changes a pixel: `(under * keep + add) / 256` per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    pub keep: u16,
    pub add: [u16; 3],
}

#[derive(Clone, Debug)]
pub struct Palette {
    table: Box<[Paint; ENTRIES]>,
}

impl Palette {
    /// `alpha` is the opacity of strength 1 over an upload; it grows with the square root of the strength.
    pub fn new(map: ColorMap, overlay: OverlayType, alpha: f32) -> Palette {
        let table = std::array::from_fn(|at| {
            let strength = (at as f32 / MIDDLE - 1.0).min(1.0);
            let (color, hue) = color(map, strength);
            match overlay {
                OverlayType::MaskBlack => Paint { keep: (256.0 * strength.abs().sqrt()) as u16, add: [0; 3] },
                OverlayType::None if hue => mix(color, strength.abs()),
                OverlayType::None => mix(color, 1.0),
                OverlayType::Original | OverlayType::Grayscale => mix(color, alpha * strength.abs().sqrt()),
            }
        });
        Palette { table: Box::new(table) }
    }

    /// Strengths beyond -1..=1 count as the nearest; NaN as 0.
    pub fn paint(&self, strength: f32) -> Paint {
        let strength = if strength.is_nan() { 0.0 } else { strength.clamp(-1.0, 1.0) };
        // A conversion to an integer would look for overflow, and indexing for the end of the table.
        let at = (MIDDLE + MIDDLE * strength + WHOLE).to_bits() as usize;
        self.table[at % ENTRIES]
    }
}

impl Paint {
    pub fn over(self, under: [u8; 3]) -> [u8; 3] {
        std::array::from_fn(|channel| ((u16::from(under[channel]) * self.keep + self.add[channel]) >> 8) as u8)
    }
}

fn mix(color: [u8; 3], opacity: f32) -> Paint {
    let share = (256.0 * opacity).round() as u16;
    Paint { keep: 256 - share, add: color.map(|value| u16::from(value) * share) }
}

/// The colour of a strength, and whether the map is a hue that fades.
fn color(map: ColorMap, strength: f32) -> ([u8; 3], bool) {
    let by_sign = |negative, positive| (if strength < 0.0 { negative } else { positive }, true);
    // Diverging gradients run from their first colour (0) over white to their second (1).
    let diverging = |gradient: Gradient, at: f32| (gradient.eval_continuous(f64::from(at)).into_array(), false);
    let rising = |gradient: Gradient| (gradient.eval_continuous(f64::from(strength.abs())).into_array(), false);
    match map {
        ColorMap::PinkGreen => by_sign(PINK, GREEN),
        ColorMap::RedGreen => by_sign(RED, GREEN),
        ColorMap::Red => by_sign(RED, RED),
        ColorMap::Green => by_sign(GREEN, GREEN),
        ColorMap::PinkWhiteGreen => diverging(colorous::PINK_GREEN, 0.5 + 0.5 * strength),
        ColorMap::RdBu => diverging(colorous::RED_BLUE, 0.5 - 0.5 * strength),
        ColorMap::Viridis => rising(colorous::VIRIDIS),
        ColorMap::Inferno => rising(colorous::INFERNO),
        ColorMap::Magma => rising(colorous::MAGMA),
        ColorMap::Plasma => rising(colorous::PLASMA),
        ColorMap::Turbo => rising(colorous::TURBO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_strength_changes_nothing_over_an_upload() {
        for map in [ColorMap::PinkGreen, ColorMap::RdBu, ColorMap::Viridis] {
            for strength in [0.0, f32::NAN] {
                let paint = Palette::new(map, OverlayType::Original, 1.0).paint(strength);
                assert_eq!(paint.over([7, 100, 255]), [7, 100, 255]);
            }
        }
    }

    #[test]
    fn full_strength_is_the_colour_and_signs_differ() {
        let palette = Palette::new(ColorMap::PinkGreen, OverlayType::Original, 1.0);
        assert_eq!(palette.paint(1.0).over([9; 3]), GREEN);
        assert_eq!(palette.paint(-5.0).over([9; 3]), PINK);
        let half = Palette::new(ColorMap::RedGreen, OverlayType::Grayscale, 0.5);
        assert_eq!(half.paint(-1.0).over([0; 3]), RED.map(|value| value / 2));
    }

    #[test]
    fn red_is_positive_and_blue_negative_in_rd_bu() {
        let palette = Palette::new(ColorMap::RdBu, OverlayType::None, 1.0);
        let ([r, _, b], [nr, _, nb]) = (palette.paint(0.8).over([0; 3]), palette.paint(-0.8).over([0; 3]));
        assert!(r > 2 * b && nb > 2 * nr);
        assert!(palette.paint(0.0).over([0; 3]).iter().all(|value| *value > 230), "white where there is nothing");
    }

    #[test]
    fn a_mask_shows_the_upload_where_there_is_attribution() {
        let palette = Palette::new(ColorMap::Viridis, OverlayType::MaskBlack, 1.0);
        assert_eq!(palette.paint(0.0).over([200; 3]), [0; 3]);
        assert_eq!(palette.paint(1.0).over([200, 5, 255]), [200, 5, 255]);
    }
}
