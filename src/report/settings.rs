//! The settings of runs as flat lists, and where these differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::read::{RECIPE, Run, read_if_there};
use crate::error::{Error, Result};
use crate::files::{TOO_DEEP, nests_too_deep};

/// Of a recipe: `recipe.toml`. Of a training: what its last checkpoint says of itself and of its model.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut flat = BTreeMap::new();
    let recipe = folder.join(RECIPE);
    if let Some(text) = read_if_there(&recipe)? {
        flatten("", &parse_recipe(&text, &recipe)?, &mut flat);
        return Ok(flat);
    }
    let checkpoint = folder.join("last");
    for (file, part, prefix) in [("training_state/state.json", Some("settings"), ""), ("config.json", None, "model")] {
        let path = checkpoint.join(file);
        if let Some(text) = read_if_there(&path)? {
            let value: Value = serde_json::from_str(&text).map_err(|e| Error::line(&path, e.line(), e.to_string()))?;
            flatten(prefix, part.map_or(&value, |part| &value[part]), &mut flat);
        }
    }
    Ok(flat)
}

/// Names of the recipe's stages in their order.
pub(super) fn stage_names(recipe: &str, path: &Path) -> Result<Vec<String>> {
    let recipe = parse_recipe(recipe, path)?;
    let stages = recipe["stage"].as_array().into_iter().flatten();
    Ok(stages.filter_map(|stage| Some(stage["name"].as_str()?.to_owned())).collect())
}

/// (key, value in each run; None where it has no such setting) of all that is not the same in all runs, names aside.
pub(super) fn differences(runs: &[Run]) -> Vec<(String, Vec<Option<String>>)> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    keys.into_iter()
        .filter(|key| !matches!(key.as_str(), "name" | "out"))
        .map(|key| (key.clone(), runs.iter().map(|run| run.settings.get(key).cloned()).collect::<Vec<_>>()))
        .filter(|(_, values)| values.windows(2).any(|pair| pair[0] != pair[1]))
        .collect()
}

fn parse_recipe(text: &str, path: &Path) -> Result<Value> {
    if nests_too_deep(text) {
        return Err(Error::file(path, TOO_DEEP));
    }
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|span| text[..span.start].lines().count().max(1));
        Error::File { path: path.to_path_buf(), line, what: format!("not a recipe: {}", e.message()) }
    })
}

/// Objects become dotted keys; lists of named objects too, by their names; other lists one value.
pub(crate) fn flatten(key: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match value {
        Value::Object(parts) => parts.iter().for_each(|(part, value)| flatten(&below(part), value, flat)),
        Value::Array(items) if items.iter().any(|item| item["name"].is_string()) => {
            for (i, item) in items.iter().enumerate() {
                flatten(&below(item["name"].as_str().unwrap_or(&i.to_string())), item, flat);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            flat.insert(key.to_owned(), text.clone());
        }
        other => {
            flat.insert(key.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_tables_become_dotted_keys() {
        let recipe = "seed = 3\n[model]\nd_model = 64\n[[stage]]\nname = \"a\"\nlr = 0.5\n[[stage]]\nname = \"b\"\ntrain = [\"x\"]\n";
        let path = Path::new("recipe.toml");
        assert_eq!(stage_names(recipe, path).unwrap(), ["a", "b"]);
        let mut flat = BTreeMap::new();
        flatten("", &parse_recipe(recipe, path).unwrap(), &mut flat);
        let flat: Vec<(&str, &str)> = flat.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let wanted = [
            ("model.d_model", "64"),
            ("seed", "3"),
            ("stage.a.lr", "0.5"),
            ("stage.a.name", "a"),
            ("stage.b.name", "b"),
            ("stage.b.train", "[\"x\"]"),
        ];
        assert_eq!(flat, wanted);
        let error = stage_names("seed = 3\nlr 5\n", path).unwrap_err().to_string();
        assert!(error.starts_with("recipe.toml:2: not a recipe"), "{error}");
    }
}
