//! Supervised tasks: the sources and targets of the T5 paper to the letter, every file format, and errors that say where.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use t5_wgpu::data::cmudict::{CmuDict, is_dev, is_test};
use t5_wgpu::data::task::presets;
use t5_wgpu::data::{ExampleSource, Split, TaskConfig, TaskExample, TaskSet};
use t5_wgpu::tokenizer::Tokenizer;

/// A folder of its own for a test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("t5-wgpu-tasks-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, contents: &str) -> &Folder {
        let path = self.0.join(name);
        if name.ends_with(".gz") {
            let mut gz = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
            gz.write_all(contents.as_bytes()).unwrap();
            gz.finish().unwrap();
        } else {
            std::fs::write(&path, contents).unwrap();
        }
        self
    }

    fn load(&self, declaration: &str, split: Split) -> Result<Vec<TaskExample>, String> {
        task(declaration)?.load(&self.0, split).map_err(|e| e.to_string())
    }

    /// (source, references) of every example.
    #[track_caller]
    fn texts(&self, declaration: &str, split: Split) -> Vec<(String, Vec<String>)> {
        self.load(declaration, split).unwrap().into_iter().map(|e| (e.source, e.references)).collect()
    }

    #[track_caller]
    fn error(&self, declaration: &str) -> String {
        self.load(declaration, Split::Train).unwrap_err()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn task(declaration: &str) -> Result<TaskConfig, String> {
    toml::from_str(declaration).map_err(|e| e.to_string())
}

fn pair(source: &str, references: &[&str]) -> (String, Vec<String>) {
    (source.to_owned(), references.iter().map(|&text| text.to_owned()).collect())
}

#[test]
fn every_format_gives_the_same_examples() {
    let folder = Folder::new("formats");
    folder
        .write("a.tsv", "\u{feff}word\tpron\ncat\tK AE1 T\n\na, \"b\"\tx\n")
        .write("a.csv", "\u{feff}word,pron\r\ncat,K AE1 T\r\n\r\n\"a, \"\"b\"\"\",x\r\n")
        .write("bare.tsv.gz", "cat\tK AE1 T\na, \"b\"\tx\n")
        .write(
            "a.jsonl",
            "{\"word\": \"cat\", \"pron\": \"K AE1 T\", \"id\": 1}\n{\"pron\": \"x\", \"word\": \"a, \\\"b\\\"\"}\n",
        )
        .write("a.words", "cat\n\nonly here\na, \"b\"\n")
        .write("a.prons.gz", "K AE1 T\n\n \nx\n");
    let templates = "input = \"{word}\"\ntarget = \"{pron}\"\nprefix = \"say: \"\n";
    let expected = [pair("say: cat", &["K AE1 T"]), pair("say: a, \"b\"", &["x"])];
    for files in [
        "train = \"a.tsv\"",
        "train = \"a.csv\"",
        "train = \"bare.tsv.gz\"\ncolumns = [\"word\", \"pron\"]",
        "train = \"a.tsv\"\ncolumns = [\"word\", \"pron\"]\nheader = true",
        "train = \"a.jsonl\"",
        "train = { word = \"a.words\", pron = [\"a.prons.gz\"] }",
    ] {
        assert_eq!(folder.texts(&format!("{files}\n{templates}"), Split::Train), expected, "{files}");
    }
    // Two columns are source and target in that order.
    let bare = "train = \"bare.tsv.gz\"\ncolumns = [\"word\", \"pron\"]\nprefix = \"say: \"";
    assert_eq!(folder.texts(bare, Split::Train), expected);
}

#[test]
fn globs_lists_and_absolute_paths() {
    let folder = Folder::new("globs");
    folder.write("b[1].tsv", "source\ttarget\n1\tx\n").write("b2.tsv", "source\ttarget\n2\tx\n");
    folder.write("a.tsv", "source\ttarget\n3\tx\n");
    let sources = |files: &str| -> Vec<String> {
        folder.texts(&format!("train = {files}"), Split::Train).into_iter().map(|(source, _)| source).collect()
    };
    assert_eq!(sources("[\"b?*.tsv\", \"a.tsv\"]"), ["2", "1", "3"]);
    assert_eq!(sources("\"b[1].tsv\""), ["1"]);
    assert_eq!(sources(&format!("{:?}", folder.0.join("*.tsv"))), ["3", "2", "1"]);
    let config = task("train = \"*.tsv\"\nvalidation = \"a.tsv\"").unwrap();
    assert_eq!(config.files(&folder.0, Split::Train).unwrap().len(), 3);
    assert!(config.has(Split::Validation) && !config.has(Split::Test));
    assert!(config.files(&folder.0, Split::Test).unwrap_err().to_string().contains("no files for test"));
    assert!(folder.error("train = \"c*.tsv\"").contains("c*.tsv: no file matches"));
    assert!(folder.error("train = \"c.tsv\"").starts_with("cannot find "));
}

#[test]
fn references_are_grouped_for_evaluation_only() {
    let folder = Folder::new("groups");
    folder.write("a.tsv", "cat\tx\ndog\tz\ncat\ty\ncat\tx\n");
    let declared = "train = \"a.tsv\"\nvalidation = \"a.tsv\"\ncolumns = [\"source\", \"target\"]\n";
    assert_eq!(folder.load(declared, Split::Train).unwrap().len(), 4);
    assert_eq!(folder.texts(declared, Split::Validation), [pair("cat", &["x", "y"]), pair("dog", &["z"])]);
    let apart = format!("{declared}group_references = false");
    assert_eq!(folder.load(&apart, Split::Validation).unwrap().len(), 4);
}

#[test]
fn labels_become_words() {
    let folder = Folder::new("labels");
    folder.write("a.csv", "text,class\ngood,1\nbad,0\nfine,positive\nwho knows,-1\n");
    let declared =
        "train = \"a.csv\"\ninput = \"review: {text}\"\nlabel = \"class\"\nlabels = [\"negative\", \"positive\"]\n";
    let words: Vec<String> = folder.load(declared, Split::Train).unwrap().into_iter().map(|e| e.target).collect();
    assert_eq!(words, ["positive", "negative", "positive", "<unk>"]);
    let explained = format!("{declared}target = \"it is {{class}}\"");
    assert_eq!(folder.load(&explained, Split::Train).unwrap()[0].target, "it is positive");
    let metrics = task(&format!("{declared}metrics = [\"f1\", \"accuracy\"]")).unwrap().resolved_metrics();
    assert_eq!(metrics[0].labels, ["negative", "positive"]);
    folder.write("b.csv", "text,class\ngood,2\n");
    assert!(
        folder
            .error(&declared.replace("a.csv", "b.csv"))
            .contains("b.csv:2: the label \"2\" is none of negative, positive nor their numbers from 0")
    );
}

#[test]
fn scan_commands() {
    let folder = Folder::new("scan");
    folder.write("tasks.txt", "IN: jump twice OUT: I_JUMP I_JUMP\nIN: walk left OUT: I_TURN_LEFT I_WALK\n");
    let declared = "train = \"tasks.txt\"\nformat = \"scan\"";
    assert_eq!(
        folder.texts(declared, Split::Train),
        [pair("jump twice", &["I_JUMP I_JUMP"]), pair("walk left", &["I_TURN_LEFT I_WALK"])]
    );
    folder.write("tasks.txt", "IN: jump\n");
    assert!(folder.error(declared).contains("tasks.txt:1: expected a line like `IN:"));
}

#[test]
fn the_dictionary_falls_into_three_splits() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cmudict.dict.gz");
    let declared = format!("train = {path:?}\nvalidation = {path:?}\ntest = {path:?}\nprefix = \"say \"");
    let config = task(&declared).unwrap();
    let load = |split| config.load(std::path::Path::new(""), split).unwrap();
    let [train, validation, test] = [Split::Train, Split::Validation, Split::Test].map(load);
    let words = CmuDict::open(&path).unwrap().entries.len();
    assert_eq!(train.len() + validation.len() + test.len(), words);
    for part in [&validation, &test] {
        assert!((words / 22..words / 18).contains(&part.len()), "{} of {words}", part.len());
    }
    let word = |example: &TaskExample| example.source.strip_prefix("say ").unwrap().to_owned();
    assert!(train.iter().all(|e| !is_dev(&word(e)) && !is_test(&word(e)) && e.references.len() == 1));
    assert!(validation.iter().all(|e| is_dev(&word(e))) && test.iter().all(|e| is_test(&word(e))));
    assert!(validation.iter().any(|e| e.references.len() > 1));
    let metrics: Vec<String> = config.resolved_metrics().iter().flat_map(|metric| metric.names()).collect();
    assert_eq!(metrics, ["sequence_error", "per"]);
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
    assert_eq!(folder.texts(cola, Split::Train)[0], pair("cola sentence: Them \"slept.", &["unacceptable"]));
    folder.write("mrpc.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA\tB\n");
    let mrpc = "preset = \"glue/mrpc\"\ntrain = \"mrpc.tsv\"";
    assert_eq!(folder.texts(mrpc, Split::Train), [pair("mrpc sentence1: A sentence2: B", &["equivalent"])]);
    folder.write("stsb.tsv", "index\tsentence1\tsentence2\tscore\n0\tA\tB\t3.10\n");
    let stsb = "preset = \"glue/stsb\"\ntrain = \"stsb.tsv\"";
    assert_eq!(folder.texts(stsb, Split::Train), [pair("stsb sentence1: A sentence2: B", &["3.2"])]);
}

