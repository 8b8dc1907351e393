//! Objectives as recipes and command lines write them: a name, or a table with the name and settings.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Denoiser, Objective, SpanCorruption};
use crate::{Error, Result};

/// (name, what it does, where the paper has it) of every objective.
pub const OBJECTIVES: [(&str, &str, &str); 9] = [
    ("span_corruption", "random spans become sentinels, the target spells them out", "section 3.1.4, table 7"),
    ("iid_replace_spans", "the same with tokens masked one by one", "the baseline of tables 5 and 6"),
    ("bert", "masked tokens become a sentinel or a random token, the target is the text", "table 4"),
    ("mass", "masked tokens become a sentinel, the target is the text", "table 5"),
    ("drop_tokens", "masked tokens are left out, the target is them", "table 5"),
    ("deshuffle", "the tokens in a random order, the target is the text", "table 4"),
    ("prefix_lm", "the text is cut, the target goes on", "tables 2 and 4"),
    ("lm", "an empty source, the target is the text", "table 2"),
    ("ul2", "one of several denoisers, named by [R], [S] or [X]", "Tay et al. 2022"),
];

/// All settings of all objectives.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise_density: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean_span: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    random_share: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denoisers: Option<Vec<Denoiser>>,
}

impl Objective {
    pub fn name(&self) -> &'static str {
        match self {
            Objective::SpanCorruption(_) => "span_corruption",
            Objective::IidReplaceSpans { .. } => "iid_replace_spans",
            Objective::Bert { .. } => "bert",
            Objective::Mass { .. } => "mass",
            Objective::DropTokens { .. } => "drop_tokens",
            Objective::Deshuffle => "deshuffle",
            Objective::PrefixLm => "prefix_lm",
            Objective::Lm => "lm",
            Objective::Ul2 { .. } => "ul2",
        }
    }
}

impl Written {
    fn into_objective(mut self) -> Result<Objective, String> {
        let spans = SpanCorruption::default();
        let density = self.noise_density.take();
        let noise_density = density.unwrap_or(spans.noise_density);
        let mut takes_density = true;
        let objective = match self.name.as_str() {
            "span_corruption" => {
                let mean_span = self.mean_span.take().unwrap_or(spans.mean_span);
                Objective::SpanCorruption(SpanCorruption { noise_density, mean_span })
            }
            "iid_replace_spans" => Objective::IidReplaceSpans { noise_density },
            "bert" => Objective::Bert { noise_density, random_share: self.random_share.take().unwrap_or(0.1) },
            "mass" => Objective::Mass { noise_density },
            "drop_tokens" => Objective::DropTokens { noise_density },
            other => {
                takes_density = false;
                match other {
                    "deshuffle" => Objective::Deshuffle,
                    "prefix_lm" => Objective::PrefixLm,
                    "lm" => Objective::Lm,
                    "ul2" => match self.denoisers.take() {
                        Some(denoisers) if denoisers.is_empty() => return Err("ul2 needs at least one denoiser".into()),
                        Some(denoisers) => Objective::Ul2 { denoisers },
                        None => Objective::ul2(),
                    },
                    _ => {
                        let known: Vec<&str> = OBJECTIVES.iter().map(|(name, ..)| *name).collect();
                        return Err(format!("no objective is called \"{other}\": use one of {}", known.join(", ")));
                    }
                }
            }
        };
        let unused = [
            ("noise_density", density.is_some() && !takes_density),
            ("mean_span", self.mean_span.is_some()),
            ("random_share", self.random_share.is_some()),
            ("denoisers", self.denoisers.is_some()),
        ];
        match unused.iter().find(|(_, unused)| *unused) {
            Some((key, _)) => Err(format!("{} has no setting `{key}`", objective.name())),
            None => Ok(objective),
        }
    }
}

impl FromStr for Objective {
    type Err = Error;

    /// A name, or a TOML table as in `{ name = "bert", noise_density = 0.2 }`.
    fn from_str(text: &str) -> Result<Objective> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Written { name: text.to_owned(), ..Written::default() }.into_objective().map_err(Error::Input);
        }
        #[derive(Deserialize)]
        struct Line {
            objective: Objective,
        }
        let line: Result<Line, _> = toml::from_str(&format!("objective = {text}"));
        line.map(|line| line.objective).map_err(|e| Error::Input(format!("{text}: {}", e.message())))
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut written = Written { name: self.name().to_owned(), ..Written::default() };
        match self {
            Objective::SpanCorruption(spans) => {
                (written.noise_density, written.mean_span) = (Some(spans.noise_density), Some(spans.mean_span));
            }
            Objective::Bert { noise_density, random_share } => {
                (written.noise_density, written.random_share) = (Some(*noise_density), Some(*random_share));
            }
            Objective::IidReplaceSpans { noise_density }
            | Objective::Mass { noise_density }
            | Objective::DropTokens { noise_density } => written.noise_density = Some(*noise_density),
            Objective::Ul2 { denoisers } => written.denoisers = Some(denoisers.clone()),
            Objective::Deshuffle | Objective::PrefixLm | Objective::Lm => {}
        }
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Objective {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Objective, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Objective;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an objective, or a table with its name and settings")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Objective, E> {
                Written { name: name.to_owned(), ..Written::default() }.into_objective().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Objective, A::Error> {
                let written = Written::deserialize(MapAccessDeserializer::new(map))?;
                written.into_objective().map_err(serde::de::Error::custom)
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}
