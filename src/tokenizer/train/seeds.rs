//! The candidates that learning starts from: the characters, and all substrings that are worth a piece.

use std::cmp::Reverse;

use rayon::prelude::*;

/// Closes each word in the joined text; no character of a word.
pub(super) const END: char = '\0';

/// (piece, ln of its share), characters first. A substring is a candidate if it occurs twice and has occurrences that go
/// on differently (an inner node of the suffix tree), or is a whole word; the best are those with most characters in all,
/// occurrences times length.
pub(super) fn seeds(
    words: &[(String, u64)],
    characters: &[(char, u64)],
    max_length: usize,
    max_seeds: usize,
) -> Vec<(String, f64)> {
    let text = Suffixes::new(words, max_length);
    let mut substrings = text.repeated();
    substrings.extend(words.iter().filter_map(|(word, n)| {
        let length = word.chars().count();
        (*n > 1 && (2..=max_length).contains(&length)).then(|| (n * length as u64, word.clone()))
    }));
    substrings.par_sort_unstable_by(|a, b| (Reverse(a.0), &a.1).cmp(&(Reverse(b.0), &b.1)));
    // A whole word that is also an inner node comes twice; the node's count is the larger.
    let mut seen = std::collections::HashSet::new();
    let mut pieces: Vec<(String, u64)> = characters.iter().map(|&(c, n)| (c.to_string(), n)).collect();
    let room = max_seeds.saturating_sub(pieces.len());
    let best = substrings.into_iter().filter(|(_, piece)| seen.insert(piece.clone())).take(room);
    pieces.extend(best.map(|(score, piece)| (piece, score)));
    let sum: u64 = pieces.iter().map(|(_, score)| score).sum();
    let sum = (sum as f64).ln();
    pieces.into_iter().map(|(piece, score)| (piece, (score as f64).ln() - sum)).collect()
}

/// The words' suffixes, cut to the longest piece, in alphabetical order.
struct Suffixes {
    /// All words, each closed by [`END`].
    text: Vec<char>,
    /// Starts of the suffixes.
    starts: Vec<usize>,
    /// How often the word at each place of `text` occurs.
    weights: Vec<u64>,
    max_length: usize,
}

impl Suffixes {
    fn new(words: &[(String, u64)], max_length: usize) -> Suffixes {
        let mut text = Vec::new();
        let mut weights = Vec::new();
        for (word, n) in words {
            text.extend(word.chars().chain([END]));
            weights.resize(text.len(), *n);
        }
        let starts = (0..text.len()).filter(|&at| text[at] != END).collect();
        let mut suffixes = Suffixes { text, starts, weights, max_length };
        let mut starts = std::mem::take(&mut suffixes.starts);
        starts.par_sort_unstable_by(|&a, &b| suffixes.at(a).cmp(suffixes.at(b)).then(a.cmp(&b)));
        suffixes.starts = starts;
        suffixes
    }

    fn at(&self, start: usize) -> impl Iterator<Item = &char> {
        self.text[start..].iter().take(self.max_length).take_while(|&&c| c != END)
    }

    /// (occurrences times length, substring) of the inner nodes of two characters or more: the intervals of the array of
    /// common prefixes (Abouelhoda, Kurtz and Ohlebusch 2004).
    fn repeated(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        // Intervals that are still open: (length of the common prefix, first suffix, weight before it).
        let mut open: Vec<(usize, usize, u64)> = Vec::new();
        let mut weight = 0;
        for (i, &start) in self.starts.iter().enumerate() {
            let mut left = (i, weight);
            weight += self.weights[start];
            let next = self.starts.get(i + 1);
            let common = next.map_or(0, |&next| self.at(start).zip(self.at(next)).take_while(|(a, b)| a == b).count());
            while let Some((length, first, before)) = open.pop_if(|top| top.0 > common) {
                if length > 1 {
                    let piece = self.at(self.starts[first]).take(length).collect();
                    found.push(((weight - before) * length as u64, piece));
                }
                left = (first, before);
            }
            if common > 0 && open.last().is_none_or(|top| top.0 < common) {
                open.push((common, left.0, left.1));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_substrings_are_counted_as_in_the_text() {
        let words: Vec<(String, u64)> =
            [("abab", 2), ("abc", 3), ("bcabx", 1), ("zzz", 1)].map(|(word, n)| (word.to_owned(), n)).to_vec();
        let mut found = Suffixes::new(&words, 3).repeated();
        found.sort();
        for (score, piece) in &found {
            let places =
                |word: &str| (0..word.len()).filter(|&at| word[at..].starts_with(piece.as_str())).count() as u64;
            let occurrences: u64 = words.iter().map(|(word, n)| places(word) * n).sum();
            assert_eq!(*score, occurrences * piece.len() as u64, "{piece}");
        }
        let pieces: Vec<&str> = found.iter().map(|(_, piece)| piece.as_str()).collect();
        assert_eq!(pieces, ["zz", "bc", "ab"]);
    }

    #[test]
    fn whole_words_and_characters_are_candidates() {
        let words = [("ab".to_owned(), 5), ("c".to_owned(), 1)];
        let pieces = seeds(&words, &[('a', 5), ('b', 5), ('c', 1)], 16, 100);
        let names: Vec<&str> = pieces.iter().map(|(piece, _)| piece.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "ab"]);
        assert!((pieces[3].1 - (10.0f64 / 21.0).ln()).abs() < 1e-12);
    }
}
