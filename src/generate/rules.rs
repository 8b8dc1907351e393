//! The lists by which [`AdjustLogits`](crate::ops::AdjustLogits) changes scores, as they lie on the device.

use std::collections::BTreeMap;

use crate::ops::ChoiceSettings;

/// Lists of tokens, and the words that hold them on the device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub words: Vec<u32>,
    suppress: u32,
    begin_suppress: u32,
    bad_words: u32,
    trie: u32,
    /// Whether a bit for each row and token, which says if it is allowed, comes behind the lists.
    pub has_mask: bool,
}

/// What can follow in a trie of token sequences.
#[derive(Default)]
struct TrieNode {
    children: BTreeMap<u32, TrieNode>,
}

impl Rules {
    /// `answers`: a target is one of these, and then the end token; none: a target may be anything.
    pub fn new(
        suppress: &[u32],
        begin_suppress: &[u32],
        bad_words: &[Vec<u32>],
        answers: &[Vec<u32>],
        end: u32,
    ) -> Rules {
        let mut words = [suppress, begin_suppress].concat();
        let mut place = (words.len() + 2 * bad_words.len()) as u32;
        for word in bad_words {
            words.extend([place, word.len() as u32]);
            place += word.len() as u32;
        }
        words.extend(bad_words.iter().flatten());
        let mut trie = 0;
        if !answers.is_empty() {
            // 0 would mean that there is no trie.
            words.resize(words.len().max(1), 0);
            trie = write_trie(&mut words, answers, end);
        }
        let [suppress, begin_suppress, bad_words] =
            [suppress.len(), begin_suppress.len(), bad_words.len()].map(|n| n as u32);
        // 0 would mean that there is no mask.
        words.resize(words.len().max(1), 0);
        Rules { words, suppress, begin_suppress, bad_words, trie, has_mask: false }
    }

    /// Tells the settings where the lists lie.
    pub fn describe(&self, settings: &mut ChoiceSettings) {
        (settings.n_suppress, settings.n_begin, settings.n_words) =
            (self.suppress, self.begin_suppress, self.bad_words);
        settings.trie = self.trie;
        settings.mask = if self.has_mask { self.words.len() as u32 } else { 0 };
    }
}

/// Appends the trie of the answers, each with its end token, and gives the place of its root.
fn write_trie(words: &mut Vec<u32>, answers: &[Vec<u32>], end: u32) -> u32 {
    let mut root = TrieNode::default();
    for answer in answers {
        let mut node = &mut root;
        for &token in answer.iter().chain([&end]) {
            node = node.children.entry(token).or_default();
        }
    }
    // A node is followed by its children, which are written when their turn comes.
    let first = words.len() as u32;
    let mut waiting = vec![(&root, None::<usize>)];
    while let Some((node, named_at)) = waiting.pop() {
        let place = words.len();
        if let Some(at) = named_at {
            words[at] = place as u32;
        }
        words.extend([place as u32 + 2, node.children.len() as u32]);
        for (&token, child) in &node.children {
            words.extend([token, 0]);
            waiting.push((child, Some(words.len() - 1)));
        }
    }
    first
}
