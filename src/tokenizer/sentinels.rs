//! The literal tokens `<extra_id_k>` in text and in vocabularies, and tokens that were added to a vocabulary.

use super::folder::AddedToken;

/// A stretch of text between tokens (never empty), the sentinel `<extra_id_k>`, or an added token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    Sentinel(usize),
    Added(&'a AddedToken),
}

/// The token's spelling.
pub(super) fn name(k: usize) -> String {
    format!("{OPEN}{k}>")
}

/// The sentinel k < `n` that is spelled so.
pub(super) fn number(token: &str, n: usize) -> Option<usize> {
    match next_sentinel(token, 0, n) {
        Some((0, end, Segment::Sentinel(k))) if end == token.len() => Some(k),
        _ => None,
    }
}

/// Cuts `text` at the sentinels k < `n` and at the `added` tokens, of several at a place the longest; anything else that looks
/// like a sentinel (`<extra_id_007>`) stays text.
pub(super) fn segments<'a>(text: &'a str, n: usize, added: &'a [AddedToken]) -> Vec<Segment<'a>> {
    let find = |kind: usize, from: usize| match kind.checked_sub(1).map(|index| &added[index]) {
        None => next_sentinel(text, from, n),
        Some(token) => {
            let places = text[from..].match_indices(token.content.as_str());
            let mut places = places.map(|(start, found)| (from + start, from + start + found.len()));
            let (start, end) = places.find(|&(start, end)| !token.single_word || stands_alone(text, start, end))?;
            Some((start, end, Segment::Added(token)))
        }
    };
    // Where each token is next, so that nothing is searched twice for one.
    let mut next: Vec<_> = (0..=added.len()).map(|kind| find(kind, 0)).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(&(start, end, token)) =
        next.iter().flatten().min_by_key(|(start, end, _)| (*start, std::cmp::Reverse(*end)))
    {
        if start > at {
            found.push(Segment::Text(&text[at..start]));
        }
        found.push(token);
        at = end;
        for (kind, place) in next.iter_mut().enumerate() {
            if place.is_some_and(|(start, ..)| start < at) {
                *place = find(kind, at);
            }
        }
    }
    if at < text.len() {
        found.push(Segment::Text(&text[at..]));
    }
    found
}

/// Whether no letter, digit or underscore stands beside `text[start..end]`.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..start].ends_with(is_word) && !text[end..].starts_with(is_word)
}

/// Ids of sentinels 0, 1, ... as far as `id_of` knows them. mT5 spells them with a leading `▁`.
pub(super) fn lookup(id_of: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    (0..).map_while(|k| id_of(&name(k)).or_else(|| id_of(&format!("▁{}", name(k))))).collect()
}

const OPEN: &str = "<extra_id_";

/// (start, end, token) of the first sentinel in `text` behind `from`.
fn next_sentinel(text: &str, from: usize, n: usize) -> Option<(usize, usize, Segment<'_>)> {
    text[from..].match_indices(OPEN).find_map(|(start, _)| {
        let start = from + start;
        let digits_at = start + OPEN.len();
        let rest = &text[digits_at..];
        let digits = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
        let end = digits_at + digits.len() + 1;
        let k: usize = digits.parse().ok()?;
        // The token is matched letter by letter: "007" is not how 7 is spelled.
        let is_one = k < n && k.to_string() == digits && rest[digits.len()..].starts_with('>');
        is_one.then_some((start, end, Segment::Sentinel(k)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(content: &str, id: u32) -> AddedToken {
        let content = content.to_owned();
        AddedToken { content, id, lstrip: false, rstrip: false, single_word: false, special: false }
    }

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
        let spelled = ["<extra_id_12>", "<extra_id_100>", "<extra_id_1>.", "x<extra_id_1>", "<extra_id_01>"];
        assert_eq!(spelled.map(|text| number(text, 100)), [Some(12), None, None, None, None]);
        let added = [token("<h", 7), token("<hl>", 8)];
        let expected = [
            Segment::Text("a"),
            Segment::Added(&added[1]),
            Segment::Sentinel(0),
            Segment::Added(&added[0]),
            Segment::Text(">"),
        ];
        assert_eq!(segments("a<hl><extra_id_0><h>", 1, &added), expected);
        let word = [AddedToken { single_word: true, ..token("hl", 9) }];
        let expected = [Segment::Text("ahl hl_ "), Segment::Added(&word[0]), Segment::Text("-")];
        assert_eq!(segments("ahl hl_ hl-", 1, &word), expected);
    }

    #[test]
    fn nothing_is_searched_to_its_end_again_and_again() {
        let start = web_time::Instant::now();
        let halves = OPEN.repeat(1 << 17);
        assert_eq!(segments(&halves, 100, &[]), [Segment::Text(&halves)]);
        let tokens = "<h>".repeat(1 << 17);
        assert_eq!(segments(&tokens, 100, &[token("<h>", 7), token("<other>", 8)]).len(), 1 << 17);
        assert!(start.elapsed().as_secs() < 5);
    }
}
