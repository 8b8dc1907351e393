//! A unigram vocabulary from text, as SentencePiece trains it (Kudo 2018, arXiv 1804.10959), in the files that T5 uses.
//!
//! The text is cut as T5 cuts it: words that begin with `▁`. Its characters are made uniform as SentencePiece's `nmt_nfkc`
//! does (T5's own rule, there as a table of 240 KB), except that the joiners of scripts and emoji (U+200C, U+200D) stay; of a
//! run of spaces one is left. Around user-defined pieces no space is lost or made.
//!
//! The trainer is this crate's own. The one of the `tokenizers` crate gives other vocabularies on every run (it iterates
//! over hash maps with random keys and adds in the order in which threads finish) and panics on awkward text; here the
//! same text and settings give the same bytes, whatever the number of threads.

mod files;
mod seeds;
mod unigram;
mod words;

use std::path::Path;
use std::time::Instant;

use super::Tokenizer;
use super::folder::{CONFIG_FILE, JSON_FILE, MAX_EXTRA_IDS};
use crate::error::{Error, Result};
use words::{Alphabet, count_words, sample};

/// What a vocabulary is to be like.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Number of ids: special tokens, user-defined pieces, bytes and sentinels included.
    pub vocab_size: usize,
    /// How many `<extra_id_k>`; they are the last ids, `<extra_id_0>` the highest.
    pub sentinels: usize,
    /// Spell characters without a piece as bytes `<0x00>`..`<0xFF>` (256 ids) instead of `<unk>`.
    pub byte_fallback: bool,
    /// Each digit is a piece of its own.
    pub split_digits: bool,
    /// No piece has characters of two scripts, digits and marks being a script of their own: SentencePiece's
    /// `split_by_unicode_script` and `split_by_number`.
    pub split_scripts: bool,
    /// Unicode's NFKC makes letters plain, as T5's vocabulary does. Without it each stays what it is, so that `ʰ` is no `h`: for
    /// phonetic alphabets.
    pub nfkc: bool,
    /// Pieces that are found first wherever they stand, and never split; they may hold line ends and tabs.
    pub user_defined: Vec<String>,
    /// Longest learned piece in characters, `▁` included.
    pub max_piece_length: usize,
    /// How many candidates the learning starts from.
    pub seed_size: usize,
    /// Share of the text's characters that must have a piece; the rarest ones beyond it have none.
    pub character_coverage: f64,
    /// Lines learned from; of more lines a uniform sample of this size, chosen by `seed`.
    pub max_lines: usize,
    pub seed: u64,
    /// Accept a smaller vocabulary where the text has not enough different pieces, instead of refusing.
    pub allow_smaller: bool,
}

/// SentencePiece's defaults with T5's number of ids and sentinels.
impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            vocab_size: 32_100,
            sentinels: super::T5_SENTINELS,
            byte_fallback: false,
            split_digits: false,
            split_scripts: true,
            nfkc: true,
            user_defined: Vec::new(),
            max_piece_length: 16,
            seed_size: 1_000_000,
            character_coverage: 0.9995,
            max_lines: 1_000_000,
            seed: 0,
            allow_smaller: false,
        }
    }
}

/// A trained vocabulary and how it came about.
pub struct Trained {
    pub tokenizer: Tokenizer,
    pub summary: TrainSummary,
}

/// Figures of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSummary {
    /// Lines that were read, without blank ones.
    pub lines: u64,
    /// Lines that were learned from.
    pub lines_used: usize,
    /// Different words.
    pub words: usize,
    /// Different characters of the text.
    pub characters: usize,
    /// Those that have a piece.
    pub characters_covered: usize,
    /// Pieces learned from the text, single characters included.
    pub learned: usize,
    /// UTF-8 bytes of the text per token of its encoding, over (at most 10,000 of) the lines learned from.
    pub bytes_per_token: f64,
    /// Share of those tokens that are `<unk>`.
    pub unknown: f64,
    pub seconds: f64,
}

