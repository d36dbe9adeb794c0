//! Options of a heat map, named as in managed explanation services, parsed from text with all
//! faults at once. Options that are not given follow the [`Look`] of the method's maps.
//! `clip_percent_*` are percentiles of the pixels with attribution of the sign shown: at 99.9 and
//! 62, the strongest 38 % of them are drawn, and the strongest 0.1 % at full strength.

use std::ops::RangeInclusive;

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::text::excerpt;

macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name { $($(#[$note])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            pub const ALLOWED: &'static [&'static str] = &[$($text),+];
            const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Case-insensitive.
            pub fn parse(text: &str) -> Option<Self> {
                let at = Self::ALLOWED.iter().position(|allowed| allowed.eq_ignore_ascii_case(text))?;
                Some(Self::ALL[at])
            }
        }

        // A derived schema would list the Rust names of the variants.
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Self::ALLOWED.iter().copied()));
                schema.description(Some([$($doc.trim()),+].join(" "))).build().into()
            }
        }

        impl ToSchema for $name {}
    };
}

choice! {
    /// What is drawn.
    Drawing {
        /// Every pixel by its strength.
        Pixels = "pixels",
        /// The borders of the regions that hold most of the attribution.
        Outlines = "outlines",
    }
}

choice! {
    /// The sign of attribution that is shown.
    Polarity { Positive = "positive", Negative = "negative", Both = "both" }
}

choice! {
    /// rd_bu: positive is red, negative blue, as in SHAP; pink_green, red_green: negative,
    /// positive; the others show strength alone. Those that print well in grey and suit the
    /// colour-blind: rd_bu, viridis, inferno, magma, plasma.
    ColorMap {
        PinkGreen = "pink_green",
        PinkWhiteGreen = "pink_white_green",
        RedGreen = "red_green",
        RdBu = "rd_bu",
        Red = "red",
        Green = "green",
        Viridis = "viridis",
        Inferno = "inferno",
        Magma = "magma",
        Plasma = "plasma",
        Turbo = "turbo",
    }
}

choice! {
    /// What lies under the colours.
    OverlayType {
        /// Nothing: the colours alone.
        None = "none",
        Original = "original",
        Grayscale = "grayscale",
        /// Pale grey, on which colours of either sign stand out.
        Faded = "faded",
        /// The upload shows through where there is attribution; the rest is black. The colour map
        /// plays no part.
        MaskBlack = "mask_black",
    }
}

choice! {
    /// How channels become one plane.
    Reduction {
        /// The signed sum.
        Sum = "sum",
        AbsSum = "abs_sum",
        /// The largest signed value.
        Max = "max",
        L2 = "l2",
    }
}

choice! {
    /// The pixels of which clip percentiles are taken: each map's own, or those of all maps of the
    /// answer together.
    Scale { PerImage = "per_image", Shared = "shared" }
}

choice! {
    /// photo: the whole upload; crop: the part that the network saw.
    View { Photo = "photo", Crop = "crop" }
}

choice! {
    /// The pixels whose convex hull is drawn: the upper half of those with a positive value, or
    /// those over a tenth of the largest.
    HullRule { TopHalf = "top_half", OverTenth = "over_tenth" }
}

/// Longest side of a picture, in pixels.
pub const SIZES: RangeInclusive<u32> = 64..=4096;

/// The options of one heat map.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HeatmapOptions {
    pub r#type: Drawing,
    pub polarity: Polarity,
    pub color_map: ColorMap,
    /// Percentile, above `clip_percent_lowerbound`, at most 100: what lies above is drawn at full
    /// strength.
    pub clip_percent_upperbound: f32,
    /// Percentile, from 0: what lies below is not drawn.
    pub clip_percent_lowerbound: f32,
    pub overlay_type: OverlayType,
    /// Opacity of the colours over the upload, from 0 to 1: of the strongest, or of all where the
    /// colour map shows strength alone.
    pub alpha: f32,
    pub reduction: Reduction,
    pub scale: Scale,
    /// Above 0, at most 100. Below 100: the pixels of the top so many percent, at full strength,
    /// and nothing else (equal values go together); the clip percentiles play no part. With
    /// mask_black, the masks of the XRAI paper.
    pub top_percent: f32,
    /// A colour bar below the picture, titled with the class; the picture is that much taller.
    pub legend: bool,
    /// Class, score, method and model above the picture, which is that much taller. Grids name them
    /// anyway.
    pub caption: bool,
    pub view: View,
    /// Draws the convex hull of the pixels in the upper half of the positive values (top_half), or
    /// of those over a tenth of the largest (over_tenth); by default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub hull: Option<HullRule>,
    /// Longest side of the picture in pixels, without caption and legend: 64 to 4096. By default
    /// that of the upload, but from 480 to 1600; in a grid 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u32, required = false, minimum = 64, maximum = 4096)]
    pub size: Option<u32>,
}

