//! Expectation and maximisation for the unigram model, with pruning (Kudo 2018, section 3.2), as in SentencePiece's
//! `unigram_model_trainer.cc`; but characters are never dropped, so that each word can always be spelled.

use rayon::prelude::*;

use super::TrainOptions;
use super::seeds::seeds;
use crate::tokenizer::trie::PieceTrie;

/// Rounds of expectation and maximisation between two prunings.
const ROUNDS: usize = 2;

/// Pruning keeps this share of the pieces at a time.
const SHRINK: f64 = 0.75;

/// A piece that is expected less often is dropped.
const MIN_EXPECTED: f64 = 0.5;

/// Pruning stops at this many times the size asked for; the last step goes by probability.
const SPARE: f64 = 1.1;

/// Scores are rounded to multiples of this, so that pieces of the same frequency stay in alphabetical order whatever the last
/// bits of a platform's logarithm.
const PRECISION: f64 = 1.0 / (1 << 20) as f64;

/// Parts of the words whose sums are added in a fixed order, so that no number of threads changes a bit.
const PARTS: usize = 16;

/// (piece, ln of its probability), likeliest first, `size` of them or all that the words give.
pub(super) fn learn(
    words: &[(String, u64)],
    characters: &[(char, u64)],
    size: usize,
    options: &TrainOptions,
) -> Vec<(String, f64)> {
    let seeds = seeds(words, characters, options.max_piece_length, options.seed_size.max(2 * size));
    let mut model = Unigram::new(seeds, characters.len());
    let desired = (size as f64 * SPARE) as usize;
    loop {
        for _ in 0..ROUNDS {
            model = model.maximised(&model.expected(words));
        }
        if model.pieces.len() <= desired {
            break;
        }
        model = model.pruned(words, desired.max((model.pieces.len() as f64 * SHRINK) as usize));
    }
    let n_characters = model.n_characters;
    for (_, score) in &mut model.pieces {
        *score = (*score / PRECISION).round() * PRECISION;
    }
    let by_likelihood = |a: &(String, f64), b: &(String, f64)| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0));
    let mut pieces = model.pieces;
    pieces[n_characters..].sort_unstable_by(by_likelihood);
    pieces.truncate(size);
    pieces.sort_unstable_by(by_likelihood);
    pieces
}

struct Unigram {
    /// The characters come first.
    pieces: Vec<(String, f64)>,
    n_characters: usize,
    trie: PieceTrie,
}

/// A piece in a word: from byte `start` to `end`.
struct Arc {
    start: usize,
    end: usize,
    id: usize,
}

impl Unigram {
    fn new(pieces: Vec<(String, f64)>, n_characters: usize) -> Unigram {
        let trie = PieceTrie::new(pieces.iter().map(|(piece, _)| piece.as_str()).zip(0..));
        Unigram { pieces, n_characters, trie }
    }

    /// All pieces in the word, by their start.
    fn arcs(&self, word: &str, arcs: &mut Vec<Arc>) {
        arcs.clear();
        for (start, _) in word.char_indices() {
            let mut node = PieceTrie::ROOT;
            for (end, byte) in (start + 1..).zip(word[start..].bytes()) {
                let Some(next) = self.trie.step(node, byte) else { break };
                node = next;
                if let Some(id) = self.trie.value(node) {
                    arcs.push(Arc { start, end, id: id as usize });
                }
            }
        }
    }

