//! Loops of shaders written out before they are compiled, and their arrays as single variables.
//!
//! Only these stay in registers everywhere: naga writes every loop of WGSL as an endless one with a break, and Microsoft's and
//! Apple's compilers then leave the arrays that it indexes in memory. FXC, which takes seconds over such texts, is spared them.

use std::collections::BTreeMap;

/// What a loop to be written out begins with, and the declaration of an array to be taken apart. To everyone else the marks are
/// comments.
const MARK: &str = "/* unroll */ for (var ";
const ARRAY_MARK: &str = "registers */ var ";

/// Replaces each loop `/* unroll */ for (var i = FIRST; i < END; i++) { BODY }` of `source` by copies of its body, in braces,
/// each with a number in place of `i`. Then each `/* registers */ var a = array<T, N>();` by `N` variables.
///
/// FIRST, END and N are made of literals (`4u`) and of `source`'s own constants by `+ - * / %`; so are all indices of such an
/// array once the loops are written out. A body that leaves its loop by `break` or `continue` is refused, as is any other loop.
pub(super) fn unroll(source: &str) -> Result<String, String> {
    let mark = |text: &str| ["/* unroll */", "/* registers */"].into_iter().find(|mark| text.contains(mark));
    if mark(source).is_none() {
        return Ok(source.to_owned());
    }
    let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
    let code = code.join("\n");
    let known = constants(&code);
    let out = take_apart(&write_out(&code, &known)?, &known)?;
    mark(&out).map_or(Ok(()), |mark| Err(format!("{mark} stands before something else than a loop or an array")))?;
    Ok(out)
}

