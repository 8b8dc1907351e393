//! A split of a task as token ids.

use std::path::Path;

use rayon::prelude::*;

use super::load::{LeftOut, Loaded, Placed, load, names};
use super::{TaskConfig, TooLong};
use crate::batch::Example;
use crate::data::example::{Split, TaskExample};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Tokenised examples in memory, in the order of the files, with their texts.
#[derive(Debug)]
pub struct TaskSet {
    examples: Vec<Example>,
    texts: Vec<TaskExample>,
    skipped_too_long: usize,
    truncated: usize,
    left_out: LeftOut,
}

/// What became of one example.
enum Encoded {
    Whole(Example),
    Cut(Example),
    Skipped,
}

impl TaskSet {
    /// Reads and tokenises a split, on all processor cores; the order does not depend on their number.
    ///
    /// # Errors
    /// Those of [`TaskConfig::load`]; a text that is too long under [`TooLong::Error`], with its file and line; or every
    /// example is too long.
    pub fn open(config: &TaskConfig, base: &Path, split: Split, tokenizer: &Tokenizer) -> Result<TaskSet> {
        let loaded = load(config, base, split)?;
        let encode = |placed: &Placed| encode(placed, config, tokenizer, &loaded);
        let encoded: Vec<Encoded> = loaded.examples.par_iter().map(encode).collect::<Result<_>>()?;
        let left_out = loaded.left_out.clone();
        let mut set = TaskSet { examples: Vec::new(), texts: Vec::new(), skipped_too_long: 0, truncated: 0, left_out };
        for (encoded, text) in encoded.into_iter().zip(loaded.into_examples()) {
            let example = match encoded {
                Encoded::Whole(example) => example,
                Encoded::Cut(example) => {
                    set.truncated += 1;
                    example
                }
                Encoded::Skipped => {
                    set.skipped_too_long += 1;
                    continue;
                }
            };
            set.examples.push(example);
            set.texts.push(text);
        }
        if let (Split::Train, Some(most)) = (split, config.train_examples) {
            let kept = spread(set.examples.len(), most);
            set.examples = kept.iter().map(|&i| set.examples[i].clone()).collect();
            set.texts = kept.iter().map(|&i| set.texts[i].clone()).collect();
        }
        if set.examples.is_empty() {
            let (max_source, max_target) = config.lengths();
            return Err(Error::Input(format!(
                "all {} examples for {split} in {} are longer than {max_source} source or {max_target} target tokens: raise \
                 max_source and max_target, or set too_long = \"truncate\"",
                set.skipped_too_long,
                names(&config.files(base, split)?)
            )));
        }
        Ok(set)
    }

    /// At least 1.
    pub fn n_examples(&self) -> usize {
        self.examples.len()
    }

    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The texts of the examples, never truncated: `[n_examples]`.
    pub fn texts(&self) -> &[TaskExample] {
        &self.texts
    }

    /// The examples and their texts.
    pub fn into_parts(self) -> (Vec<Example>, Vec<TaskExample>) {
        (self.examples, self.texts)
    }

    /// Examples left out because a side was too long.
    pub fn skipped_too_long(&self) -> usize {
        self.skipped_too_long
    }

    /// Examples of which a side was cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// Rows of the files that are no examples.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
}

/// Up to `most` of 0..n, evenly spaced.
pub fn spread(n: usize, most: usize) -> Vec<usize> {
    let count = n.min(most);
    (0..count).map(|i| i * n / count).collect()
}

fn encode(placed: &Placed, config: &TaskConfig, tokenizer: &Tokenizer, loaded: &Loaded) -> Result<Encoded> {
    let encode = |text: &str| tokenizer.encode_with_eos(text).map_err(|e| loaded.error(placed, e.to_string()));
    let (max_source, max_target) = config.lengths();
    let mut source = encode(&placed.example.source)?;
    let mut target = encode(&placed.example.target)?;
    if source.len() <= max_source && target.len() <= max_target {
        return Ok(Encoded::Whole(Example { source, target }));
    }
    match config.too_long() {
        TooLong::Skip => Ok(Encoded::Skipped),
        TooLong::Truncate => {
            cut(&mut source, max_source, tokenizer.eos());
            cut(&mut target, max_target, tokenizer.eos());
            Ok(Encoded::Cut(Example { source, target }))
        }
        TooLong::Error => Err(loaded.error(
            placed,
            format!(
                "{} source and {} target tokens, more than the {max_source} and {max_target} allowed: raise max_source \
                 and max_target, or set too_long",
                source.len(),
                target.len()
            ),
        )),
    }
}

fn cut(tokens: &mut Vec<u32>, max: usize, eos: u32) {
    if tokens.len() > max {
        tokens.truncate(max - 1);
        tokens.push(eos);
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn samples_are_spread_evenly() {
        assert_eq!(spread(10, 3), [0, 3, 6]);
        assert_eq!(spread(3, 10), [0, 1, 2]);
        assert_eq!(spread(0, 5), [0usize; 0]);
    }
}