    /// How often each piece is expected in the words, over all ways to spell them.
    fn expected(&self, words: &[(String, u64)]) -> Vec<f64> {
        let part = |words: &[(String, u64)]| {
            let mut expected = vec![0.0; self.pieces.len()];
            let (mut arcs, mut before, mut behind) = (Vec::new(), Vec::new(), Vec::new());
            for (word, n) in words {
                self.arcs(word, &mut arcs);
                reset(&mut before, word.len() + 1, f64::NEG_INFINITY);
                reset(&mut behind, word.len() + 1, f64::NEG_INFINITY);
                before[0] = 0.0;
                behind[word.len()] = 0.0;
                for arc in &arcs {
                    before[arc.end] = ln_add(before[arc.end], before[arc.start] + self.pieces[arc.id].1);
                }
                for arc in arcs.iter().rev() {
                    behind[arc.start] = ln_add(behind[arc.start], behind[arc.end] + self.pieces[arc.id].1);
                }
                let all = behind[0];
                for arc in &arcs {
                    let share = before[arc.start] + self.pieces[arc.id].1 + behind[arc.end] - all;
                    expected[arc.id] += *n as f64 * share.exp();
                }
            }
            expected
        };
        let parts: Vec<Vec<f64>> = in_parts(words).map(part).collect();
        let mut sum = vec![0.0; self.pieces.len()];
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        sum
    }

    /// New probabilities, with a sparse prior (Liang and Klein 2007: the digamma function); rare pieces are dropped.
    fn maximised(&self, expected: &[f64]) -> Unigram {
        let kept = self.pieces.iter().zip(expected).enumerate();
        let kept = kept.filter(|(id, (_, n))| *id < self.n_characters || **n >= MIN_EXPECTED);
        let counts: Vec<(String, f64)> =
            kept.map(|(_, ((piece, _), n))| (piece.clone(), n.max(MIN_EXPECTED))).collect();
        let total = digamma(counts.iter().map(|(_, n)| n).sum());
        Unigram::new(counts.into_iter().map(|(piece, n)| (piece, digamma(n) - total)).collect(), self.n_characters)
    }

    /// The pieces without which the text's likelihood falls most, `size` of them at most, and the characters.
    fn pruned(&self, words: &[(String, u64)], size: usize) -> Unigram {
        let counts = self.counts(words);
        let total: f64 = counts.iter().map(|&n| n as f64).sum();
        let loss = |id: usize| {
            let n = counts[id] as f64;
            if n == 0.0 {
                return 0.0;
            }
            // Without the piece its occurrences would be spelled as the next best way says.
            let mut spelling = Vec::new();
            self.best(&self.pieces[id].0, Some(id), &mut Vec::new(), &mut Vec::new(), |id| spelling.push(id));
            let total_then = (total + n * (spelling.len() as f64 - 1.0)).ln();
            let then: f64 = spelling.iter().map(|&other| (counts[other] as f64 + n).ln() - total_then).sum();
            n * (n.ln() - total.ln() - then)
        };
        let candidates = (self.n_characters..self.pieces.len()).into_par_iter();
        // Among those that no best spelling uses, likely ones may be used once longer pieces are gone.
        let mut ranked: Vec<(f64, f64, usize)> = candidates.map(|id| (loss(id), self.pieces[id].1, id)).collect();
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        ranked.truncate(size.saturating_sub(self.n_characters));
        let kept = (0..self.n_characters).chain(ranked.into_iter().map(|(_, _, id)| id));
        Unigram::new(kept.map(|id| self.pieces[id].clone()).collect(), self.n_characters)
    }

    /// How often each piece occurs in the words' best spellings.
    fn counts(&self, words: &[(String, u64)]) -> Vec<u64> {
        let part = |words: &[(String, u64)]| {
            let mut counts = vec![0; self.pieces.len()];
            let (mut arcs, mut reached) = (Vec::new(), Vec::new());
            for (word, n) in words {
                self.best(word, None, &mut arcs, &mut reached, |id| counts[id] += n);
            }
            counts
        };
        let none = || vec![0; self.pieces.len()];
        in_parts(words).map(part).reduce(none, |a, b| a.iter().zip(b).map(|(a, b)| a + b).collect())
    }

