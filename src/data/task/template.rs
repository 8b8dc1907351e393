//! Texts with columns in braces, and the one filter that columns may pass: `{tags | replace(";", " ")}`, as Jinja writes it.

use super::row::Row;

/// A text such as "question: {question} context: {page.text}".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(Column),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    /// (what, by what), one after the other.
    replacements: Vec<(String, String)>,
}

impl Template {
    pub(super) fn parse(template: &str) -> Result<Template, String> {
        let bad =
            |what: &str| format!("{what} in the template {template:?}; write {{{{ or }}}} for a brace of the text");
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
            } else if brace == "{" {
                let (name, after) = rest.split_once('}').ok_or_else(|| bad("a { without }"))?;
                let (name, filters) = name.split_once('|').map_or((name, None), |(name, rest)| (name, Some(rest)));
                if name.trim().is_empty() || name.contains('{') {
                    return Err(bad("a { without the name of a column and }"));
                }
                let filters = filters.iter().flat_map(|filters| filters.split('|'));
                let replacements = filters.map(replacement).collect::<Result<_, _>>()?;
                let column = Column { name: name.trim().to_owned(), replacements };
                parts.extend([Part::Text(std::mem::take(&mut text)), Part::Column(column)]);
                rest = after;
            } else {
                return Err(bad("a } without {"));
            }
        }
        parts.push(Part::Text(text + rest));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Template(parts))
    }

    /// "{column}"
    pub(super) fn column(name: &str) -> Template {
        Template(vec![Part::Column(Column { name: name.to_owned(), replacements: Vec::new() })])
    }

    pub(super) fn render(&self, row: &Row) -> Result<String, String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Ok(text.clone()),
                Part::Column(Column { name, replacements }) => {
                    let text = row.text(&[name])?;
                    Ok(replacements.iter().fold(text, |text, (what, by)| text.replace(what, by)))
                }
            })
            .collect()
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Column(column) => Some(column.name.as_str()),
            Part::Text(_) => None,
        })
    }
}

/// Reads `replace("a", "b")`.
fn replacement(filter: &str) -> Result<(String, String), String> {
    let arguments = filter.trim().strip_prefix("replace(").and_then(|rest| rest.strip_suffix(')'));
    match arguments.map(|arguments| serde_json::from_str::<(String, String)>(&format!("[{arguments}]"))) {
        Some(Ok((what, by))) if !what.is_empty() => Ok((what, by)),
        _ => Err(format!("`{}` is no filter: write {{column | replace(\"a\", \"b\")}}", filter.trim())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let row = json!({"q": "why?", "page": {"text": "so", "n": [1, "two"]}, "a.b": "dotted", "none": null});
        Template::parse(template)?.render(&Row::new(row.as_object().unwrap().clone()))
    }

    #[test]
    fn templates() {
        for (template, text) in [
            ("{q}", "why?"),
            ("q: {q} c: {page.text}.", "q: why? c: so."),
            ("{{q}} {{{q}}}", "{q} {why?}"),
            ("{page.n.1}{page.n}{a.b}{ q }", "two1, twodottedwhy?"),
            (r#"{q | replace("?", "!\t")}{ a.b|replace("t", "")|replace("do","{") }"#, "why!\t{ed"),
            ("", ""),
        ] {
            assert_eq!(rendered(template).unwrap(), text, "{template}");
        }
        for (template, message) in [
            ("{q", "a { without }"),
            ("q}", "a } without {"),
            ("{}", "without the name"),
            ("{a{b}", "without the name"),
            ("{q | lower}", "`lower` is no filter: write {column | replace("),
            (r#"{q | replace("", "b")}"#, "is no filter"),
            (r#"{q | replace("a")}"#, "is no filter"),
            ("{x}", "no column \"x\"; there are a.b, none, page, q"),
            ("{page}", "is an object, not a text: name one of its keys after a dot (n, text)"),
            ("{none}", "the column \"none\" is null"),
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.contains(message), "{template}: {error}");
        }
    }
}
