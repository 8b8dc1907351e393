//! The flags that say how text is generated, over what the model's files say.

use anyhow::{Result, bail};
use t5_wgpu::generate::{Decoding, EarlyStopping, LengthPenalty};
use t5_wgpu::model::Model;
use t5_wgpu::tokenizer::Tokenizer;

use super::console::note;

#[derive(clap::Args, Debug)]
pub struct DecodingArgs {
    /// End a text after this many tokens, if it does not end by itself [default: as the model's files say, else 128; in an
    /// evaluation 16 more than the longest target]
    #[arg(long, value_name = "N", value_parser = positive)]
    max_new_tokens: Option<usize>,
    /// Search with so many beams for the likeliest text, instead of the likeliest token at each step [default: as the model's
    /// files say, else 1]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    beams: Option<usize>,
    /// Divide a beam's score by its length to this power: above 0 favours longer texts. gnmt:X divides by ((5 + length) / 6)^X, as
    /// T5's paper does with 0.6 [default: as the model's files say, else 1]
    #[arg(long, value_name = "X|gnmt:X", value_parser = length_penalty, allow_hyphen_values = true)]
    length_penalty: Option<LengthPenalty>,
    /// When beam search stops: true, as soon as there are as many texts as beams; false, when the best running beam is worse than
    /// they are; never, when none can become better [default: as the model's files say, else false]
    #[arg(long, value_name = "true|false|never", value_parser = early_stopping)]
    early_stopping: Option<EarlyStopping>,
    /// Draw tokens, with their scores divided by this: below 1 is closer to the likeliest; 0 takes the likeliest [default with
    /// other drawing options: 1]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = positive)]
    top_k: Option<usize>,
    /// Draw among the fewest tokens whose probabilities add up to P
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Draw among the tokens with at least this share of the likeliest's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Let no text end before it has so many tokens
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<usize>,
    /// Divide the scores of tokens that a text has already: above 1 it repeats itself less
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Let no sequence of N tokens come twice in a text; 0: any may
    #[arg(long, value_name = "N")]
    no_repeat_ngram: Option<usize>,
    /// Never complete this text, as the tokenizer cuts it by itself; may be given several times
    #[arg(long, value_name = "TEXT")]
    bad_word: Vec<String>,
    /// Answer with one of these texts and nothing else; may be given several times
    #[arg(long, value_name = "TEXT")]
    answer: Vec<String>,
    /// Begin every text with this one, which is not printed: the model goes on behind it. With the source "" a model that was trained as
    /// a language model continues a text
    #[arg(long, value_name = "TEXT")]
    begin: Option<String>,
    /// End a text before this one, as soon as it would be in it; may be given several times [default: as the model's files say]
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Equal seeds give equal draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl DecodingArgs {
    /// What the flags say over what the model's files do, also about this task. Says which of the latter have no effect, unless
    /// `quiet`.
    pub fn choose(&self, model: &Model, tokenizer: &Tokenizer, task: Option<&str>, quiet: bool) -> Result<Decoding> {
        if let Some(task) = task
            && let Some((_, disregarded)) = model.config.task_decoding(task)?
            && !disregarded.is_empty()
            && !quiet
        {
            note!("task_specific_params of {task}: not obeyed: {}", disregarded.join(", "));
        }
        let of_model = Decoding::of_model(model, task)?;
        let mut decoding = Decoding {
            max_new_tokens: self.max_new_tokens.or(of_model.max_new_tokens),
            num_beams: self.beams.unwrap_or(of_model.num_beams),
            length_penalty: self.length_penalty.unwrap_or(of_model.length_penalty),
            early_stopping: self.early_stopping.unwrap_or(of_model.early_stopping),
            min_new_tokens: self.min_new_tokens.unwrap_or(of_model.min_new_tokens),
            repetition_penalty: self.repetition_penalty.unwrap_or(of_model.repetition_penalty),
            no_repeat_ngram: self.no_repeat_ngram.unwrap_or(of_model.no_repeat_ngram),
            bad_words: if self.bad_word.is_empty() { of_model.bad_words } else { encode(tokenizer, &self.bad_word)? },
            answers: encode(tokenizer, &self.answer)?,
            decoder_prefix: encode(tokenizer, self.begin.as_slice())?.concat(),
            seed: self.seed,
            ..of_model
        };
        if self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() {
            decoding.num_beams = 1;
            decoding.temperature = self.temperature.unwrap_or(1.0);
            (decoding.top_k, decoding.top_p) = (self.top_k.unwrap_or(0), self.top_p.unwrap_or(1.0));
            decoding.min_p = self.min_p.unwrap_or(0.0);
        } else if self.beams.is_some() {
            decoding.temperature = 0.0;
        }
        if !self.stop.is_empty() {
            decoding.stop_strings.clone_from(&self.stop);
        } else if decoding.num_beams > 1 {
            // What the model's files say is for other decoding than the flags ask for.
            decoding.stop_strings.clear();
        }
        Ok(decoding)
    }
}

/// Texts as token ids, without end token.
fn encode(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let ids = |text: &String| {
        let ids = tokenizer.encode(text)?;
        if ids.is_empty() { bail!("the text {text:?} has no tokens") } else { Ok(ids) }
    };
    texts.iter().map(ids).collect()
}

fn length_penalty(text: &str) -> Result<LengthPenalty, String> {
    let (number, make): (_, fn(f32) -> LengthPenalty) = match text.strip_prefix("gnmt:") {
        Some(alpha) => (alpha, LengthPenalty::Gnmt),
        None => (text, LengthPenalty::Power),
    };
    number
        .parse()
        .ok()
        .filter(|x: &f32| x.is_finite())
        .map(make)
        .ok_or_else(|| "not a number, nor gnmt: and one".into())
}

fn early_stopping(text: &str) -> Result<EarlyStopping, String> {
    match text {
        "true" => Ok(EarlyStopping::Yes),
        "false" => Ok(EarlyStopping::No),
        "never" => Ok(EarlyStopping::Never),
        _ => Err("use true, false or never".into()),
    }
}

/// A whole number from 1 on.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a whole number".into()),
    }
}
