//! Segmentation of BPE models: `Model::SampleEncode` of SentencePiece's `bpe_model.cc`, without sampling.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::{PieceKind, SentencePiece};

/// A stretch of the text that is one piece so far, in a list with its neighbours.
struct Symbol {
    before: Option<usize>,
    after: Option<usize>,
    range: Range<usize>,
    /// A user-defined symbol, which nothing is merged with.
    frozen: bool,
}

/// Two neighbours whose union is a piece. The largest has the best score, and of equals stands first.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both, by which a pair is known whose symbols have changed since.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// Merges neighbours, the best pair first, until none is a piece; appends the ids of what is left to `ids`.
    pub(super) fn merge_text(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut at = 0;
        while let Some(first) = text[at..].chars().next() {
            let defined =
                if self.user_defined.is_empty() { None } else { self.user_defined.longest_prefix(&text[at..]) };
            let end = at + defined.unwrap_or(first.len_utf8());
            let before = symbols.len().checked_sub(1);
            symbols.push(Symbol { before, after: Some(symbols.len() + 1), range: at..end, frozen: defined.is_some() });
            at = end;
        }
        let Some(last) = symbols.last_mut() else { return };
        last.after = None;
        // How pieces came about that must not be in the result.
        let mut parts: HashMap<&str, usize> = HashMap::new();
        let mut agenda = BinaryHeap::new();
        let offer =
            |symbols: &[Symbol], pair: [Option<usize>; 2], agenda: &mut BinaryHeap<Pair>, parts: &mut HashMap<_, _>| {
                let [Some(left), Some(right)] = pair else { return };
                if symbols[left].frozen || symbols[right].frozen {
                    return;
                }
                let range = symbols[left].range.start..symbols[right].range.end;
                let Some(id) = self.trie.find(&text[range.clone()]) else { return };
                let len = range.len();
                if self.pieces[id as usize].kind() == PieceKind::Unused {
                    parts.insert(&text[range], symbols[left].range.len());
                }
                agenda.push(Pair { score: self.score(id, len), left, right, len });
            };
        for right in 1..symbols.len() {
            offer(&symbols, [Some(right - 1), Some(right)], &mut agenda, &mut parts);
        }
        while let Some(Pair { left, right, len, .. }) = agenda.pop() {
            let lens = [left, right].map(|at| symbols[at].range.len());
            if lens.contains(&0) || lens[0] + lens[1] != len {
                continue;
            }
            let (end, after) = (symbols[right].range.end, symbols[right].after);
            symbols[right].range = end..end;
            symbols[left].range.end = end;
            symbols[left].after = after;
            if let Some(after) = after {
                symbols[after].before = Some(left);
            }
            offer(&symbols, [symbols[left].before, Some(left)], &mut agenda, &mut parts);
            offer(&symbols, [Some(left), after], &mut agenda, &mut parts);
        }
        let mut pieces = Vec::new();
        for symbol in symbols.iter().filter(|symbol| !symbol.range.is_empty()) {
            self.take_apart(text, symbol.range.clone(), &parts, &mut pieces);
        }
        self.append_pieces(text, pieces.into_iter(), ids);
    }

    /// The piece of a range of the text; of one that must not be in the result, those that it came of.
    fn take_apart(
        &self,
        text: &str,
        range: Range<usize>,
        parts: &HashMap<&str, usize>,
        pieces: &mut Vec<(u32, Range<usize>)>,
    ) {
        let mut rest = vec![range];
        while let Some(range) = rest.pop() {
            let id = self.trie.find(&text[range.clone()]);
            let unused = id.is_some_and(|id| self.pieces[id as usize].kind() == PieceKind::Unused);
            match parts.get(&text[range.clone()]).filter(|_| unused) {
                Some(left) => {
                    let middle = range.start + left;
                    rest.extend([middle..range.end, range.start..middle]);
                }
                None => pieces.push((id.unwrap_or(self.special.unk), range)),
            }
        }
    }
}
