//! Texts with columns in braces, and the filters that columns may pass, as Jinja writes them: `{tags | replace(";", " ")}`,
//! `{text | lower}`, and one of our own, `{text | letters}`.

use super::row::Row;

/// A text such as "question: {question} context: {page.text}".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::data) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(Column),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    /// One after the other.
    filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Replace {
        what: String,
        by: String,
    },
    /// All in lower case.
    Lower,
    /// Letters and digits alone, and a space for all white space between them.
    Letters,
}

impl Template {
    pub(in crate::data) fn parse(template: &str) -> Result<Template, String> {
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
                let filters = filters.map(Filter::parse).collect::<Result<_, _>>()?;
                let column = Column { name: name.trim().to_owned(), filters };
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
    pub(in crate::data) fn column(name: &str) -> Template {
        Template(vec![Part::Column(Column { name: name.to_owned(), filters: Vec::new() })])
    }

    pub(in crate::data) fn render(&self, row: &Row) -> Result<String, String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Ok(text.clone()),
                Part::Column(Column { name, filters }) => {
                    let text = row.text(&[name])?;
                    Ok(filters.iter().fold(text, |text, filter| filter.apply(&text)))
                }
            })
            .collect()
    }

    pub(in crate::data) fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Column(column) => Some(column.name.as_str()),
            Part::Text(_) => None,
        })
    }
}

impl Filter {
    fn parse(filter: &str) -> Result<Filter, String> {
        let filter = filter.trim();
        let arguments = filter.strip_prefix("replace(").and_then(|rest| rest.strip_suffix(')'));
        let arguments = arguments.map(|arguments| serde_json::from_str(&format!("[{arguments}]")));
        match (filter, arguments) {
            ("lower", _) => Ok(Filter::Lower),
            ("letters", _) => Ok(Filter::Letters),
            (_, Some(Ok::<(String, String), _>((what, by)))) if !what.is_empty() => Ok(Filter::Replace { what, by }),
            _ => Err(format!(
                "`{filter}` is no filter: write {{column | replace(\"a\", \"b\")}}, {{column | lower}} or {{column | letters}}"
            )),
        }
    }

    fn apply(&self, text: &str) -> String {
        match self {
            Filter::Replace { what, by } => text.replace(what, by),
            Filter::Lower => text.to_lowercase(),
            Filter::Letters => {
                let kept = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
                text.split_whitespace().map(kept).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let row = json!({"q": "why?", "page": {"text": "so", "n": [1, "two"]}, "a.b": "dotted", "none": null,
                           "say": " \u{201c}Well,\u{201d} I -- don\u{2019}t\t(12)!"});
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
            ("{say | letters} / {say|lower | letters}", "Well I dont 12 / well i dont 12"),
            ("", ""),
        ] {
            assert_eq!(rendered(template).unwrap(), text, "{template}");
        }
        for (template, message) in [
            ("{q", "a { without }"),
            ("q}", "a } without {"),
            ("{}", "without the name"),
            ("{a{b}", "without the name"),
            ("{q | upper}", "`upper` is no filter: write {column | replace("),
            (r#"{q | replace("", "b")}"#, "is no filter"),
            (r#"{q | replace("a")}"#, "is no filter"),
            ("{x}", "no column \"x\"; there are a.b, none, page, q, say"),
            ("{page}", "is an object, not a text: name one of its keys after a dot (n, text)"),
            ("{none}", "the column \"none\" is null"),
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.contains(message), "{template}: {error}");
        }
    }
}