/// The default look of maps, by what their values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Signed attributions: two colours on the faded upload.
    Signed,
    /// Unsigned, fine-grained magnitudes.
    Strength,
    /// Maps of large areas of equal value: a colour map over the upload.
    Areas,
}

impl Look {
    pub const ALL: [Look; 3] = [Look::Signed, Look::Strength, Look::Areas];

    /// Names such maps, in the API's descriptions.
    pub fn maps(self) -> &'static str {
        match self {
            Look::Signed => "signed attributions",
            Look::Strength => "sensitivity maps",
            Look::Areas => "grad_cam, rise and xrai",
        }
    }

    pub fn options(self) -> HeatmapOptions {
        let signed = HeatmapOptions {
            r#type: Drawing::Pixels,
            polarity: Polarity::Both,
            color_map: ColorMap::RdBu,
            clip_percent_upperbound: 99.0,
            clip_percent_lowerbound: 50.0,
            overlay_type: OverlayType::Faded,
            alpha: 1.0,
            reduction: Reduction::Sum,
            scale: Scale::PerImage,
            top_percent: 100.0,
            legend: true,
            caption: false,
            view: View::Photo,
            hull: None,
            size: None,
        };
        match self {
            Look::Signed => signed,
            Look::Strength => HeatmapOptions {
                polarity: Polarity::Positive,
                color_map: ColorMap::Inferno,
                clip_percent_upperbound: 99.5,
                clip_percent_lowerbound: 0.0,
                overlay_type: OverlayType::Grayscale,
                alpha: 0.8,
                reduction: Reduction::AbsSum,
                ..signed
            },
            Look::Areas => HeatmapOptions {
                polarity: Polarity::Positive,
                color_map: ColorMap::Viridis,
                clip_percent_upperbound: 100.0,
                // From about the least value on: many such maps are far from zero everywhere.
                clip_percent_lowerbound: 1.0,
                overlay_type: OverlayType::Original,
                alpha: 0.75,
                ..signed
            },
        }
    }
}

/// One invalid option.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionFault {
    pub param: String,
    pub message: String,
    pub allowed: Vec<String>,
}

