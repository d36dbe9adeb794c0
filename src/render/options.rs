//! What a heat map shall look like: options named as in managed explanation services, parsed from text with all faults at once.
//! `clip_percent_*` are percentiles of the pixels with attribution of the sign shown: at 99.9 and 62, the strongest 38 % of them are
//! drawn, and the strongest 0.1 % have full colour.

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

macro_rules! choice {
    (#[doc = $doc:literal] $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$note])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            pub const ALLOWED: &'static [&'static str] = &[$($text),+];
            const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Case does not matter.
            pub fn parse(text: &str) -> Option<Self> {
                let at = Self::ALLOWED.iter().position(|allowed| allowed.eq_ignore_ascii_case(text))?;
                Some(Self::ALL[at])
            }
        }

        // Derived, the schema would list the variants' names in Rust.
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Self::ALLOWED.iter().copied()));
                schema.description(Some($doc.trim())).build().into()
            }
        }

        impl ToSchema for $name {}
    };
}

choice! {
    /// What is drawn.
    Drawing {
        /// Every pixel by its strength.
        Pixels = "PIXELS",
        /// The borders of the regions that hold most of the attribution.
        Outlines = "OUTLINES",
    }
}

choice! {
    /// Which sign of attribution is shown.
    Polarity { Positive = "POSITIVE", Negative = "NEGATIVE", Both = "BOTH" }
}

choice! {
    /// PINK_GREEN, RED_GREEN: negative, positive. RD_BU: positive is red, negative blue, as in SHAP. Others show strength alone.
    ColorMap {
        PinkGreen = "PINK_GREEN",
        PinkWhiteGreen = "PINK_WHITE_GREEN",
        RedGreen = "RED_GREEN",
        RdBu = "RD_BU",
        Red = "RED",
        Green = "GREEN",
        Viridis = "VIRIDIS",
        Inferno = "INFERNO",
        Magma = "MAGMA",
        Plasma = "PLASMA",
        Turbo = "TURBO",
    }
}

choice! {
    /// What lies under the colours.
    OverlayType {
        /// Nothing: the colours alone.
        None = "NONE",
        Original = "ORIGINAL",
        Grayscale = "GRAYSCALE",
        /// The upload shows through where there is attribution; the rest is black. The colour map plays no part.
        MaskBlack = "MASK_BLACK",
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
    /// What the clip percentiles are taken of: each map's own pixels, or those of all maps of the answer together.
    Scale { PerImage = "per_image", Shared = "shared" }
}

/// The options of one heat map. Absent fields take their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeatmapOptions {
    pub r#type: Drawing,
    pub polarity: Polarity,
    pub color_map: ColorMap,
    /// Percentile, above `clip_percent_lowerbound`, at most 100: what lies above is drawn at full strength.
    pub clip_percent_upperbound: f32,
    /// Percentile, from 0: what lies below is not drawn.
    pub clip_percent_lowerbound: f32,
    pub overlay_type: OverlayType,
    /// Opacity of the strongest colour over the upload, from 0 to 1.
    pub alpha: f32,
    pub reduction: Reduction,
    pub scale: Scale,
    /// Above 0, at most 100. Below 100: the pixels of the top so many percent, at full strength, and nothing else (equal values go
    /// together); the clip percentiles play no part. With MASK_BLACK, the masks of the XRAI paper.
    pub top_percent: f32,
    /// Adds a colour bar below the picture, which is that much taller.
    pub legend: bool,
}

impl Default for HeatmapOptions {
    fn default() -> Self {
        HeatmapOptions {
            r#type: Drawing::Pixels,
            polarity: Polarity::Positive,
            color_map: ColorMap::PinkGreen,
            clip_percent_upperbound: 99.9,
            clip_percent_lowerbound: 62.0,
            overlay_type: OverlayType::Grayscale,
            alpha: 0.9,
            reduction: Reduction::Sum,
            scale: Scale::PerImage,
            top_percent: 100.0,
            legend: false,
        }
    }
}

