//! Colour maps as lookup tables: strength in -1..=1 -> RGB and opacity. Over an upload, maps of one
//! or two hues (red, pink_green, rd_bu, ...) become transparent as strength falls; sequential maps
//! (viridis, ...), which show strength by lightness, have equal opacity everywhere and darken the
//! upload where strength is low.

use colorous::Gradient;
use image::Rgb;

use super::options::{ColorMap, Drawing, HeatmapOptions, OverlayType};

/// Entries of a table. Strength -1, 0 and 1 are the first, the middle and the last but one (the
/// last repeats it): a power of two, so that indices can be masked.
const ENTRIES: usize = 512;
const MIDDLE: f32 = 255.0;
/// 2^23: adding it to a float leaves no fraction, so the rounded integer is in the lowest bits.
const WHOLE: f32 = 8_388_608.0;
const PINK: [u8; 3] = [240, 30, 150];
const GREEN: [u8; 3] = [40, 230, 60];
const RED: [u8; 3] = [240, 40, 40];
/// Margins, captions and legends are drawn on it.
pub const PAPER: Rgb<u8> = Rgb([255; 3]);
/// How much pixels outside of the crop are darkened under maps that darken the upload.
const DIMMED: f32 = 0.55;
/// The part of each half of a diverging map that is used over an upload. Its middle is left out:
/// nearly white colours could not be seen.
const HUES: [f32; 2] = [0.6, 1.0];
/// The range of the blue half of rd_bu: lighter, so that in a grey print evidence against the class
/// (pale) differs from evidence for it (dark).
const BLUES: [f32; 2] = [0.4, 0.6];

/// How one strength changes a pixel: `(under * keep + add) / 256` per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    pub keep: u16,
    pub add: [u16; 3],
}

#[derive(Clone, Debug)]
pub struct Palette {
    table: Box<[Paint; ENTRIES]>,
    /// Applied to pixels outside of the crop.
    pub outside: Paint,
}

impl Palette {
    /// In maps that fade, opacity grows with the square root of the strength.
    pub fn new(options: &HeatmapOptions) -> Palette {
        let HeatmapOptions {
            color_map,
            overlay_type,
            alpha,
            ..
        } = *options;
        let is_even = !tint(color_map, 0.0).fades && options.r#type == Drawing::Pixels;
        let table: [Paint; ENTRIES] = std::array::from_fn(|at| {
            let strength = (at as f32 / MIDDLE - 1.0).min(1.0);
            let Tint { color, over, .. } = tint(color_map, strength);
            match overlay_type {
                OverlayType::MaskBlack => Paint {
                    keep: (256.0 * strength.abs().sqrt()) as u16,
                    add: [0; 3],
                },
                OverlayType::None => color,
                OverlayType::Original | OverlayType::Grayscale | OverlayType::Faded if is_even => {
                    mix(over, alpha)
                }
                OverlayType::Original | OverlayType::Grayscale | OverlayType::Faded => {
                    mix(over, alpha * strength.abs().sqrt())
                }
            }
        });
        let outside = match overlay_type {
            OverlayType::None | OverlayType::MaskBlack => table[MIDDLE as usize],
            // Undarkened, it would be brighter than the map and look like the most important part.
            _ if is_even => mix([0; 3], DIMMED),
            _ => mix([0; 3], 0.0),
        };
        Palette {
            table: Box::new(table),
            outside,
        }
    }

    /// Strengths outside -1..=1 are clamped; NaN counts as 0.
    pub fn paint(&self, strength: f32) -> Paint {
        let strength = if strength.is_nan() {
            0.0
        } else {
            strength.clamp(-1.0, 1.0)
        };
        // `as` would saturate, and indexing would check bounds: adding 2^23 and masking do neither.
        let at = (MIDDLE + MIDDLE * strength + WHOLE).to_bits() as usize;
        self.table[at % ENTRIES]
    }
}

impl Paint {
    pub fn over(self, under: [u8; 3]) -> [u8; 3] {
        std::array::from_fn(|channel| {
            ((u16::from(under[channel]) * self.keep + self.add[channel]) >> 8) as u8
        })
    }
}

fn mix(color: [u8; 3], opacity: f32) -> Paint {
    let share = (256.0 * opacity).round() as u16;
    Paint {
        keep: 256 - share,
        add: color.map(|value| u16::from(value) * share),
    }
}

/// How a colour map shows one strength.
struct Tint {
    /// Colour and opacity where there is no upload.
    color: Paint,
    /// Colour over an upload.
    over: [u8; 3],
    /// Whether opacity falls with strength.
    fades: bool,
}

