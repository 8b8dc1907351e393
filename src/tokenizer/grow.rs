//! More tokens for a vocabulary, written so that transformers finds them, too.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::{ADDED_FILE, CONFIG_FILE, JSON_FILE};
use super::{Kind, Tokenizer, contents_of, folder};
use crate::error::{Error, Result};

impl Tokenizer {
    /// The same with these tokens behind all others, in this order. One that is there already keeps its id.
    ///
    /// # Errors
    /// `Input`: an empty token, or a vocabulary that cannot be extended (bytes).
    pub fn with_added(&self, tokens: &[String]) -> Result<Tokenizer> {
        if let Kind::Bytes(_) = self.0.kind {
            let what =
                "the byte vocabulary takes no tokens: write them as text, or use its <extra_id_0>, <extra_id_1> ...";
            return Err(Error::Input(what.into()));
        }
        let mut new: Vec<&str> = Vec::new();
        for token in tokens {
            if token.is_empty() {
                return Err(Error::Input("an added token is empty".into()));
            }
            if self.id(token).is_none() && !new.contains(&token.as_str()) {
                new.push(token);
            }
        }
        if new.is_empty() {
            return Ok(self.clone());
        }
        let ids = self.vocab_size()..;
        let new: Vec<(usize, &str)> = ids.zip(new).collect();
        let mut files = self.0.files.clone();
        if contents_of(&files, CONFIG_FILE).is_empty() {
            files.push((CONFIG_FILE, folder::config(self)));
        }
        let plain = |content: &str| {
            json!({
                "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": false,
            })
        };
        let has_json = !contents_of(&files, JSON_FILE).is_empty();
        if has_json {
            edit(&mut files, JSON_FILE, |file| {
                let added = file.entry("added_tokens").or_insert_with(|| json!([]));
                for (id, token) in &new {
                    let mut entry = plain(token);
                    entry["id"] = json!(id);
                    added.as_array_mut().into_iter().for_each(|added| added.push(entry.clone()));
                }
            })?;
        }
        let mut is_listed = false;
        edit(&mut files, CONFIG_FILE, |config| {
            if let Some(Value::Object(added)) = config.get_mut("added_tokens_decoder") {
                is_listed = true;
                added.extend(new.iter().map(|(id, token)| (id.to_string(), plain(token))));
            }
        })?;
        if !has_json && !is_listed {
            if contents_of(&files, ADDED_FILE).is_empty() {
                files.push((ADDED_FILE, b"{}".to_vec()));
            }
            edit(&mut files, ADDED_FILE, |added| {
                added.extend(new.iter().map(|(id, token)| (token.to_string(), json!(id))));
            })?;
        }
        Tokenizer::of_files(Path::new("the tokenizer"), files)
    }

    /// The id of a token by its name, if there is such a one.
    fn id(&self, token: &str) -> Option<u32> {
        match &self.0.kind {
            Kind::Bytes(_) => None,
            Kind::SentencePiece(model) => model.id(token),
            Kind::Json(tokenizer) => tokenizer.id(token),
        }
    }
}

/// Changes a JSON object among the files.
fn edit(files: &mut [(&'static str, Vec<u8>)], name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let Some((_, contents)) = files.iter_mut().find(|(found, _)| *found == name) else { return Ok(()) };
    let mut object: Map<String, Value> =
        serde_json::from_slice(contents).map_err(|e| Error::line(name, e.line(), format!("no JSON object: {e}")))?;
    change(&mut object);
    *contents = format!("{:#}\n", Value::Object(object)).into_bytes();
    Ok(())
}
