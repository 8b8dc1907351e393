//! The literal tokens `<extra_id_k>` in text and in vocabularies.

/// A stretch of text between sentinels (never empty), or the sentinel `<extra_id_k>`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    Sentinel(usize),
}

/// The token's spelling.
pub(super) fn name(k: usize) -> String {
    format!("{OPEN}{k}>")
}

/// Cuts `text` at the sentinels k < `n`; anything else that looks like one (`<extra_id_007>`) stays text.
pub(super) fn segments(text: &str, n: usize) -> Vec<Segment<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((start, end, k)) = next_sentinel(rest, n) {
        if start > 0 {
            found.push(Segment::Text(&rest[..start]));
        }
        found.push(Segment::Sentinel(k));
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
            segments(text, 100),
            [
                Segment::Text("a<extra_id_"),
                Segment::Sentinel(12),
                Segment::Text("é<extra_id_007><extra_id_100><extra_id_+1>"),
                Segment::Sentinel(0),
                Segment::Text("<extra_id_"),
            ]
        );
        assert_eq!(segments("", 100), []);
    }
}
