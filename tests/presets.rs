//! The tasks of the T5 paper: sources and targets to the letter, from every release that the presets read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use t5_wgpu::data::task::presets;
use t5_wgpu::data::{Split, TaskConfig, TaskExample};

/// A folder of its own for a test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("t5-wgpu-presets-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, contents: &str) {
        std::fs::write(self.0.join(name), contents).unwrap();
    }

    fn load(&self, declaration: &str, split: Split) -> Result<Vec<TaskExample>, String> {
        task(declaration).load(&self.0, split).map_err(|e| e.to_string())
    }

    /// (source, target) of every training example.
    fn texts(&self, declaration: &str) -> Vec<(String, String)> {
        self.load(declaration, Split::Train).unwrap().into_iter().map(|e| (e.source, e.target)).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn task(declaration: &str) -> TaskConfig {
    toml::from_str(declaration).unwrap()
}

fn pair(source: &str, target: &str) -> (String, String) {
    (source.to_owned(), target.to_owned())
}

fn preset_examples(preset: &str, split: Split, rows: &[Value]) -> Vec<TaskExample> {
    let folder = Folder::new(&format!("preset-{}-{split}", preset.replace('/', "-")));
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    folder.write("rows.jsonl", &lines.join("\n"));
    let languages = if preset == "wmt" { "source_language = \"en\"\ntarget_language = \"German\"\n" } else { "" };
    folder.load(&format!("preset = \"{preset}\"\n{split} = \"rows.jsonl\"\n{languages}"), split).unwrap()
}

/// Of the first example of one row.
#[track_caller]
fn assert_preset(preset: &str, row: Value, source: &str, target: &str) -> TaskExample {
    let example = preset_examples(preset, Split::Train, std::slice::from_ref(&row)).remove(0);
    assert_eq!((example.source.as_str(), example.target.as_str()), (source, target), "{preset} {row}");
    example
}

/// The examples of T5's `preprocessors_test.py` and of the docstrings of `preprocessors.py`.
#[test]
fn t5s_own_examples() {
    assert_preset(
        "wmt",
        json!({"en": "That is good.", "de": "Das ist gut."}),
        "translate English to German: That is good.",
        "Das ist gut.",
    );
    assert_preset(
        "cnn_dailymail",
        json!({"article": "An article.", "highlights": "A summary."}),
        "summarize: An article.",
        "A summary.",
    );
    let squad = assert_preset(
        "squad",
        json!({"id": "testid", "context": "Some context.", "question": "A question?",
               "answers": {"text": ["The answer.", "Another answer."]}}),
        "question: A question ? context: Some context . ",
        "The answer . ",
    );
    assert_eq!(squad.references, ["The answer . ", "Another answer . "]);
    assert_eq!(squad.extra, json!({"id": "testid"}));
    assert_preset(
        "glue/qqp",
        json!({"question1": "Why do I easily get bored of my friends?",
               "question2": "Why do I get bored of friends so quickly?", "label": 1, "idx": 10}),
        "qqp question1: Why do I easily get bored of my friends? question2: Why do I get bored of friends so quickly?",
        "duplicate",
    );
    let multirc = assert_preset(
        "super_glue/multirc",
        json!({"paragraph": "<b>Sent 1: </b>Once upon a time, there was a squirrel named Joey.<br><b>Sent 2: </b>Joey loved \
                             to go outside and play with his cousin Jimmy.",
               "question": "Why was Joey surprised the morning he woke up for breakfast?",
               "answer": "There was only pie to eat", "label": 1,
               "idx": {"paragraph": 5, "question": 1, "answer": 3}}),
        "multirc question: Why was Joey surprised the morning he woke up for breakfast? answer: There was only pie to eat \
         paragraph: Sent 1: Once upon a time, there was a squirrel named Joey. Sent 2: Joey loved to go outside and play \
         with his cousin Jimmy.",
        "True",
    );
    assert_eq!(multirc.extra, json!({"paragraph": 5, "question": 1, "answer": 3}));
    for (label, target) in
        [(2.8, "2.8"), (1.66, "1.6"), (2.5, "2.4"), (0.0, "0.0"), (5.0, "5.0"), (3.3, "3.2"), (4.75, "4.8")]
    {
        let row = json!({"sentence1": "Big news.", "sentence2": "No idea.", "label": label, "idx": 10});
        assert_preset("glue/stsb", row, "stsb sentence1: Big news. sentence2: No idea.", target);
    }
    assert_preset(
        "super_glue/wsc",
        json!({"text": "Mitchell asked Tom if he could lend some money.", "span1_text": "Tom", "span2_text": "he",
               "span2_index": 4, "label": 1, "idx": 0}),
        "wsc: Mitchell asked Tom if *he* could lend some money.",
        "Tom",
    );
    assert_preset(
        "dpr",
        json!({"sentence": "Bob asked Tom if he can lend some money.", "pronoun": "he", "candidates": ["Bob", "Tom"],
               "label": 1}),
        "wsc: Bob asked Tom if *he* can lend some money.",
        "Tom",
    );
    let record = json!({"passage": "This is the passage.", "query": "A @placeholder is a bird.",
                        "entities": ["penguin", "potato", "pigeon"], "answers": ["penguin", "pigeon"],
                        "idx": {"passage": 1, "query": 2}});
    let asked =
        "record query: A @placeholder is a bird. entities: penguin, potato, pigeon passage: This is the passage.";
    assert_preset("super_glue/record", record.clone(), asked, "penguin");
    let taught = preset_examples("super_glue/record", Split::Train, std::slice::from_ref(&record));
    assert_eq!(taught.iter().map(|e| e.target.as_str()).collect::<Vec<_>>(), ["penguin", "pigeon"]);
    let judged = preset_examples("super_glue/record", Split::Validation, &[record]);
    assert_eq!(judged.len(), 1);
    assert_eq!(judged[0].references, ["penguin", "pigeon"]);
}

/// Appendix D of the paper, with the keys in the order of the code; labels as numbers, words and truth values.
#[test]
fn the_tasks_of_glue_and_super_glue() {
    for (preset, row, source, target) in [
        ("glue/cola", json!({"sentence": "It rained.", "label": 1}), "cola sentence: It rained.", "acceptable"),
        ("glue/sst2", json!({"sentence": "dull", "label": 0}), "sst2 sentence: dull", "negative"),
        (
            "glue/mrpc",
            json!({"sentence2": "B", "sentence1": "A", "label": 0}),
            "mrpc sentence1: A sentence2: B",
            "not_equivalent",
        ),
        (
            "glue/mnli",
            json!({"premise": "P", "hypothesis": "H", "label": 2}),
            "mnli hypothesis: H premise: P",
            "contradiction",
        ),
        (
            "glue/mnli",
            json!({"sentence1": "P", "sentence2": "H", "gold_label": "neutral"}),
            "mnli hypothesis: H premise: P",
            "neutral",
        ),
        (
            "glue/qnli",
            json!({"question": "Q", "sentence": "S", "label": 1}),
            "qnli question: Q sentence: S",
            "not_entailment",
        ),
        (
            "glue/rte",
            json!({"sentence1": "A", "sentence2": "B", "label": 0}),
            "rte sentence1: A sentence2: B",
            "entailment",
        ),
        (
            "super_glue/boolq",
            json!({"question": "q", "passage": "p", "label": true}),
            "boolq passage: p question: q",
            "True",
        ),
        (
            "super_glue/boolq",
            json!({"question": "q", "passage": "p", "label": 0}),
            "boolq passage: p question: q",
            "False",
        ),
        (
            "super_glue/cb",
            json!({"premise": "P", "hypothesis": "H", "label": "contradiction"}),
            "cb hypothesis: H premise: P",
            "contradiction",
        ),
        (
            "super_glue/cb",
            json!({"premise": "P", "hypothesis": "H", "label": 2}),
            "cb hypothesis: H premise: P",
            "neutral",
        ),
        (
            "super_glue/copa",
            json!({"premise": "P", "choice1": "A", "choice2": "B", "question": "cause", "label": 1}),
            "copa choice1: A choice2: B premise: P question: cause",
            "choice2",
        ),
        (
            "super_glue/rte",
            json!({"premise": "P", "hypothesis": "H", "label": "entailment"}),
            "rte hypothesis: H premise: P",
            "entailment",
        ),
        (
            "super_glue/wic",
            json!({"word": "bed", "sentence1": "A", "sentence2": "B", "start1": 3, "label": false}),
            "wic sentence1: A sentence2: B word: bed",
            "False",
        ),
        ("wmt", json!({"translation": {"en": "Hi", "de": "Hallo"}}), "translate English to German: Hi", "Hallo"),
    ] {
        assert_preset(preset, row, source, target);
    }
    let hidden = preset_examples("glue/rte", Split::Test, &[json!({"sentence1": "A", "sentence2": "B", "idx": 3})]);
    assert_eq!((hidden[0].target.as_str(), &hidden[0].extra), ("<unk>", &json!({"idx": 3})));
    let secret = preset_examples("glue/rte", Split::Test, &[json!({"sentence1": "A", "sentence2": "B", "label": -1})]);
    assert_eq!(secret[0].target, "<unk>");
}

/// SuperGLUE and SQuAD as their authors publish them: nested.
#[test]
fn nested_releases() {
    let squad = json!({"version": "1.1", "data": [{"title": "t", "paragraphs": [
        {"context": "C-1", "qas": [{"id": "a", "question": "q?", "answers": [{"text": "x", "answer_start": 0}]},
                                   {"id": "b", "question": "r?", "answers": [{"text": "y", "answer_start": 2}]}]}]}]});
    let examples = preset_examples("squad", Split::Validation, &[squad]);
    assert_eq!(examples.len(), 2);
    assert_eq!(examples[1].source, "question: r ? context: C - 1");
    assert_eq!(examples[1].extra, json!({"id": "b"}));
    let multirc = json!({"idx": 7, "passage": {"text": "P<br>Q", "questions": [
        {"question": "q", "idx": 4, "answers": [{"text": "a", "idx": 9, "label": 0}, {"text": "b", "idx": 10, "label": 1}]}]}});
    let examples = preset_examples("super_glue/multirc", Split::Validation, &[multirc]);
    assert_eq!(examples[1].source, "multirc question: q answer: b paragraph: P Q");
    assert_eq!((examples[0].target.as_str(), examples[1].target.as_str()), ("False", "True"));
    assert_eq!(examples[1].extra, json!({"paragraph": 7, "question": 4, "answer": 10}));
    let record = json!({"idx": 1, "passage": {"text": "żółw Bob ran\n@highlight\nAnn won",
            "entities": [{"start": 5, "end": 7}, {"start": 24, "end": 26}, {"start": 5, "end": 7}]},
        "qas": [{"idx": 2, "query": "@placeholder won", "answers": [{"start": 24, "end": 26, "text": "Ann"}]}]});
    let examples = preset_examples("super_glue/record", Split::Validation, &[record]);
    assert_eq!(examples[0].source, "record query: @placeholder won entities: Ann, Bob passage: żółw Bob ran. Ann won");
    assert_eq!(examples[0].references, ["Ann"]);
    let wsc = json!({"idx": 3, "label": false, "text": "Bob saw him .",
                     "target": {"span1_text": "Bob", "span1_index": 0, "span2_text": "him", "span2_index": 2}});
    let judged = preset_examples("super_glue/wsc", Split::Validation, std::slice::from_ref(&wsc));
    assert_eq!((judged[0].source.as_str(), judged[0].target.as_str()), ("wsc: Bob saw *him* .", "Bob"));
    assert_eq!(judged[0].extra, json!({"label": false, "idx": 3}));
    let right = json!({"idx": 4, "label": true, "text": "Bob hurt himself .",
                       "target": {"span1_text": "Bob", "span1_index": 0, "span2_text": "himself", "span2_index": 2}});
    assert_eq!(preset_examples("super_glue/wsc", Split::Train, &[wsc, right]).len(), 1);
}

#[test]
fn glue_tsv_files() {
    let folder = Folder::new("glue-tsv");
    folder.write("cola.tsv", "gj04\t0\t*\tThem \"slept.\ngj04\t1\t\tThey slept.\n");
    let cola = "preset = \"glue/cola\"\ntrain = \"cola.tsv\"";
    assert_eq!(folder.texts(cola)[0], pair("cola sentence: Them \"slept.", "unacceptable"));
    folder.write("mrpc.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA\tB\n");
    let mrpc = "preset = \"glue/mrpc\"\ntrain = \"mrpc.tsv\"";
    assert_eq!(folder.texts(mrpc), [pair("mrpc sentence1: A sentence2: B", "equivalent")]);
    folder.write("stsb.tsv", "index\tsentence1\tsentence2\tscore\n0\tA\tB\t3.10\n");
    let stsb = "preset = \"glue/stsb\"\ntrain = \"stsb.tsv\"";
    assert_eq!(folder.texts(stsb), [pair("stsb sentence1: A sentence2: B", "3.2")]);
}

#[test]
fn presets_leave_room_for_changes() {
    let folder = Folder::new("overrides");
    folder.write("a.en", "Hi\n");
    folder.write("a.de", "Hallo\n");
    let files = "{ en = \"a.en\", de = \"a.de\" }";
    let languages = "source_language = \"de\"\ntarget_language = \"en\"";
    let wmt = format!("preset = \"wmt\"\ntrain = {files}\n{languages}\nprefix = \"de>en \"\nmax_target = 64");
    assert_eq!(folder.texts(&wmt), [pair("de>en Hallo", "Hi")]);
    let config = task(&wmt);
    assert_eq!(config.lengths(), (512, 64));
    assert_eq!(serde_json::to_value(config.resolved_metrics()).unwrap(), json!([{"name": "bleu", "tokenize": "intl"}]));
    folder.write("b.jsonl", "{\"sentence\": \"S\", \"gold\": 1}\n");
    let sst = "preset = \"glue/sst2\"\ntrain = \"b.jsonl\"\nlabel = \"gold\"\nlabels = [\"bad\", \"good\"]";
    assert_eq!(folder.texts(sst), [pair("sst2 sentence: S", "good")]);
}

#[test]
fn every_preset_is_sound() {
    assert_eq!(presets().count(), 20);
    for preset in presets() {
        let languages = if preset == "wmt" { "source_language = \"en\"\ntarget_language = \"ro\"\n" } else { "" };
        let config = task(&format!("preset = \"{preset}\"\ntrain = \"a.jsonl\"\n{languages}"));
        config.check().unwrap_or_else(|e| panic!("{preset}: {e}"));
        assert!(!config.resolved_metrics().is_empty());
        let text = toml::to_string(&config).unwrap();
        assert_eq!(task(&text), config, "{text}");
    }
}

/// 219 rows that T5's own preprocessors turned into texts.
#[test]
fn presets_make_the_texts_that_t5_makes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tasks/presets.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let folder = Folder::new("t5");
    let mut seen = std::collections::BTreeSet::new();
    for case in file["cases"].as_array().unwrap() {
        folder.write("row.jsonl", &case["row"].to_string());
        let text = |key: &str| case.get(key).and_then(Value::as_str);
        let (preset, split) = (text("preset").unwrap(), text("split").unwrap());
        seen.insert(preset);
        let mut declared = format!("preset = \"{preset}\"\n{split} = \"row.jsonl\"\n");
        for key in ["source_language", "target_language"] {
            declared.extend(text(key).map(|language| format!("{key} = \"{language}\"\n")));
        }
        let split: Split = serde_json::from_value(json!(split)).unwrap();
        let made = folder.load(&declared, split);
        let pairs: Vec<Value> = match made {
            Err(e) if e.contains("there is no example") => Vec::new(),
            made => made.unwrap().iter().map(|e| json!([e.source, e.target])).collect(),
        };
        assert_eq!(json!(pairs), case["examples"], "{case}");
    }
    assert_eq!(seen.len(), presets().count());
}