fn write_out(source: &str, constants: &BTreeMap<&str, u32>) -> Result<String, String> {
    let (mut out, mut rest) = (String::with_capacity(2 * source.len()), source);
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let head = rest.split_once(") {").map_or(rest, |(head, _)| head);
        let refuse = |why: &str| Err(format!("`for (var {head})`: {why}"));
        let [first, end, step] = head.splitn(3, "; ").collect::<Vec<_>>()[..] else {
            return refuse("a loop has three parts");
        };
        let Some((name, first)) = first.split_once(" = ") else { return refuse("no first number") };
        let end = end.strip_prefix(name).and_then(|end| end.strip_prefix(" < "));
        let (Some(first), Some(end)) = (value(first, constants), end.and_then(|end| value(end, constants))) else {
            return refuse("its numbers are no constants");
        };
        if step.strip_prefix(name) != Some("++") {
            return refuse("its numbers do not follow each other");
        }
        rest = &rest[head.len() + ") {".len()..];
        let Some(len) = closing_brace(rest) else { return refuse("its body has no end") };
        if leaves(&rest[..len]) {
            return refuse("its body leaves it");
        }
        let body = write_out(&rest[..len], constants)?;
        let places: Vec<usize> = words(&body).filter(|(_, word)| *word == name).map(|(at, _)| at).collect();
        for number in first..end {
            let (number, mut from) = (format!("{number}u"), 0);
            out.push('{');
            for at in &places {
                out.push_str(&body[from..*at]);
                out.push_str(&number);
                from = at + name.len();
            }
            out.push_str(&body[from..]);
            out.push('}');
        }
        rest = &rest[len + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Makes variables `a_0`, `a_1` and so on of each marked array `a`.
fn take_apart(source: &str, constants: &BTreeMap<&str, u32>) -> Result<String, String> {
    // Arrays, their lengths, and where their scopes end.
    let mut open: Vec<(&str, u32, usize)> = Vec::new();
    let (mut out, mut from) = (String::with_capacity(source.len()), 0);
    for (at, word) in words(source) {
        open.retain(|(.., end)| at < *end);
        if at < from {
            continue;
        }
        if word == "registers" && source[..at].ends_with("/* ") && source[at..].starts_with(ARRAY_MARK) {
            let rest = &source[at + ARRAY_MARK.len()..];
            let declared = rest.split_once(';').map_or(rest, |(declared, _)| declared);
            let refuse = |why: &str| Err(format!("`var {declared};`: {why}"));
            let parts = declared.split_once(" = array<").and_then(|(name, of)| Some((name, of.strip_suffix(">()")?)));
            let Some((name, (ty, count))) = parts.and_then(|(name, of)| Some((name, of.rsplit_once(", ")?))) else {
                return refuse("no array of zeros");
            };
            let Some(count) = value(count, constants) else { return refuse("its length is no constant") };
            let variables: Vec<_> = (0..count).map(|i| format!("var {name}_{i} = {ty}()")).collect();
            out.push_str(&source[from..at - "/* ".len()]);
            out.push_str(&variables.join("; "));
            from = at + ARRAY_MARK.len() + declared.len();
            open.push((name, count, from + closing_brace(&source[from..]).unwrap_or(source.len() - from)));
        } else if let Some((name, count, _)) = open.iter().rev().find(|(name, ..)| *name == word) {
            let Some((index, _)) = source[at + name.len()..].strip_prefix('[').and_then(|i| i.split_once(']')) else {
                return Err(format!("`{name}` is used as a whole"));
            };
            let Some(number) = value(index, constants).filter(|number| number < count) else {
                return Err(format!("`{name}[{index}]` is no constant below {count}"));
            };
            out.push_str(&source[from..at]);
            out.push_str(&format!("{name}_{number}"));
            from = at + name.len() + index.len() + "[]".len();
        }
    }
    out.push_str(&source[from..]);
    Ok(out)
}

/// The whole numbers among the constants that a source declares at its outermost level, one a line.
fn constants(source: &str) -> BTreeMap<&str, u32> {
    let mut known = BTreeMap::new();
    for declared in source.lines().filter_map(|line| line.strip_prefix("const ")) {
        if let Some((name, text)) = declared.split_once(" = ")
            && let Some((text, _)) = text.split_once(';')
            && let Some(number) = value(text, &known)
        {
            known.insert(name, number);
        }
    }
    known
}

/// The number that an expression stands for.
fn value(text: &str, constants: &BTreeMap<&str, u32>) -> Option<u32> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    let number = sum(&mut tokens, constants)?;
    tokens.is_empty().then_some(number)
}

/// Takes a sum of products off the end of `tokens`, which are in reverse order.
fn sum(tokens: &mut Vec<&str>, constants: &BTreeMap<&str, u32>) -> Option<u32> {
    let mut total = product(tokens, constants)?;
    while let Some(operator) = tokens.pop_if(|token| matches!(*token, "+" | "-")) {
        let right = product(tokens, constants)?;
        total = if operator == "+" { total.checked_add(right)? } else { total.checked_sub(right)? };
    }
    Some(total)
}

fn product(tokens: &mut Vec<&str>, constants: &BTreeMap<&str, u32>) -> Option<u32> {
    let mut total = operand(tokens, constants)?;
    while let Some(operator) = tokens.pop_if(|token| matches!(*token, "*" | "/" | "%")) {
        let right = operand(tokens, constants)?;
        total = match operator {
            "*" => total.checked_mul(right)?,
            "/" => total.checked_div(right)?,
            _ => total.checked_rem(right)?,
        };
    }
    Some(total)
}

fn operand(tokens: &mut Vec<&str>, constants: &BTreeMap<&str, u32>) -> Option<u32> {
    let token = tokens.pop()?;
    if token == "(" {
        let number = sum(tokens, constants)?;
        return tokens.pop_if(|token| *token == ")").map(|_| number);
    }
    match token.strip_suffix('u') {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok(),
        _ => constants.get(token).copied(),
    }
}

/// Where the brace that an opening one before `text` belongs to stands.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.bytes().position(|byte| {
        depth += match byte {
            b'{' => 1,
            b'}' => -1,
            _ => 0,
        };
        depth == 0
    })
}

/// Whether a loop's body has a `break` or `continue` that belongs to no loop inside it.
fn leaves(body: &str) -> bool {
    let mut inside = 0;
    words(body).any(|(at, word)| {
        if at >= inside && matches!(word, "for" | "loop" | "while") {
            let open = body[at..].find('{').map_or(body.len(), |open| at + open + 1);
            inside = closing_brace(&body[open..]).map_or(body.len(), |len| open + len);
        }
        at >= inside && matches!(word, "break" | "continue")
    })
}

