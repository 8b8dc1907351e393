//! A look at TOML text before it is parsed.

/// Brackets and braces within each other: more than any setting has, and few enough for a parser that calls itself for each.
const DEEPEST: usize = 64;

/// What is wrong with text that nests too deep.
pub const TOO_DEEP: &str = "brackets and braces lie more than 64 deep within each other, as in no setting";

/// Whether TOML text nests deeper than the parser's stack is sure to hold. Strings and comments do not count.
pub fn nests_too_deep(text: &str) -> bool {
    let mut depth = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['[', '{', ']', '}', '"', '\'', '#']) {
        let found = &rest[at..];
        let skipped = match found.as_bytes()[0] {
            b'[' | b'{' => {
                depth += 1;
                if depth > DEEPEST {
                    return true;
                }
                1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            b'#' => found.find('\n').unwrap_or(found.len()),
            _ => string_len(found),
        };
        rest = &found[skipped..];
    }
    false
}

/// The bytes of the string that the text begins with, quotes counted. One that is not closed ends with its line, or with the text if it
/// has three quotes.
fn string_len(text: &str) -> usize {
    let quote = &text[..1];
    let is_long = text.starts_with(&quote.repeat(3));
    let mark = if is_long { quote.repeat(3) } else { quote.to_owned() };
    let mut at = mark.len();
    while let Some(next) = text[at..].find(['\\', '\n', '"', '\'']) {
        at += next;
        let here = &text[at..];
        if here.starts_with(&mark) {
            at += mark.len();
            // Up to two quotes before the last three belong to the string.
            let more = text[at..].bytes().take(2).take_while(|byte| quote.as_bytes() == [*byte]).count();
            return at + if is_long { more } else { 0 };
        }
        if here.starts_with('\n') && !is_long {
            return at;
        }
        let escapes = here.starts_with('\\') && quote == "\"";
        at += here.chars().take(if escapes { 2 } else { 1 }).map(char::len_utf8).sum::<usize>();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_of_strings_and_comments_count() {
        let deep = "[{".repeat(100);
        for open in ["a = @", "a = \"x\"\nb = '\\'\nc = @", "a = \"not closed\nc = @", "a = \"\"\"x\"\"\"\"\"\nc = @"] {
            assert!(nests_too_deep(&open.replace('@', &deep)), "{open}");
        }
        for held in ["# @", "a = \"@\"", "a = '@'", "a = \"\"\"\n\"@\"\"\"", "a = '''@", "a = \"\\\"@\""] {
            assert!(!nests_too_deep(&held.replace('@', &deep)), "{held}");
        }
        assert!(!nests_too_deep(&"a = [{ b = [1, 2] }]\n".repeat(1000)));
        assert!(!nests_too_deep("") && !nests_too_deep("\"") && !nests_too_deep("'é\\é"));
    }
}