#[test]
fn presets_leave_room_for_changes() {
    let folder = Folder::new("overrides");
    folder.write("a.en", "Hi\n").write("a.de", "Hallo\n");
    let files = "{ en = \"a.en\", de = \"a.de\" }";
    let languages = "source_language = \"de\"\ntarget_language = \"en\"";
    let wmt = format!("preset = \"wmt\"\ntrain = {files}\n{languages}\nprefix = \"de>en \"\nmax_target = 64");
    assert_eq!(folder.texts(&wmt, Split::Train), [pair("de>en Hallo", &["Hi"])]);
    let config = task(&wmt).unwrap();
    assert_eq!(config.lengths(), (512, 64));
    assert_eq!(serde_json::to_value(config.resolved_metrics()).unwrap(), json!([{"name": "bleu", "tokenize": "intl"}]));
    folder.write("b.jsonl", "{\"sentence\": \"S\", \"gold\": 1}\n");
    let sst = "preset = \"glue/sst2\"\ntrain = \"b.jsonl\"\nlabel = \"gold\"\nlabels = [\"bad\", \"good\"]";
    assert_eq!(folder.texts(sst, Split::Train), [pair("sst2 sentence: S", &["good"])]);
}

#[test]
fn every_preset_is_sound() {
    assert_eq!(presets().count(), 20);
    for preset in presets() {
        let languages = if preset == "wmt" { "source_language = \"en\"\ntarget_language = \"ro\"\n" } else { "" };
        let config = task(&format!("preset = \"{preset}\"\ntrain = \"a.jsonl\"\n{languages}")).unwrap();
        config.check().unwrap_or_else(|e| panic!("{preset}: {e}"));
        assert!(!config.resolved_metrics().is_empty());
        let text = toml::to_string(&config).unwrap();
        assert_eq!(task(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn token_sets_skip_cut_or_refuse_what_is_too_long() {
    let folder = Folder::new("sets");
    folder.write("a.tsv", "abc\tx\nabcd\tx\nab\txyzw\n");
    let open = |too_long: &str, max_source: usize| {
        let declared = format!(
            "train = \"a.tsv\"\ncolumns = [\"source\", \"target\"]\nprefix = \">\"\nmax_source = {max_source}\n\
             max_target = 4\ntoo_long = \"{too_long}\""
        );
        TaskSet::open(&task(&declared).unwrap(), &folder.0, Split::Train, &Tokenizer::bytes())
    };
    let skipped = open("skip", 5).unwrap();
    assert_eq!((skipped.n_examples(), skipped.skipped_too_long(), skipped.truncated()), (1, 2, 0));
    assert_eq!(skipped.texts()[0].source, ">abc");
    assert_eq!(skipped.examples()[0].source, Tokenizer::bytes().encode_with_eos(">abc").unwrap());
    let cut = open("truncate", 5).unwrap();
    assert_eq!((cut.n_examples(), cut.skipped_too_long(), cut.truncated()), (3, 0, 2));
    assert_eq!(cut.examples()[1].source, Tokenizer::bytes().encode_with_eos(">abc").unwrap());
    assert_eq!((cut.texts()[1].source.as_str(), cut.lengths(0)), (">abcd", vec![(5, 2), (5, 2), (4, 4)]));
    assert_eq!(cut.example(7, 2).unwrap(), cut.examples()[2]);
    let refused = open("error", 5).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:2: 6 source and 2 target tokens"), "{refused}");
    assert!(open("skip", 2).unwrap_err().to_string().contains("all 3 examples for train are longer than 2 source"));
    assert!(open("truncate", 1).unwrap_err().to_string().contains("raise max_source"));
}

#[test]
fn bad_files_name_file_and_line() {
    let folder = Folder::new("bad-files");
    for (name, contents, more, message) in [
        ("a.tsv", "source\ttarget\na\tb\nno tab\n", "", "a.tsv:3: 1 column(s), expected 2: source, target"),
        ("b.csv", "source,target\na,b\nc\n", "", "b.csv:3: 1 column(s), expected 2: source, target"),
        ("c.jsonl", "{\"source\": \"a\"\n", "", "c.jsonl:1: not valid JSON"),
        ("d.jsonl", "[1]\n", "", "d.jsonl:1: every line must be a JSON object"),
        (
            "e.jsonl",
            "{\"source\": \"a\", \"goal\": 1}\n",
            "",
            "e.jsonl:1: there is no column \"target\"; there are goal, source",
        ),
        ("f.jsonl", "{\"source\": {\"en\": 1}, \"target\": 2}\n", "", "f.jsonl:1: the column \"source\" is an object"),
        ("g.tsv", "source\ttarget\n \tb\n", "", "g.tsv:2: the source is empty"),
        ("h.tsv", "source\ttarget\na\t\n", "", "h.tsv:2: the target is empty"),
        ("i.tsv", "source\ttarget\n", "", "there is no example for train in"),
        ("j.tsv", "", "", "j.tsv: the file holds no text"),
        ("k.dat", "x", "", "k.dat: the name does not end in .tsv, .csv"),
        (
            "l.jsonl",
            "{\"sentence\": \"a\"}\n",
            "preset = \"glue/cola\"",
            "l.jsonl:1: there is no column \"label\"; there are sentence",
        ),
        (
            "m.jsonl",
            "{\"sentence\": \"a\", \"label\": 2}\n",
            "preset = \"glue/cola\"",
            "none of unacceptable, acceptable",
        ),
        (
            "n.jsonl",
            "{\"question\": \"q\", \"context\": \"c\", \"answers\": {\"text\": []}}\n",
            "preset = \"squad\"",
            "n.jsonl:1: there are no answers",
        ),
    ] {
        let error = folder.write(name, contents).error(&format!("train = \"{name}\"\n{more}"));
        assert!(error.contains(message), "{error}");
    }
    folder.write("a.en", "1\n2\n3\n").write("a.de", "1\n2\n");
    let error = folder.error("train = { source = \"a.en\", target = \"a.de\" }");
    assert!(error.contains("a.en:3: ") && error.contains("a.de ends at line 2: parallel files must match"), "{error}");
    std::fs::write(folder.0.join("latin.csv"), b"source,target\na,\xE9\n").unwrap();
    let error = folder.error("train = \"latin.csv\"");
    assert!(error.contains("latin.csv:2: ") && error.contains("UTF-8"), "{error}");
}

#[test]
fn bad_declarations_name_the_key() {
    for (declared, message) in [
        ("input = \"{a}\"", "the task names no files: set train"),
        ("train = []", "no file is named"),
        ("train = 3", "a path, a list of paths, or a table of parallel files"),
        ("tran = \"a.tsv\"", "unknown field `tran`"),
        ("train = \"a.tsv\"\nformat = \"xml\"", "unknown variant `xml`"),
        ("train = \"a.tsv\"\nmetrics = [\"blue\"]", "there is no metric \"blue\"; there are accuracy"),
        (
            "train = \"a.tsv\"\nmetrics = [\"per\", { name = \"per\", ignore = \"012\" }]",
            "two metrics give a score \"per\": rename one",
        ),
        ("train = \"a.tsv\"\nmetrics = [\"f1\"]", "the metric f1 needs two labels"),
        (
            "train = \"a.tsv\"\ncolumns = [\"a\", \"b\", \"c\"]",
            "there is no column \"source\"; there are a, b, c: set input",
        ),
        ("train = \"a.tsv\"\ncolumns = [\"a\", \"a\"]", "columns names \"a\" twice"),
        ("train = \"a.tsv\"\ncolumns = [\"a\", \"b\"]\ninput = \"{c}\"", "there is no column \"c\"; there are a, b"),
        ("train = \"a.tsv\"\ninput = \"{c\"", "a { without }"),
        ("train = \"a.tsv\"\nheader = false", "header = false needs columns"),
        ("train = \"a.jsonl\"\ncolumns = [\"a\", \"b\"]", "columns and header are for tsv and csv files"),
        ("train = { a = \"x\", b = \"y\" }\nformat = \"tsv\"", "parallel files hold lines"),
        ("train = { a = \"x\", b = \"y\" }", "there is no column \"source\"; there are a, b"),
        ("train = { a = \"x\", b = \"y\" }\nvalidation = \"z.tsv\"", "the same columns of parallel files"),
        ("train = \"a.tsv\"\nlabel = \"y\"", "label needs labels"),
        ("train = \"a.tsv\"\nlabels = [\"a\", \"b\"]", "labels needs label"),
        ("train = \"a.tsv\"\nmax_source = 1", "room for 2 tokens"),
        ("train = \"a.tsv\"\nsource_language = \"en\"", "are for the preset \"wmt\""),
        ("train = \"a.tsv\"\npreset = \"glue/colla\"", "there is no preset \"glue/colla\"; there are glue/cola,"),
        ("train = \"a.tsv\"\npreset = \"glue/wnli\"", "trains on no WNLI"),
        ("train = \"a.tsv\"\npreset = \"glue/cola\"\ninput = \"{x}\"", "leave input and target out"),
        ("train = \"a.tsv\"\npreset = \"squad\"\nlabel = \"x\"", "has no labels"),
        ("train = \"a.tsv\"\npreset = \"wmt\"", "needs source_language and target_language"),
        (
            "train = \"a.tsv\"\npreset = \"wmt\"\nsource_language = \"tlh\"\ntarget_language = \"en\"",
            "the language \"tlh\" has no name here",
        ),
    ] {
        let error = task(declared).and_then(|config| config.check().map_err(|e| e.to_string())).unwrap_err();
        assert!(error.contains(message), "{declared}: {error}");
    }
}

/// 219 rows that T5's own preprocessors turned into texts.
#[test]
fn presets_make_the_texts_that_t5_makes() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tasks/presets.json");
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