/// The words of a source that no point stands before, with their places: names of variables, not of components.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text.as_bytes()[from..].iter().position(|byte| is_part(*byte))?;
            let len = text.as_bytes()[start..].iter().position(|byte| !is_part(*byte));
            from = len.map_or(text.len(), |len| start + len);
            if start == 0 || text.as_bytes()[start - 1] != b'.' {
                return Some((start, &text[start..from]));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn copies_take_the_place_of_loops() {
        let out = unroll(
            "const N = 8u;\nconst HALF = N / 4u; // of N\n/* unroll */ for (var i = 0u; i < HALF; i++) { a[i] += b.i + ii[i]; }",
        );
        assert_eq!(
            out.as_deref(),
            Ok("const N = 8u;\nconst HALF = N / 4u; \n{ a[0u] += b.i + ii[0u]; }{ a[1u] += b.i + ii[1u]; }")
        );
        assert_eq!(
            unroll("for (var i = 0u; i < n; i++) { break; }").as_deref(),
            Ok("for (var i = 0u; i < n; i++) { break; }")
        );
        let own = "/* unroll */ for (var i = 0u; i < 1u; i++) { loop { if a { break; } for (;;) { continue; } } }";
        assert_eq!(unroll(own).as_deref(), Ok("{ loop { if a { break; } for (;;) { continue; } } }"));
        assert_eq!(
            unroll("const N = 1u;\n/* unroll */ for (var i = 1u; i < N; i++) { f(i); };").as_deref(),
            Ok("const N = 1u;\n;")
        );
    }

    #[test]
    fn loops_stand_in_each_other() {
        let inner = "/* unroll */ for (var j = 1u; j < 3u; j++) { f(i, j); }";
        let out = unroll(&format!("/* unroll */ for (var i = 0u; i < 2u; i++) {{ // i {{\n{inner}\n}}")).unwrap();
        assert_eq!(out.matches("f(0u, 1u); }{ f(0u, 2u);").count(), 1, "{out}");
        assert_eq!(out.matches("f(1u, 1u); }{ f(1u, 2u);").count(), 1, "{out}");
        assert_eq!(out.matches("f(").count(), 4, "{out}");
    }

    #[test]
    fn arrays_become_variables() {
        let source = "const N = 2u;\nfn f() { /* registers */ var a = array<vec4<f32>, N * 1u>(); a[(N + 1u) % 3u].x = b.a; { a[N - 1u] = ab[0]; } } var<private> a: u32;";
        let expected = "const N = 2u;\nfn f() { var a_0 = vec4<f32>(); var a_1 = vec4<f32>(); a_0.x = b.a; { a_1 = ab[0]; } } var<private> a: u32;";
        assert_eq!(unroll(source).as_deref(), Ok(expected));
        let own = unroll(
            "/* registers */ var a = array<f32, 2u>(); /* unroll */ for (var i = 0u; i < 2u; i++) { a[i] += x[i]; }",
        );
        assert_eq!(own.as_deref(), Ok("var a_0 = f32(); var a_1 = f32(); { a_0 += x[0u]; }{ a_1 += x[1u]; }"));
    }

    #[test]
    fn what_cannot_be_written_out_is_refused() {
        for (text, why) in [
            ("/* unroll */ for (var i = 0u; i < p.n; i++) { }", "no constants"),
            ("/* unroll */ for (var i = 0u; i < N; i++) { }", "no constants"),
            ("/* unroll */ for (var i = 0u; i <= 3u; i++) { }", "no constants"),
            ("/* unroll */ for (var i = 0u; i < 3u / 0u; i++) { }", "no constants"),
            ("/* unroll */ for (var i = 0u; i < 4u; i += 2u) { }", "do not follow"),
            ("/* unroll */ for (var i = 0u; i < 4u; i++) { if a { break; } }", "leaves it"),
            ("/* unroll */ for (var i = 0u; i < 4u; i++) { loop { break; } continue; }", "leaves it"),
            ("/* unroll */ for (var i = 0u; i < 4u; i++) { {", "no end"),
            ("/* unroll */ loop { }", "something else"),
            ("/* registers */ let a = 1;", "something else"),
            ("/* registers */ var a = array<f32, n>();", "length"),
            ("/* registers */ var a: array<f32, 2u>;", "no array of zeros"),
            ("/* registers */ var a = array<f32, 2u>(); a[2u] = 1;", "no constant below 2"),
            ("/* registers */ var a = array<f32, 2u>(); a[i] = 1;", "no constant below 2"),
            ("/* registers */ var a = array<f32, 2u>(); f(a);", "as a whole"),
        ] {
            let refused = unroll(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