/// One option that cannot be followed.
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
    ];

    /// Reads parameters (each one of [`HeatmapOptions::NAMES`]) over the defaults. All faults at once.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<OptionFault>> {
        let mut options = HeatmapOptions::default();
        let mut faults = Vec::new();
        for (name, text) in pairs {
            if let Err((message, allowed)) = options.set(name, text) {
                let allowed = allowed.iter().map(|value| (*value).to_owned()).collect();
                faults.push(OptionFault { param: name.to_owned(), message, allowed });
            }
        }
        faults.extend(options.faults());
        if faults.is_empty() { Ok(options) } else { Err(faults) }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), (String, &'static [&'static str])> {
        let unknown = |allowed| (format!("`{text}` is not a value of `{name}`"), allowed);
        let number = |text: &str| text.parse().map_err(|_| (format!("`{text}` is not a number"), &[][..]));
        match name {
            "type" => self.r#type = Drawing::parse(text).ok_or_else(|| unknown(Drawing::ALLOWED))?,
            "polarity" => self.polarity = Polarity::parse(text).ok_or_else(|| unknown(Polarity::ALLOWED))?,
            "color_map" => self.color_map = ColorMap::parse(text).ok_or_else(|| unknown(ColorMap::ALLOWED))?,
            "overlay_type" => {
                self.overlay_type = OverlayType::parse(text).ok_or_else(|| unknown(OverlayType::ALLOWED))?;
            }
            "reduction" => self.reduction = Reduction::parse(text).ok_or_else(|| unknown(Reduction::ALLOWED))?,
            "scale" => self.scale = Scale::parse(text).ok_or_else(|| unknown(Scale::ALLOWED))?,
            "top_percent" => self.top_percent = number(text)?,
            "legend" => self.legend = text.to_ascii_lowercase().parse().map_err(|_| unknown(&["true", "false"]))?,
            "clip_percent_upperbound" => self.clip_percent_upperbound = number(text)?,
            "clip_percent_lowerbound" => self.clip_percent_lowerbound = number(text)?,
            "alpha" => self.alpha = number(text)?,
            _ => return Err((format!("no picture option is named `{name}`"), Self::NAMES)),
        }
        Ok(())
    }

    /// What is wrong with the numbers; for options that came by serde.
    pub fn faults(&self) -> Vec<OptionFault> {
        let (upper, lower) = (self.clip_percent_upperbound, self.clip_percent_lowerbound);
        let checks = [
            ("clip_percent_upperbound", upper > 0.0 && upper <= 100.0, "above 0, at most 100".to_owned()),
            ("clip_percent_lowerbound", lower >= 0.0 && lower < upper, format!("from 0, below {upper}")),
            ("alpha", (0.0..=1.0).contains(&self.alpha), "from 0 to 1".to_owned()),
            ("top_percent", self.top_percent > 0.0 && self.top_percent <= 100.0, "above 0, at most 100".to_owned()),
        ];
        let faulty = checks.into_iter().filter(|(_, holds, _)| !holds);
        faulty
            .map(|(param, _, range)| OptionFault {
                param: param.to_owned(),
                message: format!("`{param}` is out of range"),
                allowed: vec![range],
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_come_at_once_with_what_is_allowed() {
        let faults = HeatmapOptions::parse([
            ("type", "DOTS"),
            ("color_map", "viridis"),
            ("alpha", "2"),
            ("clip_percent_lowerbound", "x"),
            ("colour", "red"),
        ])
        .unwrap_err();
        let params: Vec<_> = faults.iter().map(|fault| fault.param.as_str()).collect();
        assert_eq!(params, ["type", "clip_percent_lowerbound", "colour", "alpha"]);
        assert_eq!(faults[0].allowed, ["PIXELS", "OUTLINES"]);
        assert_eq!(faults[3].allowed, ["from 0 to 1"]);
    }

    #[test]
    fn every_name_can_be_set_and_case_does_not_matter() {
        let texts = ["outlines", "Both", "RD_BU", "99", "10", "none", "0.5", "L2", "Shared", "5", "true"];
        let options = HeatmapOptions::parse(HeatmapOptions::NAMES.iter().copied().zip(texts)).unwrap();
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(
            json,
            r#"{"type":"OUTLINES","polarity":"BOTH","color_map":"RD_BU","clip_percent_upperbound":99.0,"clip_percent_lowerbound":10.0,"overlay_type":"NONE","alpha":0.5,"reduction":"l2","scale":"shared","top_percent":5.0,"legend":true}"#
        );
        assert_eq!(serde_json::from_str::<HeatmapOptions>(&json).unwrap(), options);
        assert!(serde_json::from_str::<HeatmapOptions>(r#"{"colour": 1}"#).is_err());
    }

    #[test]
    fn bounds_must_leave_something_between_them() {
        for (upper, lower) in [("50", "50"), ("0", "0"), ("101", "62"), ("99", "-1"), ("nan", "1")] {
            let pairs = [("clip_percent_upperbound", upper), ("clip_percent_lowerbound", lower)];
            assert!(HeatmapOptions::parse(pairs).is_err(), "{upper} {lower}");
        }
    }
}
