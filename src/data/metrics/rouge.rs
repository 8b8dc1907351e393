//! ROUGE (Lin 2004) as the package rouge-score counts it, without a stemmer.

use std::collections::HashMap;

use super::{Case, Part};

/// Words of a to z and 0 to 9 in lower case; everything else separates them.
type Words = Vec<String>;

/// A summary: its words, and those of each of its sentences.
struct Summary {
    words: Words,
    sentences: Vec<Words>,
}

#[derive(Clone, Copy, Default)]
struct Overlap {
    precision: f64,
    recall: f64,
}

/// Of several references the best counts, for each of the three numbers by itself.
pub(super) fn rouge(cases: &[Case]) -> Result<Vec<Part>, String> {
    let mut sums = [[0.0; 3]; 3];
    for case in cases {
        let prediction = Summary::new(&case.prediction);
        let references: Vec<Summary> = case.references.iter().map(|reference| Summary::new(reference)).collect();
        for (sum, overlap) in sums.iter_mut().zip([rouge_1, rouge_2, rouge_l_sum]) {
            let all = references.iter().map(|reference| overlap(reference, &prediction));
            let best = all.reduce(|best, next| if next.f1() > best.f1() { next } else { best }).unwrap_or_default();
            for (total, value) in sum.iter_mut().zip([best.f1(), best.precision, best.recall]) {
                *total += value;
            }
        }
    }
    let n = cases.len() as f64;
    let part = |[f1, precision, recall]: [f64; 3]| {
        Part::new(f1 / n, &[("precision", 100.0 * precision / n), ("recall", 100.0 * recall / n)])
    };
    Ok(sums.map(part).into())
}

impl Summary {
    fn new(text: &str) -> Summary {
        // T5's metrics.py ends a sentence at a point between blanks.
        let lines = text.replace(" . ", " .\n");
        let sentences = lines.split('\n').filter(|line| !line.is_empty()).map(tokens).collect();
        Summary { words: tokens(text), sentences }
    }
}

impl Overlap {
    fn new(hits: usize, reference: usize, prediction: usize) -> Overlap {
        let share = |whole: usize| hits as f64 / whole.max(1) as f64;
        Overlap { precision: share(prediction), recall: share(reference) }
    }

    fn f1(self) -> f64 {
        let sum = self.precision + self.recall;
        if sum > 0.0 { 2.0 * self.precision * self.recall / sum } else { 0.0 }
    }
}

fn tokens(text: &str) -> Words {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn rouge_1(reference: &Summary, prediction: &Summary) -> Overlap {
    ngram_overlap(&reference.words, &prediction.words, 1)
}

fn rouge_2(reference: &Summary, prediction: &Summary) -> Overlap {
    ngram_overlap(&reference.words, &prediction.words, 2)
}

fn ngram_overlap(reference: &Words, prediction: &Words, order: usize) -> Overlap {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for ngram in reference.windows(order) {
        *left.entry(ngram).or_default() += 1;
    }
    let mut hits = 0;
    for ngram in prediction.windows(order) {
        if let Some(count) = left.get_mut(ngram).filter(|count| **count > 0) {
            *count -= 1;
            hits += 1;
        }
    }
    let ngrams = |words: &Words| (words.len() + 1).saturating_sub(order);
    Overlap::new(hits, ngrams(reference), ngrams(prediction))
}

/// For each sentence of the reference, the words that a longest common subsequence with any sentence of the prediction
/// has; a word counts at most as often as it stands on either side.
fn rouge_l_sum(reference: &Summary, prediction: &Summary) -> Overlap {
    let count = |sentences: &[Words]| sentences.iter().map(Vec::len).sum::<usize>();
    let mut left: [HashMap<&str, usize>; 2] = [HashMap::new(), HashMap::new()];
    for (counts, summary) in left.iter_mut().zip([reference, prediction]) {
        for word in summary.sentences.iter().flatten() {
            *counts.entry(word).or_default() += 1;
        }
    }
    let [mut ours, mut theirs] = left;
    let mut hits = 0;
    for sentence in &reference.sentences {
        let mut in_union = vec![false; sentence.len()];
        for other in &prediction.sentences {
            mark_common(sentence, other, &mut in_union);
        }
        for (word, _) in sentence.iter().zip(&in_union).filter(|(_, is_common)| **is_common) {
            let both = (ours.get_mut(word.as_str()), theirs.get_mut(word.as_str()));
            if let (Some(a @ 1..), Some(b @ 1..)) = both {
                *a -= 1;
                *b -= 1;
                hits += 1;
            }
        }
    }
    Overlap::new(hits, count(&reference.sentences), count(&prediction.sentences))
}

/// Marks the words of `sentence` in one longest common subsequence, of several the one that rouge-score reads out.
fn mark_common(sentence: &Words, other: &Words, marks: &mut [bool]) {
    let width = other.len() + 1;
    let mut table = vec![0u32; (sentence.len() + 1) * width];
    for (i, word) in sentence.iter().enumerate() {
        for (j, other_word) in other.iter().enumerate() {
            table[(i + 1) * width + j + 1] = if word == other_word {
                table[i * width + j] + 1
            } else {
                table[i * width + j + 1].max(table[(i + 1) * width + j])
            };
        }
    }
    let (mut i, mut j) = (sentence.len(), other.len());
    while i > 0 && j > 0 {
        if sentence[i - 1] == other[j - 1] {
            marks[i - 1] = true;
            i -= 1;
            j -= 1;
        } else if table[i * width + j - 1] > table[(i - 1) * width + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}
