//! The examples of a run: opened from its settings, split into what is trained on and what is held out.

use std::sync::Arc;

use super::settings::{HeldOut, Settings, Task};
use crate::data::{Denoising, Example, ExampleSource, PairSet};
use crate::error::{Error, Result};
use crate::rng::{Purpose, permutation};
use crate::tokenizer::Tokenizer;

/// Examples of either task.
pub enum Examples {
    Text(Denoising),
    /// Some examples of a set: those of these indices.
    Pairs {
        set: Arc<PairSet>,
        rows: Vec<usize>,
    },
}

/// What a run reads.
pub struct Opened {
    pub training: Examples,
    pub held_out: Option<Examples>,
    /// Worth telling the user: pairs left out or cut.
    pub remarks: Vec<String>,
}

impl Examples {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// What reading them gives: each error names the file, and the line where there is one.
    pub fn open(settings: &Settings, tokenizer: &Tokenizer) -> Result<Opened> {
        let mut remarks = Vec::new();
        let all = match &settings.task {
            Task::Text { files, seq_len, objective } => {
                Examples::Text(Denoising::open(files, tokenizer, *objective, *seq_len, settings.seed)?)
            }
            Task::Pairs { file, .. } => Examples::open_pairs(settings, file, tokenizer, &mut remarks)?,
        };
        let (training, held_out) = match (&settings.held_out, &settings.task) {
            (HeldOut::None, _) => (all, None),
            (HeldOut::Share(share), _) => {
                let (training, held_out) = all.split(*share, settings.seed)?;
                (training, Some(held_out))
            }
            (HeldOut::File(file), Task::Text { seq_len, objective, .. }) => {
                let held_out = Denoising::open(&[file], tokenizer, *objective, *seq_len, settings.seed)?;
                (all, Some(Examples::Text(held_out)))
            }
            (HeldOut::File(file), Task::Pairs { .. }) => {
                (all, Some(Examples::open_pairs(settings, file, tokenizer, &mut remarks)?))
            }
        };
        Ok(Opened { training, held_out, remarks })
    }

    fn open_pairs(
        settings: &Settings,
        file: &std::path::Path,
        tokenizer: &Tokenizer,
        remarks: &mut Vec<String>,
    ) -> Result<Examples> {
        let Task::Pairs { options, .. } = &settings.task else {
            return Err(Error::file(file, "pairs are asked for in a run on text"));
        };
        let set = PairSet::open(file, None, options, tokenizer)?;
        let limits = format!("longer than {} source or {} target tokens", options.max_source, options.max_target);
        for (count, what) in [(set.skipped_too_long(), "left out"), (set.truncated(), "cut")] {
            if count > 0 {
                remarks.push(format!("{}: {count} pairs {limits} are {what}", file.display()));
            }
        }
        let rows = (0..set.n_examples()).collect();
        Ok(Examples::Pairs { set: Arc::new(set), rows })
    }

    /// Holds out a share of the documents of a text, or of the distinct sources of pairs with all of their targets: at
    /// least one, and never all.
    fn split(self, share: f64, seed: u64) -> Result<(Examples, Examples)> {
        let chosen = |n: usize| {
            let count = ((share * n as f64).round() as usize).clamp(1, n.saturating_sub(1).max(1));
            let mut held = vec![false; n];
            permutation(seed, Purpose::HeldOut, 0, n as u32).iter().take(count).for_each(|&i| held[i as usize] = true);
            held
        };
        match self {
            Examples::Text(text) => {
                let (rest, held) = text.split(&chosen(text.corpus().n_documents()))?;
                Ok((Examples::Text(rest), Examples::Text(held)))
            }
            Examples::Pairs { set, .. } => {
                let groups = set.groups();
                if groups.len() < 2 {
                    let what = "all pairs have the same source: none can be held out; name a file to evaluate on";
                    return Err(Error::Input(what.into()));
                }
                let held = chosen(groups.len());
                let part = |wanted: bool| {
                    let members = groups.iter().zip(&held).filter(|(_, held)| **held == wanted);
                    let mut rows: Vec<usize> = members.flat_map(|(group, _)| group.iter().copied()).collect();
                    rows.sort_unstable();
                    Examples::Pairs { set: set.clone(), rows }
                };
                Ok((part(false), part(true)))
            }
        }
    }

    /// # Errors
    /// `Input` if an example holds an id that a model of this vocabulary has no embedding for.
    pub fn check_vocab(&self, vocab: usize) -> Result<()> {
        let max = match self {
            Examples::Text(text) => text.max_id(),
            Examples::Pairs { .. } => self.pair_ids().max().unwrap_or(0),
        };
        if max as usize >= vocab {
            return Err(Error::Input(format!(
                "token id {max} is outside of the model's vocabulary of {vocab}: the tokenizer does not belong to this \
                 model (choose another with --tokenizer, or another size of vocabulary)"
            )));
        }
        Ok(())
    }

    /// Changes whenever a token does: tells whether a resumed run reads the same data (FNV-1a).
    pub fn fingerprint(&self) -> u64 {
        let hash = |h: u64, id: u32| (h ^ u64::from(id)).wrapping_mul(0x100_0000_01b3);
        let start = self.len_per_epoch() as u64 ^ 0xcbf2_9ce4_8422_2325;
        match self {
            Examples::Text(text) => text.corpus().tokens().iter().copied().fold(start, hash),
            Examples::Pairs { .. } => self.pair_ids().fold(start, hash),
        }
    }

    /// (examples, tokens or pairs) in words.
    pub fn describe(&self) -> String {
        match self {
            Examples::Text(text) => {
                let corpus = text.corpus();
                let (tokens, lines, segments) = (corpus.n_tokens(), corpus.n_documents(), corpus.n_segments());
                format!("{tokens} tokens in {lines} lines, cut into {segments} segments")
            }
            Examples::Pairs { rows, .. } => format!("{} pairs", rows.len()),
        }
    }

    fn pair_ids(&self) -> impl Iterator<Item = u32> {
        let (set, rows) = match self {
            Examples::Pairs { set, rows } => (Some(set), rows.as_slice()),
            Examples::Text(_) => (None, [].as_slice()),
        };
        let examples = rows.iter().filter_map(move |&row| Some(&set?.examples()[row]));
        examples.flat_map(|e| e.source.iter().chain(&e.target).copied())
    }
}

impl ExampleSource for Examples {
    fn len_per_epoch(&self) -> usize {
        match self {
            Examples::Text(text) => text.len_per_epoch(),
            Examples::Pairs { rows, .. } => rows.len(),
        }
    }

    fn lengths(&self, epoch: u64) -> Vec<(usize, usize)> {
        match self {
            Examples::Text(text) => text.lengths(epoch),
            Examples::Pairs { set, rows } => rows.iter().map(|&row| set.examples()[row].lengths()).collect(),
        }
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        match self {
            Examples::Text(text) => text.example(epoch, index),
            Examples::Pairs { set, rows } => set.example(epoch, rows[index]),
        }
    }
}