impl TrainOptions {
    /// What the vocabulary's normaliser does to text.
    pub fn normalizer(&self) -> String {
        let nfkc = if self.nfkc { "NFKC (\u{ff21} becomes A, \u{bd} becomes 1\u{2044}2), " } else { "" };
        format!("{nfkc}{}", files::NORMALIZER)
    }
}

impl Trained {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into `dir`, creating it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.tokenizer.save(dir)
    }
}

/// Learns a vocabulary. At most `options.max_lines` lines are held in memory.
///
/// # Errors
/// A line's own error, no text at all, settings that contradict each other, or (unless `allow_smaller`) a text with too
/// few different pieces for the size asked for.
pub fn train(lines: impl Iterator<Item = Result<String>>, options: &TrainOptions) -> Result<Trained> {
    let start = Instant::now();
    let budget = options.learned_pieces()?;
    let (total, lines) = sample(lines, options)?;
    let words = count_words(&lines, &files::tokenizer_json(options, &[]))?;
    let alphabet = Alphabet::of(&words, options.character_coverage);
    let n_covered = alphabet.covered.len();
    if n_covered > budget {
        return Err(Error::Input(format!(
            "{budget} pieces are left for text in a vocabulary of {}, but the text has {n_covered} characters to cover; use a \
             vocabulary of at least {}, or a lower character coverage (with byte fallback if nothing may be lost)",
            options.vocab_size,
            options.vocab_size - budget + n_covered,
        )));
    }
    let parts = alphabet.covered_parts(&words, options.split_scripts);
    let mut learned = unigram::learn(&parts, &alphabet.covered, budget, options);
    learned.retain(|(piece, _)| !options.user_defined.contains(piece) && !files::is_reserved(piece, options));
    if learned.len() < budget && !options.allow_smaller {
        return Err(Error::Input(format!(
            "the text gives {} pieces, too few for a vocabulary of {}: use a vocabulary of at most {}, more text, or accept a \
             smaller one (--allow-smaller)",
            learned.len(),
            options.vocab_size,
            options.vocab_size - budget + learned.len(),
        )));
    }
    let config = files::config_json(options);
    let contents = vec![(JSON_FILE, files::tokenizer_json(options, &learned)), (CONFIG_FILE, config)];
    let tokenizer = Tokenizer::of_files(Path::new(""), contents)?;
    let (bytes_per_token, unknown) = density(&tokenizer, &lines)?;
    let summary = TrainSummary {
        lines: total,
        lines_used: lines.len(),
        words: words.len(),
        characters: alphabet.total,
        characters_covered: n_covered,
        learned: learned.len(),
        bytes_per_token,
        unknown,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok(Trained { tokenizer, summary })
}

impl TrainOptions {
    /// Ids that are left for pieces of the text.
    fn learned_pieces(&self) -> Result<usize> {
        let refuse = |what: String| Err(Error::Input(what));
        if !(0.0..=1.0).contains(&self.character_coverage) {
            return refuse(format!("character coverage is a share from 0 to 1, not {}", self.character_coverage));
        }
        if self.max_piece_length == 0 || self.max_lines == 0 {
            return refuse("the longest piece and the number of lines must be at least 1".to_owned());
        }
        if self.sentinels > MAX_EXTRA_IDS {
            return refuse(format!("{} sentinels are too many: at most {MAX_EXTRA_IDS}", self.sentinels));
        }
        for (at, piece) in self.user_defined.iter().enumerate() {
            if piece.trim_matches(' ') != piece || piece.is_empty() {
                return refuse(format!("the user-defined piece {piece:?} is empty or has spaces at an end"));
            }
            if self.user_defined[..at].contains(piece) || files::is_reserved(piece, self) {
                return refuse(format!("the user-defined piece {piece:?} is there already; leave it out"));
            }
        }
        let taken = files::fixed_ids(self);
        match self.vocab_size.checked_sub(taken) {
            Some(left) if left > 0 => Ok(left),
            _ => refuse(format!(
                "a vocabulary of {} has no room for text: {taken} ids are special tokens, user-defined pieces, bytes and sentinels",
                self.vocab_size
            )),
        }
    }
}

/// Bytes per token and the share of `<unk>` over the first lines.
fn density(tokenizer: &Tokenizer, lines: &[String]) -> Result<(f64, f64)> {
    let texts: Vec<&str> = lines.iter().take(10_000).map(String::as_str).collect();
    let encoded = tokenizer.encode_batch(&texts)?;
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let tokens: usize = encoded.iter().map(Vec::len).sum();
    let unknown = encoded.iter().flatten().filter(|&&id| id == tokenizer.unk()).count();
    Ok((bytes as f64 / tokens.max(1) as f64, unknown as f64 / tokens.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vocab_size: usize) -> TrainOptions {
        TrainOptions { vocab_size, sentinels: 4, ..TrainOptions::default() }
    }

    fn lines(text: &[&str]) -> impl Iterator<Item = Result<String>> {
        text.iter().map(|line| Ok((*line).to_owned())).collect::<Vec<_>>().into_iter()
    }

    const TEXT: [&str; 4] = [
        "the cat sat on the mat and the dog sat on the log",
        "a cat and a dog ran to the cat and the dog",
        "",
        "that cat that ran sat; this dog that sat ran",
    ];

    fn failure(trained: Result<Trained>) -> String {
        trained.err().expect("must be refused").to_string()
    }

    #[test]
    fn ids_are_laid_out_as_in_t5() {
        let trained = train(lines(&TEXT), &options(32)).unwrap();
        let tokenizer = &trained.tokenizer;
        assert_eq!((tokenizer.pad(), tokenizer.eos(), tokenizer.unk()), (0, 1, 2));
        assert_eq!(tokenizer.vocab_size(), 32);
        assert_eq!([0, 1, 2, 3].map(|k| tokenizer.sentinel(k).unwrap()), [31, 30, 29, 28]);
        assert_eq!((trained.summary.lines, trained.summary.lines_used), (3, 3));
        assert_eq!(trained.summary.learned, 32 - 3 - 4);
        let ids = tokenizer.encode("the cat <extra_id_0> sat").unwrap();
        assert_eq!(tokenizer.decode(&ids), "the cat<extra_id_0> sat");
        assert!(ids.len() < 9, "{ids:?}");
    }

    #[test]
    fn the_same_text_gives_the_same_bytes_on_any_number_of_threads() {
        let files = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(lines(&TEXT), &options(32)).unwrap().tokenizer.0.files.clone())
        };
        assert!(files(1) == files(3));
    }

    #[test]
    fn bytes_digits_and_own_pieces() {
        let mut options = options(3 + 256 + 4 + 2 + 34);
        options.byte_fallback = true;
        options.split_digits = true;
        options.user_defined = vec!["[SEP]".into(), "New York".into()];
        options.allow_smaller = true;
        let text = [&TEXT[..], &["12 123 1212 12[SEP]12 in New York", "12 12"]].concat();
        let tokenizer = train(lines(&text), &options).unwrap().tokenizer;
        let pieces = |text: &str| -> Vec<String> {
            tokenizer.encode(text).unwrap().iter().map(|&id| tokenizer.piece(id).unwrap()).collect()
        };
        assert_eq!(pieces("12[SEP]"), ["▁", "1", "2", "[SEP]"]);
        assert_eq!(pieces("New York"), ["New York"]);
        assert_eq!(tokenizer.decode(&tokenizer.encode("the cat ☃ sat").unwrap()), "the cat ☃ sat");
        assert_eq!(pieces("☃"), ["▁", "<0xE2>", "<0x98>", "<0x83>"]);
    }

    #[test]
    fn nothing_is_lost_around_own_pieces() {
        let own = ["{", "}", "<hl>", "\n", "\t"].map(str::to_owned).to_vec();
        let options = TrainOptions { user_defined: own, allow_smaller: true, ..options(200) };
        let text = ["if (a) {b} else {c} f(x){y} x<hl>y", "a\u{200d}b c\u{200c}d"].repeat(10);
        let text: Vec<&str> = text.iter().map(|line| &**line).collect();
        let tokenizer = train(lines(&text), &options).unwrap().tokenizer;
        let texts = [
            "f(x){y}",
            "f(x) { y }",
            "f(x) {y}",
            "x<hl>y",
            "x <hl> y",
            "x <hl>y",
            "x<hl> y",
            "if (a) {b} else {c}",
            "a\u{200d}b",
            "c\u{200c}d",
            "a\nb\tc",
            "a \n\t b",
            "{",
            "a",
            "{ a",
            "{a ",
        ];
        let ids = texts.map(|text| tokenizer.encode(text).unwrap());
        for (text, ids) in texts.iter().zip(&ids) {
            assert_eq!(&tokenizer.decode(ids), text);
            let mut stream = tokenizer.stream();
            let streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            assert_eq!(&(streamed + &stream.finish()), text);
        }
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), texts.len());
        // Other white space is a space each, a run of it one.
        assert_eq!(tokenizer.decode(&tokenizer.encode("a \u{a0}\u{3000} b").unwrap()), "a b");
    }

    #[test]
    fn letters_are_made_plain_unless_told_otherwise() {
        let text = ["pʰat\u{303} ﬁn \t ½", "pʰat\u{303}\u{a0}ﬁn ½"];
        let given_back = |nfkc| {
            let options = TrainOptions { nfkc, allow_smaller: true, character_coverage: 1.0, ..options(60) };
            let tokenizer = train(lines(&text), &options).unwrap().tokenizer;
            text.map(|text| tokenizer.decode(&tokenizer.encode(text).unwrap()))
        };
        assert_eq!(given_back(true), ["phat\u{303} fin 1\u{2044}2"; 2]);
        assert_eq!(given_back(false), ["pʰat\u{303} ﬁn ½", text[1]]);
    }

    #[test]
    fn pieces_keep_to_a_script_unless_told_otherwise() {
        let text = ["R2D2, C3PO. R2D2, C3PO. R2D2, C3PO."; 4];
        let pieces = |split_scripts| {
            let options = TrainOptions { split_scripts, allow_smaller: true, ..options(60) };
            let tokenizer = train(lines(&text), &options).unwrap().tokenizer;
            let ids = tokenizer.encode("R2D2, C3PO.").unwrap();
            ids.iter().map(|&id| tokenizer.piece(id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pieces(true), ["▁R", "2", "D", "2,", "▁C", "3", "PO", "."]);
        assert_eq!(pieces(false), ["▁R2D2,", "▁C3PO."]);
    }

    #[test]
    fn what_cannot_be_learned_is_refused_with_a_remedy() {
        assert!(failure(train(lines(&["", " "]), &options(48))).contains("no text"));
        assert!(failure(train(lines(&TEXT), &options(7))).contains("no room for text: 7 ids"));
        let message = failure(train(lines(&TEXT), &options(12)));
        assert!(message.contains("characters to cover; use a vocabulary of at least"), "{message}");
        let message = failure(train(lines(&TEXT), &options(5000)));
        assert!(message.contains("use a vocabulary of at most"), "{message}");
        let own = |piece: &str| TrainOptions { user_defined: vec![piece.to_owned()], ..options(48) };
        assert!(failure(train(lines(&TEXT), &own("<extra_id_3>"))).contains("there already"));
        assert!(failure(train(lines(&TEXT), &own(" x"))).contains("spaces at an end"));
        let broken = std::iter::once(Err(Error::line("a.txt", 3, "not UTF-8")));
        assert!(failure(train(broken, &options(48))).contains("a.txt:3"));
        let smaller = train(lines(&TEXT), &TrainOptions { allow_smaller: true, ..options(5000) }).unwrap();
        assert!(smaller.tokenizer.vocab_size() < 5000);
        assert_eq!(smaller.tokenizer.sentinel(0), Some(smaller.tokenizer.vocab_size() as u32 - 1));
    }
}
