//! Questions about a text: SQuAD, MultiRC and ReCoRD.

use serde_json::{Map, Value, json};

use super::PresetMaker;
use crate::data::example::{Split, TaskExample, UNKNOWN_LABEL};
use crate::data::task::row::{Row, text_of, texts_of};

impl PresetMaker {
    /// "question: q context: c" with blanks round punctuation. The answers have them too, so that they can be said; the
    /// metric overlooks them.
    pub(super) fn squad(&self, row: Row) -> Result<Vec<TaskExample>, String> {
        if let Some(articles) = row.get("data") {
            return each(articles, |article| {
                each(need(article, "paragraphs")?, |paragraph| {
                    let context = need(paragraph, "context")?;
                    each(need(paragraph, "qas")?, |qa| {
                        let mut values = object(qa)?.clone();
                        values.insert("context".into(), context.clone());
                        Ok(vec![self.question(&Row::new(values))?])
                    })
                })
            });
        }
        Ok(vec![self.question(&row)?])
    }

    fn question(&self, row: &Row) -> Result<TaskExample, String> {
        let texts = match row.need(&["answers"])? {
            Value::Object(lists) => texts_of(lists.get("text").ok_or("answers has no key \"text\"")?)?,
            Value::Array(answers) => {
                answers.iter().map(|a| text_of(need(a, "text")?)).collect::<Result<_, String>>()?
            }
            _ => return Err("answers must be {\"text\": [...]} or [{\"text\": ...}, ...]".into()),
        };
        let references: Vec<String> = texts.iter().map(|text| spaced(text)).collect();
        let target =
            references.first().ok_or("there are no answers; the preset is for SQuAD 1.1, where all have some")?;
        let joined =
            format!("question: {} context: {}", spaced(&row.text(&["question"])?), spaced(&row.text(&["context"])?));
        Ok(TaskExample {
            source: format!("{}{}", self.prefix, single_blanks(&joined)),
            target: target.clone(),
            extra: row.get("id").map_or(Value::Null, |id| json!({ "id": id })),
            references,
        })
    }

    /// "multirc question: q answer: a paragraph: p", an example for every answer.
    pub(super) fn multirc(&self, row: Row, split: Split) -> Result<Vec<TaskExample>, String> {
        let Some(passage @ Value::Object(_)) = row.get("passage") else {
            return Ok(vec![self.answer(&row, split)?]);
        };
        let paragraph = row.get("idx").cloned().unwrap_or_default();
        each(need(passage, "questions")?, |question| {
            each(need(question, "answers")?, |answer| {
                let idx = json!({
                    "paragraph": paragraph,
                    "question": question.get("idx"),
                    "answer": answer.get("idx"),
                });
                let mut values = Map::new();
                values.insert("question".into(), need(question, "question")?.clone());
                values.insert("answer".into(), need(answer, "text")?.clone());
                values.insert("paragraph".into(), need(passage, "text")?.clone());
                values.insert("label".into(), answer.get("label").cloned().unwrap_or_default());
                values.insert("idx".into(), idx);
                Ok(vec![self.answer(&Row::new(values), split)?])
            })
        })
    }

    fn answer(&self, row: &Row, split: Split) -> Result<TaskExample, String> {
        let text = |column: &str| row.text(&[column]);
        let source = format!(
            "{}question: {} answer: {} paragraph: {}",
            self.prefix,
            text("question")?,
            text("answer")?,
            text("paragraph")?
        );
        let target = self.label(row, split)?;
        Ok(TaskExample {
            source: source.replace("<br>", " ").replace("<b>", "").replace("</b>", ""),
            references: vec![target.clone()],
            target,
            extra: row.need(&["idx"])?.clone(),
        })
    }