    /// Visits the pieces of the likeliest spelling of `word` (Viterbi), back to front, without piece `without`.
    fn best(
        &self,
        word: &str,
        without: Option<usize>,
        arcs: &mut Vec<Arc>,
        reached: &mut Vec<(f64, usize)>,
        mut visit: impl FnMut(usize),
    ) {
        self.arcs(word, arcs);
        reset(reached, word.len() + 1, (f64::NEG_INFINITY, usize::MAX));
        reached[0].0 = 0.0;
        for (at, arc) in arcs.iter().enumerate().filter(|(_, arc)| Some(arc.id) != without) {
            let score = reached[arc.start].0 + self.pieces[arc.id].1;
            if score > reached[arc.end].0 {
                reached[arc.end] = (score, at);
            }
        }
        let mut end = word.len();
        while let Some(arc) = arcs.get(reached[end].1) {
            visit(arc.id);
            end = arc.start;
        }
    }
}

fn in_parts(words: &[(String, u64)]) -> impl IndexedParallelIterator<Item = &[(String, u64)]> {
    words.par_chunks(words.len().div_ceil(PARTS).max(1))
}

fn reset<T: Clone>(values: &mut Vec<T>, length: usize, value: T) {
    values.clear();
    values.resize(length, value);
}

/// ln(e^a + e^b); a may be minus infinity.
fn ln_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// Derivative of ln Γ at x > 0: the recurrence up to 7, then the asymptotic series about x - 1/2.
fn digamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 7.0 {
        sum -= 1.0 / x;
        x += 1.0;
    }
    x -= 0.5;
    let y = 1.0 / (x * x);
    sum + x.ln() + y / 24.0 - y * y * 7.0 / 960.0 + y * y * y * 31.0 / 8064.0 - y * y * y * y * 127.0 / 30720.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digamma_is_the_derivative_of_ln_gamma() {
        assert!((digamma(1.0) + 0.577_215_664_901_532_9).abs() < 1e-9);
        assert!((digamma(0.5) + 1.963_510_026_021_423_5).abs() < 1e-9);
        assert!((digamma(100.0) - 4.600_161_852_738_087).abs() < 1e-12);
    }

    #[test]
    fn expectations_are_those_of_all_spellings() {
        let pieces = [("a", 0.2), ("b", 0.3), ("ab", 0.1), ("aba", 0.4)]
            .map(|(piece, p): (&str, f64)| (piece.to_owned(), p.ln()));
        let model = Unigram::new(pieces.to_vec(), 2);
        let expected = model.expected(&[("aba".to_owned(), 2)]);
        // a b a: 0.012, ab a: 0.02, aba: 0.4
        let all = 0.012 + 0.02 + 0.4;
        let wanted = [2.0 * 0.012 + 0.02, 0.012, 0.02, 0.4].map(|p| 2.0 * p / all);
        for (got, wanted) in expected.iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-12, "{got} {wanted}");
        }
        assert_eq!(model.counts(&[("aba".to_owned(), 2), ("abab".to_owned(), 3)]), [0, 3, 0, 5]);
    }

    #[test]
    fn what_words_are_made_of_is_found() {
        let stems = ["walk", "talk", "jump", "look", "play", "help"];
        let ends = ["", "ing", "ed", "s", "er"];
        let words: Vec<(String, u64)> =
            stems.iter().flat_map(|stem| ends.map(|end| (format!("▁{stem}{end}"), 7))).collect();
        let mut counts = std::collections::BTreeMap::new();
        words
            .iter()
            .flat_map(|(word, n)| word.chars().map(move |c| (c, n)))
            .for_each(|(c, n)| *counts.entry(c).or_insert(0) += n);
        let characters: Vec<(char, u64)> = counts.into_iter().collect();
        let pieces = learn(&words, &characters, characters.len() + 8, &TrainOptions::default());
        assert_eq!(pieces.len(), characters.len() + 8);
        let has = |piece: &str| pieces.iter().any(|(p, _)| p == piece);
        assert!(stems.iter().all(|stem| has(&format!("▁{stem}"))), "{pieces:?}");
    }
}
