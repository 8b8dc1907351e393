//! A byte trie of vocabulary pieces.

use std::collections::VecDeque;

const NO_VALUE: u32 = u32::MAX;

/// Children of a node lie side by side, sorted by label, so that a step is a search in a few adjacent bytes.
pub(super) struct PieceTrie {
    labels: Vec<u8>,
    nodes: Vec<Node>,
    /// Child of the root by byte (0: none): the root is wide and every position of a text starts there.
    from_root: [u32; 256],
}

#[derive(Clone, Copy)]
struct Node {
    first_child: u32,
    n_children: u32,
    value: u32,
}

impl PieceTrie {
    pub(super) const ROOT: u32 = 0;

    /// From distinct, non-empty (piece, id) pairs.
    pub(super) fn new<'a>(pieces: impl IntoIterator<Item = (&'a str, u32)>) -> PieceTrie {
        let mut keys: Vec<(&[u8], u32)> = pieces.into_iter().map(|(piece, id)| (piece.as_bytes(), id)).collect();
        keys.sort_unstable();
        let empty = Node { first_child: 0, n_children: 0, value: NO_VALUE };
        let mut trie = PieceTrie { labels: vec![0], nodes: vec![empty], from_root: [0; 256] };
        let mut queue = VecDeque::from([(0, keys.as_slice(), 0)]);
        while let Some((node, mut keys, depth)) = queue.pop_front() {
            if let Some((key, id)) = keys.first()
                && key.len() == depth
            {
                trie.nodes[node].value = *id;
                keys = &keys[1..];
            }
            trie.nodes[node].first_child = trie.nodes.len() as u32;
            for group in keys.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
                queue.push_back((trie.nodes.len(), group, depth + 1));
                trie.labels.push(group[0].0[depth]);
                trie.nodes.push(empty);
                trie.nodes[node].n_children += 1;
            }
        }
        let root = trie.nodes[0];
        for child in root.first_child..root.first_child + root.n_children {
            trie.from_root[trie.labels[child as usize] as usize] = child;
        }
        trie
    }

    pub(super) fn step(&self, node: u32, byte: u8) -> Option<u32> {
        if node == Self::ROOT {
            let child = self.from_root[byte as usize];
            return (child != 0).then_some(child);
        }
        let Node { first_child, n_children, .. } = self.nodes[node as usize];
        let siblings = &self.labels[first_child as usize..(first_child + n_children) as usize];
        siblings.binary_search(&byte).ok().map(|at| first_child + at as u32)
    }

    /// The id of the piece that ends at `node`.
    pub(super) fn value(&self, node: u32) -> Option<u32> {
        let value = self.nodes[node as usize].value;
        (value != NO_VALUE).then_some(value)
    }

    /// The id of this piece.
    pub(super) fn find(&self, piece: &str) -> Option<u32> {
        let end = piece.bytes().try_fold(Self::ROOT, |node, byte| self.step(node, byte))?;
        self.value(end)
    }

    /// Length in bytes of the longest piece that `text` starts with.
    pub(super) fn longest_prefix(&self, text: &str) -> Option<usize> {
        let mut node = Self::ROOT;
        let mut longest = None;
        for (at, byte) in text.bytes().enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if self.value(node).is_some() {
                longest = Some(at + 1);
            }
        }
        longest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }
}