    /// "record query: q entities: a, b passage: p"; for training an example for every answer.
    pub(super) fn record(&self, row: Row, split: Split) -> Result<Vec<TaskExample>, String> {
        let Some(passage @ Value::Object(_)) = row.get("passage") else {
            return self.cloze(&row, split);
        };
        let text = text_of(need(passage, "text")?)?;
        let chars: Vec<char> = text.chars().collect();
        let entities = each(need(passage, "entities")?, |entity| {
            let place = |key: &str| need(entity, key)?.as_u64().ok_or_else(|| format!("{key} is not a number"));
            let span = place("start")? as usize..=place("end")? as usize;
            let name = chars.get(span).ok_or("an entity lies outside its passage")?;
            Ok(vec![name.iter().collect::<String>()])
        })?;
        each(row.need(&["qas"])?, |qa| {
            let answers = match qa.get("answers") {
                Some(answers) => each(answers, |answer| Ok(vec![text_of(need(answer, "text")?)?]))?,
                None => Vec::new(),
            };
            let idx = json!({ "passage": row.get("idx"), "query": qa.get("idx") });
            let mut values = Map::new();
            values.insert("passage".into(), Value::from(text.as_str()));
            values.insert("query".into(), need(qa, "query")?.clone());
            values.insert("entities".into(), Value::from(sorted(entities.clone())));
            values.insert("answers".into(), Value::from(sorted(answers)));
            values.insert("idx".into(), idx);
            self.cloze(&Row::new(values), split)
        })
    }

    fn cloze(&self, row: &Row, split: Split) -> Result<Vec<TaskExample>, String> {
        let source = format!(
            "{}query: {} entities: {} passage: {}",
            self.prefix,
            row.text(&["query"])?,
            row.text(&["entities"])?,
            without_highlights(&row.text(&["passage"])?)
        );
        let mut references = row.get("answers").map_or(Ok(Vec::new()), texts_of)?;
        if references.is_empty() {
            if split != Split::Test {
                return Err("there are no answers".into());
            }
            references.push(UNKNOWN_LABEL.to_owned());
        }
        let taught = if split == Split::Train { references.len() } else { 1 };
        let extra = row.get("idx").cloned().unwrap_or_default();
        let example = |target: &String| TaskExample {
            source: source.clone(),
            target: target.clone(),
            references: references.clone(),
            extra: extra.clone(),
        };
        Ok(references.iter().take(taught).map(example).collect())
    }
}

/// Blanks round ASCII punctuation, as in T5 since 2022; the released checkpoints saw them round all characters but ASCII
/// letters, digits and underscores, those of accented letters included.
fn spaced(text: &str) -> String {
    let padded: String =
        text.chars().map(|c| if c.is_ascii_punctuation() { format!(" {c} ") } else { c.to_string() }).collect();
    single_blanks(&padded)
}

/// Runs of white space, by RE2's reckoning, as one blank each; none is removed.
fn single_blanks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let is_space = matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}');
        match is_space {
            true if out.ends_with(' ') => {}
            true => out.push(' '),
            false => out.push(c),
        }
    }
    out
}

/// The summary lines of a news text, which `@highlight` announces, as sentences.
fn without_highlights(passage: &str) -> String {
    const MARK: &str = "\n@highlight\n";
    let mut out = passage.to_owned();
    for end in ['.', '?', '!', '"', '\''] {
        out = out.replace(&format!("{end}{MARK}"), &format!("{end} "));
    }
    out.replace(MARK, ". ")
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

/// What `visit` makes of all items of a JSON list.
fn each<T>(list: &Value, visit: impl Fn(&Value) -> Result<Vec<T>, String>) -> Result<Vec<T>, String> {
    let items = list.as_array().ok_or("expected a list")?;
    Ok(items.iter().map(visit).collect::<Result<Vec<Vec<T>>, String>>()?.into_iter().flatten().collect())
}

fn need<'a>(value: &'a Value, key: &str) -> Result<&'a Value, String> {
    value.get(key).ok_or_else(|| format!("there is no key {key:?}"))
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "expected an object".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T5's `preprocessors_test.py`.
    #[test]
    fn blanks_round_punctuation() {
        assert_eq!(
            spaced("\"This  is a string with \"punctuation (1845-1986) \"."),
            " \" This is a string with \" punctuation ( 1845 - 1986 ) \" . "
        );
        assert_eq!(spaced("Café_1"), "Café _ 1");
    }

    #[test]
    fn highlights_become_sentences() {
        assert_eq!(without_highlights("A.\n@highlight\nB\n@highlight\nC \"d\"\n@highlight\nE"), "A. B. C \"d\" E");
    }
}