impl HeatmapOptions {
    /// The parameters that [`HeatmapOptions::parse`] knows.
    pub const NAMES: &'static [&'static str] = &[
        "type",
        "polarity",
        "color_map",
        "clip_percent_upperbound",
        "clip_percent_lowerbound",
        "overlay_type",
        "alpha",
        "reduction",
        "scale",
        "top_percent",
        "legend",
        "caption",
        "view",
        "hull",
        "size",
    ];

    /// Parses parameters (each one of [`HeatmapOptions::NAMES`]) over the defaults of a look.
    /// Returns all faults at once.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        look: Look,
    ) -> Result<Self, Vec<OptionFault>> {
        let mut options = look.options();
        let mut faults = Vec::new();
        for (name, text) in pairs {
            if let Err((message, allowed)) = options.set(name, text) {
                let allowed = allowed.iter().map(|value| (*value).to_owned()).collect();
                faults.push(OptionFault {
                    param: name.to_owned(),
                    message,
                    allowed,
                });
            }
        }
        faults.extend(options.faults());
        if faults.is_empty() {
            Ok(options)
        } else {
            Err(faults)
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), (String, &'static [&'static str])> {
        let unknown = |allowed| {
            (
                format!("`{}` is not a value of `{name}`", excerpt(text)),
                allowed,
            )
        };
        let number = |text: &str| {
            text.parse()
                .map_err(|_| (format!("`{}` is not a number", excerpt(text)), &[][..]))
        };
        match name {
            "type" => {
                self.r#type = Drawing::parse(text).ok_or_else(|| unknown(Drawing::ALLOWED))?
            }
            "polarity" => {
                self.polarity = Polarity::parse(text).ok_or_else(|| unknown(Polarity::ALLOWED))?
            }
            "color_map" => {
                self.color_map = ColorMap::parse(text).ok_or_else(|| unknown(ColorMap::ALLOWED))?
            }
            "overlay_type" => {
                self.overlay_type =
                    OverlayType::parse(text).ok_or_else(|| unknown(OverlayType::ALLOWED))?;
            }
            "reduction" => {
                self.reduction =
                    Reduction::parse(text).ok_or_else(|| unknown(Reduction::ALLOWED))?
            }
            "scale" => self.scale = Scale::parse(text).ok_or_else(|| unknown(Scale::ALLOWED))?,
            "top_percent" => self.top_percent = number(text)?,
            "legend" => {
                self.legend = text
                    .to_ascii_lowercase()
                    .parse()
                    .map_err(|_| unknown(&["true", "false"]))?
            }
            "caption" => {
                self.caption = text
                    .to_ascii_lowercase()
                    .parse()
                    .map_err(|_| unknown(&["true", "false"]))?
            }
            "view" => self.view = View::parse(text).ok_or_else(|| unknown(View::ALLOWED))?,
            "hull" => {
                let rule = HullRule::parse(text).ok_or_else(|| unknown(HullRule::ALLOWED))?;
                self.hull = Some(rule);
            }
            "size" => {
                let fault = |_| {
                    (
                        format!("`{}` is not a whole number", excerpt(text)),
                        &["64 to 4096"][..],
                    )
                };
                self.size = Some(text.parse().map_err(fault)?);
            }
            "clip_percent_upperbound" => self.clip_percent_upperbound = number(text)?,
            "clip_percent_lowerbound" => self.clip_percent_lowerbound = number(text)?,
            "alpha" => self.alpha = number(text)?,
            _ => return Err((format!("no picture option is named `{name}`"), Self::NAMES)),
        }
        Ok(())
    }

    /// Faults of the numeric options.
    fn faults(&self) -> Vec<OptionFault> {
        let (upper, lower) = (self.clip_percent_upperbound, self.clip_percent_lowerbound);
        let checks = [
            (
                "clip_percent_upperbound",
                upper.to_string(),
                upper > 0.0 && upper <= 100.0,
                "above 0, at most 100".to_owned(),
            ),
            (
                "clip_percent_lowerbound",
                lower.to_string(),
                lower >= 0.0 && lower < upper,
                format!("from 0, below {upper}"),
            ),
            (
                "alpha",
                self.alpha.to_string(),
                (0.0..=1.0).contains(&self.alpha),
                "from 0 to 1".to_owned(),
            ),
            (
                "top_percent",
                self.top_percent.to_string(),
                self.top_percent > 0.0 && self.top_percent <= 100.0,
                "above 0, at most 100".to_owned(),
            ),
            (
                "size",
                self.size.unwrap_or_default().to_string(),
                self.size.is_none_or(|size| SIZES.contains(&size)),
                format!("{} to {}", SIZES.start(), SIZES.end()),
            ),
        ];
        let faulty = checks.into_iter().filter(|(_, _, holds, _)| !holds);
        faulty
            .map(|(param, value, _, range)| OptionFault {
                param: param.to_owned(),
                message: format!("{value} is out of range"),
                allowed: vec![range],
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<HeatmapOptions, Vec<OptionFault>> {
        HeatmapOptions::parse(pairs.iter().copied(), Look::Signed)
    }

    #[test]
    fn all_faults_come_at_once_with_what_is_allowed() {
        let faults = parse(&[
            ("type", "DOTS"),
            ("color_map", "viridis"),
            ("alpha", "2"),
            ("clip_percent_lowerbound", "x"),
            ("size", "5000"),
            ("colour", "red"),
        ])
        .unwrap_err();
        let params: Vec<_> = faults.iter().map(|fault| fault.param.as_str()).collect();
        assert_eq!(
            params,
            ["type", "clip_percent_lowerbound", "colour", "alpha", "size"]
        );
        assert_eq!(faults[0].allowed, ["pixels", "outlines"]);
        assert_eq!(faults[3].allowed, ["from 0 to 1"]);
        assert_eq!(faults[4].allowed, ["64 to 4096"]);
        assert_eq!(
            parse(&[("size", "large")]).unwrap_err()[0].allowed,
            ["64 to 4096"]
        );
    }

    #[test]
    fn every_name_can_be_set_and_case_does_not_matter() {
        let texts = [
            "OUTLINES", "Both", "RD_BU", "99", "10", "NONE", "0.5", "L2", "Shared", "5", "true",
            "true", "Crop", "Top_Half", "700",
        ];
        let pairs = HeatmapOptions::NAMES.iter().copied().zip(texts);
        let options = HeatmapOptions::parse(pairs, Look::Areas).unwrap();
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(
            json,
            r#"{"type":"outlines","polarity":"both","color_map":"rd_bu","clip_percent_upperbound":99.0,"clip_percent_lowerbound":10.0,"overlay_type":"none","alpha":0.5,"reduction":"l2","scale":"shared","top_percent":5.0,"legend":true,"caption":true,"view":"crop","hull":"top_half","size":700}"#
        );
    }

    #[test]
    fn what_is_not_asked_for_follows_the_look() {
        for look in [Look::Signed, Look::Strength, Look::Areas] {
            let options = HeatmapOptions::parse([("alpha", "0.25")], look).unwrap();
            assert_eq!(
                options,
                HeatmapOptions {
                    alpha: 0.25,
                    ..look.options()
                }
            );
        }
    }

    #[test]
    fn bounds_must_leave_something_between_them() {
        for (upper, lower) in [
            ("50", "50"),
            ("0", "0"),
            ("101", "62"),
            ("99", "-1"),
            ("nan", "1"),
        ] {
            let pairs = [
                ("clip_percent_upperbound", upper),
                ("clip_percent_lowerbound", lower),
            ];
            assert!(parse(&pairs).is_err(), "{upper} {lower}");
        }
    }
}
