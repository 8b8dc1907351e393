//! The literal tokens `<extra_id_k>` in text and in vocabularies, and tokens that were added to a vocabulary.

/// A stretch of text between tokens (never empty), the sentinel `<extra_id_k>`, or an added token's id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    Sentinel(usize),
    Added(u32),
}

/// The token's spelling.
pub(super) fn name(k: usize) -> String {
    format!("{OPEN}{k}>")
}

/// Cuts `text` at the sentinels k < `n` and at the `added` tokens, of several at a place the longest; anything else that looks
/// like a sentinel (`<extra_id_007>`) stays text.
pub(super) fn segments<'a>(text: &'a str, n: usize, added: &[(String, u32)]) -> Vec<Segment<'a>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let sentinel = next_sentinel(rest, n).map(|(start, end, k)| (start, end, Segment::Sentinel(k)));
        let tokens = added.iter().filter_map(|(token, id)| {
            let start = rest.find(token.as_str())?;
            Some((start, start + token.len(), Segment::Added(*id)))
        });
        let next = tokens.chain(sentinel).min_by_key(|(start, end, _)| (*start, std::cmp::Reverse(*end)));
        let Some((start, end, token)) = next else { break };
        if start > 0 {
            found.push(Segment::Text(&rest[..start]));
        }
        found.push(token);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        found.push(Segment::Text(rest));
    }
    found
}

/// Ids of sentinels 0, 1, ... as far as `id_of` knows them. mT5 spells them with a leading `▁`.
pub(super) fn lookup(id_of: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    (0..).map_while(|k| id_of(&name(k)).or_else(|| id_of(&format!("▁{}", name(k))))).collect()
}

const OPEN: &str = "<extra_id_";

/// (start, end, k) of the first sentinel in `text`.
fn next_sentinel(text: &str, n: usize) -> Option<(usize, usize, usize)> {
    text.match_indices(OPEN).find_map(|(start, _)| {
        let digits_at = start + OPEN.len();
        let (digits, _) = text[digits_at..].split_once('>')?;
        let k: usize = digits.parse().ok()?;
        // The token is matched letter by letter: "+1", "007" are not how k is spelled.
        (k < n && k.to_string() == digits).then_some((start, digits_at + digits.len() + 1, k))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_sentinels_below_n_cut_the_text() {
        let text = "a<extra_id_<extra_id_12>é<extra_id_007><extra_id_100><extra_id_+1><extra_id_0><extra_id_";
        assert_eq!(
            segments(text, 100, &[]),
            [
                Segment::Text("a<extra_id_"),
                Segment::Sentinel(12),
                Segment::Text("é<extra_id_007><extra_id_100><extra_id_+1>"),
                Segment::Sentinel(0),
                Segment::Text("<extra_id_"),
            ]
        );
        assert_eq!(segments("", 100, &[]), []);
        let added = [("<h".to_owned(), 7), ("<hl>".to_owned(), 8)];
        let expected =
            [Segment::Text("a"), Segment::Added(8), Segment::Sentinel(0), Segment::Added(7), Segment::Text(">")];
        assert_eq!(segments("a<hl><extra_id_0><h>", 1, &added), expected);
    }
}