fn tint(map: ColorMap, strength: f32) -> Tint {
    let by_sign = |negative, positive| {
        let over = if strength < 0.0 { negative } else { positive };
        Tint {
            color: mix(over, strength.abs()),
            over,
            fades: true,
        }
    };
    // Diverging gradients run from their first colour (0) over white to their second (1).
    let diverging = |gradient: Gradient, strength: f32, [weak, strong]: [f32; 2]| {
        let color = |at: f32| {
            gradient
                .eval_continuous(f64::from(0.5 + 0.5 * at))
                .into_array()
        };
        let hue = (weak + (strong - weak) * strength.abs()).copysign(strength);
        Tint {
            color: mix(color(strength), 1.0),
            over: color(hue),
            fades: true,
        }
    };
    let rising = |gradient: Gradient| {
        let over = gradient
            .eval_continuous(f64::from(strength.abs()))
            .into_array();
        Tint {
            color: mix(over, 1.0),
            over,
            fades: false,
        }
    };
    match map {
        ColorMap::PinkGreen => by_sign(PINK, GREEN),
        ColorMap::RedGreen => by_sign(RED, GREEN),
        ColorMap::Red => by_sign(RED, RED),
        ColorMap::Green => by_sign(GREEN, GREEN),
        ColorMap::PinkWhiteGreen => diverging(colorous::PINK_GREEN, strength, HUES),
        ColorMap::RdBu => diverging(
            colorous::RED_BLUE,
            -strength,
            if strength < 0.0 { BLUES } else { HUES },
        ),
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
    use crate::render::options::Look;

    fn palette(color_map: ColorMap, overlay_type: OverlayType, alpha: f32) -> Palette {
        Palette::new(&HeatmapOptions {
            color_map,
            overlay_type,
            alpha,
            ..Look::Signed.options()
        })
    }

    #[test]
    fn hues_leave_an_upload_as_it_is_where_strength_is_zero() {
        for map in [ColorMap::PinkGreen, ColorMap::RdBu, ColorMap::Red] {
            for strength in [0.0, f32::NAN] {
                let paint = palette(map, OverlayType::Original, 1.0).paint(strength);
                assert_eq!(paint.over([7, 100, 255]), [7, 100, 255]);
            }
        }
    }

    #[test]
    fn maps_of_strength_lie_evenly_over_an_upload_and_their_outlines_do_not() {
        let viridis = colorous::VIRIDIS.eval_continuous(0.0).into_array();
        let over = palette(ColorMap::Viridis, OverlayType::Original, 0.5)
            .paint(0.0)
            .over([100; 3]);
        assert!(
            over.iter()
                .zip(viridis)
                .all(|(over, own)| over.abs_diff(50 + own / 2) <= 1),
            "{over:?}"
        );
        let options = HeatmapOptions {
            color_map: ColorMap::Viridis,
            ..Look::Areas.options()
        };
        let outlines = Palette::new(&HeatmapOptions {
            r#type: Drawing::Outlines,
            ..options
        });
        assert_eq!(outlines.paint(0.0).over([100; 3]), [100; 3]);
    }

    #[test]
    fn full_strength_is_the_colour_and_signs_differ() {
        let whole = palette(ColorMap::PinkGreen, OverlayType::Original, 1.0);
        assert_eq!(whole.paint(1.0).over([9; 3]), GREEN);
        assert_eq!(whole.paint(-5.0).over([9; 3]), PINK);
        let half = palette(ColorMap::RedGreen, OverlayType::Grayscale, 0.5);
        assert_eq!(half.paint(-1.0).over([0; 3]), RED.map(|value| value / 2));
    }

    #[test]
    fn red_is_positive_and_blue_negative_in_rd_bu() {
        for overlay_type in [OverlayType::None, OverlayType::Faded] {
            let palette = palette(ColorMap::RdBu, overlay_type, 1.0);
            let ([r, _, b], [nr, _, nb]) = (
                palette.paint(0.8).over([220; 3]),
                palette.paint(-0.8).over([220; 3]),
            );
            assert!(r > b + 60 && nb > nr + 60, "{overlay_type:?}");
            let zero = palette.paint(0.0).over([220; 3]);
            assert!(
                zero.iter().all(|value| *value >= 220),
                "white where there is nothing: {zero:?}"
            );
        }
    }

    #[test]
    fn a_mask_shows_the_upload_where_there_is_attribution() {
        let palette = palette(ColorMap::Viridis, OverlayType::MaskBlack, 1.0);
        assert_eq!(palette.paint(0.0).over([200; 3]), [0; 3]);
        assert_eq!(palette.paint(1.0).over([200, 5, 255]), [200, 5, 255]);
    }
}
