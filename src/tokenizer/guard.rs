//! What keeps the `tokenizers` crate from ending or filling the process over a file that is damaged or meant to.
//!
//! The crate panics on some files that it should refuse, and its normalizers may make a text any number of times longer. So each
//! call is made in here, and what the file's steps can do to a text is found out before.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use serde_json::Value;

use super::charsmap::CharsMap;
use crate::error::{Error, Result};

/// The longest text that normalizers or decoders may make of one, in bytes. The crate needs some twenty times as much for it.
const LONGEST: u64 = 128 << 20;

/// How much longer a character may become: T5's own table has 33 bytes for one of 3.
const MOST_GROWTH: u64 = 1 << 16;

/// The parts of a `tokenizer.json` that change texts.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// How many times longer texts may get.
pub(super) struct Growth {
    normalizer: u64,
    decoder: u64,
}

impl Growth {
    /// Reads the steps of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is no JSON, with the line, or makes a text so much longer that it can only be meant to.
    pub(super) fn parse(path: &Path, contents: &[u8]) -> Result<Growth> {
        let steps: Steps = serde_json::from_slice(contents)
            .map_err(|e| Error::line(path, e.line(), format!("not a whole tokenizer.json (cut short?): {e}")))?;
        let growth = Growth { normalizer: growth_of(&steps.normalizer), decoder: growth_of(&steps.decoder) };
        for (part, growth) in [("normalizer", growth.normalizer), ("decoder", growth.decoder)] {
            if growth > MOST_GROWTH {
                let what =
                    format!("its {part} may make a text {growth} times as long, {MOST_GROWTH} at most are allowed");
                return Err(Error::file(path, what));
            }
        }
        Ok(growth)
    }

    /// # Errors
    /// The text may get too long.
    pub(super) fn check_text(&self, text: &str) -> Result<()> {
        let longest = LONGEST / self.normalizer;
        if text.len() as u64 <= longest {
            return Ok(());
        }
        Err(Error::Input(format!(
            "a text of {} bytes: this tokenizer.json takes {longest} at once; break the text into lines",
            text.len()
        )))
    }

    /// Whether pieces of so many bytes in all may be decoded.
    pub(super) fn allows(&self, pieces: usize) -> bool {
        pieces as u64 <= LONGEST / self.decoder
    }
}

/// The most by which a step, or several, can multiply the bytes of a text.
fn growth_of(step: &Value) -> u64 {
    let content = || step["content"].as_str().map_or(0, str::len) as u64;
    match step["type"].as_str() {
        Some("Sequence") => {
            let all = step["normalizers"].as_array().or(step["decoders"].as_array());
            all.into_iter().flatten().map(growth_of).fold(1, u64::saturating_mul)
        }
        // A pattern may match between any two characters.
        Some("Replace") => match step["pattern"]["String"].as_str() {
            Some(pattern) if !pattern.is_empty() => content().div_ceil(pattern.len() as u64).max(1),
            _ => content() + 1,
        },
        Some("Prepend") => step["prepend"].as_str().map_or(0, str::len) as u64 + 1,
        Some("Precompiled") => {
            let blob = step["precompiled_charsmap"].as_str().map(|text| BASE64_STANDARD.decode(text));
            // The crate refuses it if it is no table.
            let table = blob.and_then(Result::ok).and_then(|blob| CharsMap::parse(&blob));
            table.map_or(u64::MAX, |table| table.longest().max(1) as u64)
        }
        // Of Unicode's own tables, and of one byte written as a character.
        Some("NFD" | "NFKD" | "NFC" | "NFKC" | "Lowercase" | "BertNormalizer" | "ByteLevel") => 4,
        _ => 1,
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Makes a call; `None` if it panicked, which then prints nothing.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    // Nothing of the tokenizer is changed by the calls, so that none is left half changed.
    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    GUARDED.set(outer);
    result
}
