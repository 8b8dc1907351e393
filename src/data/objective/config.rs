//! How objectives are written in recipes: names, and tables of settings.

use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use serde_untagged::UntaggedEnumVisitor;
use serde_untagged::de::Error as Untagged;

use super::Objective;
use crate::files::{TOO_DEEP, nests_too_deep};
use crate::{Error, Result};

/// What there is to know about an objective before its settings.
#[derive(Clone, Copy, Debug)]
pub struct ObjectiveInfo {
    /// The name in recipes.
    pub name: &'static str,
    /// Its settings, in words.
    pub settings: &'static str,
    pub summary: &'static str,
    /// Where it is described.
    pub reference: &'static str,
}

impl Objective {
    /// All objectives.
    pub const ALL: [ObjectiveInfo; 9] = [
        ObjectiveInfo {
            name: "span_corruption",
            settings: "noise_density, mean_span, random_roll",
            summary: "random spans become sentinels, the target spells them out: T5's own",
            reference: "Raffel et al. 2020, 3.3.4",
        },
        ObjectiveInfo {
            name: "iid_replace_spans",
            settings: "noise_density",
            summary: "the same with tokens masked one by one: the baseline of the paper",
            reference: "Raffel et al. 2020, 3.1.4",
        },
        ObjectiveInfo {
            name: "bert",
            settings: "noise_density, random_share",
            summary: "masked tokens become a sentinel or a random token, the target is the whole text",
            reference: "Raffel et al. 2020, 3.3.1; Devlin et al. 2018",
        },
        ObjectiveInfo {
            name: "mass",
            settings: "noise_density",
            summary: "the same without random tokens",
            reference: "Raffel et al. 2020, 3.3.2; Song et al. 2019",
        },
        ObjectiveInfo {
            name: "drop_tokens",
            settings: "noise_density",
            summary: "masked tokens are left out, the target is what is missing",
            reference: "Raffel et al. 2020, 3.3.2",
        },
        ObjectiveInfo {
            name: "deshuffle",
            settings: "",
            summary: "the tokens in random order, the target has them in theirs",
            reference: "Raffel et al. 2020, 3.3.1; Liu et al. 2019",
        },
        ObjectiveInfo {
            name: "prefix_lm",
            settings: "target_share",
            summary: "the beginning of a text, the target is the rest",
            reference: "Raffel et al. 2020, 3.3.1; Liu et al. 2018",
        },
        ObjectiveInfo {
            name: "lm",
            settings: "",
            summary: "an empty source, the target is the text",
            reference: "Raffel et al. 2020, 3.2.3",
        },
        ObjectiveInfo {
            name: "ul2",
            settings: "denoisers = [{ objective, rate, prefix }, ...]",
            summary: "a mixture of short spans [R], prefix LM [S] and extreme spans [X]",
            reference: "Tay et al. 2022, 3.1",
        },
    ];

    /// The name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::SpanCorruption(_) => "span_corruption",
            Objective::IidReplaceSpans(_) => "iid_replace_spans",
            Objective::Bert(_) => "bert",
            Objective::Mass(_) => "mass",
            Objective::DropTokens(_) => "drop_tokens",
            Objective::Deshuffle => "deshuffle",
            Objective::PrefixLm(_) => "prefix_lm",
            Objective::Lm => "lm",
            Objective::Ul2(_) => "ul2",
        }
    }

    fn from_table(name: &str, settings: Map<String, Value>) -> Result<Objective> {
        Ok(match name {
            "span_corruption" => Objective::SpanCorruption(parse(name, settings)?),
            "iid_replace_spans" => Objective::IidReplaceSpans(parse(name, settings)?),
            "bert" => Objective::Bert(parse(name, settings)?),
            "mass" => Objective::Mass(parse(name, settings)?),
            "drop_tokens" => Objective::DropTokens(parse(name, settings)?),
            "deshuffle" => parse(name, settings).map(|NoSettings {}| Objective::Deshuffle)?,
            "prefix_lm" => Objective::PrefixLm(parse(name, settings)?),
            "lm" => parse(name, settings).map(|NoSettings {}| Objective::Lm)?,
            "ul2" => Objective::Ul2(parse(name, settings)?),
            _ => {
                let names = Objective::ALL.map(|info| info.name).join(", ");
                return Err(Error::Input(format!("there is no objective {name:?}; there are {names}")));
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

fn parse<T: DeserializeOwned>(name: &str, settings: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(settings)).map_err(|e| Error::Input(format!("objective {name}: {e}")))
}

/// A bare name, or a table in TOML (`{ name = "bert", noise_density = 0.2 }`) or JSON.
impl FromStr for Objective {
    type Err = Error;

    fn from_str(text: &str) -> Result<Objective> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Objective::from_table(text, Map::new());
        }
        let wrong = |e: String| Error::Input(format!("{text} is not a table of settings: {}", e.trim_end()));
        if text[1..].trim_start().starts_with('"') {
            return serde_json::from_str(text).map_err(|e| wrong(e.to_string()));
        }
        #[derive(Deserialize)]
        struct Setting {
            objective: Objective,
        }
        if nests_too_deep(text) {
            return Err(wrong(TOO_DEEP.to_owned()));
        }
        let setting: Setting = toml::from_str(&format!("objective = {text}")).map_err(|e| wrong(e.to_string()))?;
        Ok(setting.objective)
    }
}

/// A name or a table; settings out of range are errors, too.
impl<'de> Deserialize<'de> for Objective {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Objective, D::Error> {
        UntaggedEnumVisitor::new()
            .expecting("the name of an objective, or a table { name = \"...\", setting = ... }")
            .string(|name| Objective::from_table(name, Map::new()).map_err(Untagged::custom))
            .map(|table| {
                let mut settings: Map<String, Value> = table.deserialize()?;
                let Some(Value::String(name)) = settings.remove("name") else {
                    return Err(Untagged::custom("an objective needs a name: { name = \"span_corruption\", ... }"));
                };
                let objective = Objective::from_table(&name, settings).map_err(Untagged::custom)?;
                objective.check().map_err(Untagged::custom)?;
                Ok(objective)
            })
            .deserialize(deserializer)
    }
}
