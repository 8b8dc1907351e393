//! Supervised tasks: every file format, templates, labels, references, and errors that say where.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use t5_wgpu::data::cmudict::{CmuDict, split_of};
use t5_wgpu::data::{Split, TaskConfig, TaskExample, TaskSet};
use t5_wgpu::tokenizer::{Tokenizer, TrainOptions, train};

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
    // What a file is called says something of its rows, where nothing in them does.
    folder.write("hun_large.train.gz", "1\tx\n").write("tur_large.train", "2\ty\n");
    let declared = "train = \"*_large.train*\"\nformat = \"tsv\"\ncolumns = [\"lemma\", \"form\"]\ntarget = \"{form}\"\n\
                    input = '{file | replace(\"_large\", \"\")}: {lemma}'";
    assert_eq!(folder.texts(declared, Split::Train), [pair("hun: 1", &["x"]), pair("tur: 2", &["y"])]);
    let own = declared.replace("lemma", "file");
    assert_eq!(folder.texts(&own, Split::Train)[0], pair("1: 1", &["x"]), "a column of the file's own");
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
fn answers_to_choose_from() {
    let folder = Folder::new("choices");
    folder.write("t.tsv", "gap\tgood\tbad\nHe _ old.\tis\tare\nThey _ old.\tare\tis\n");
    folder.write("twice.tsv", "gap\tgood\tbad\na\tx\tx\n");
    let declared = |file: &str, choices: &str| {
        format!("validation = \"{file}\"\ninput = \"{{gap}}\"\ntarget = \"{{good}}\"\nchoices = {choices}\n")
    };
    let both = "[\"{bad}\", \"{good}\"]";
    let examples = folder.load(&declared("t.tsv", both), Split::Validation).unwrap();
    let choices: Vec<Vec<&str>> = examples.iter().map(TaskExample::choices).collect();
    assert_eq!(choices, [["are", "is"], ["is", "are"]]);
    assert_eq!(examples[1].target, "are");
    assert!(task(&declared("t.tsv", both)).unwrap().resolved_metrics().is_empty());
    for (declaration, what) in [
        (declared("twice.tsv", both), "twice.tsv:2: two choices are the same: \"x\""),
        (
            declared("t.tsv", "[\"{bad}\", \"no\"]"),
            "t.tsv:2: the target \"is\" is none of the choices [\"are\", \"no\"]",
        ),
        (declared("t.tsv", "[\"{bad}\"]"), "choices needs two"),
        (declared("t.tsv", both) + "group_references = true", "leave group_references out"),
        (declared("t.tsv", "[\"{worse}\", \"{good}\"]"), "worse"),
    ] {
        let error = folder.load(&declaration, Split::Validation).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
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
    assert!(train.iter().all(|e| split_of(&word(e)) == Split::Train && e.references.len() == 1));
    assert!(validation.iter().all(|e| split_of(&word(e)) == Split::Validation));
    assert!(test.iter().all(|e| split_of(&word(e)) == Split::Test));
    assert!(validation.iter().any(|e| e.references.len() > 1));
    let metrics: Vec<String> = config.resolved_metrics().iter().flat_map(|metric| metric.names()).collect();
    assert_eq!(metrics, ["sequence_error", "per"]);
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
    let lengths: Vec<_> = cut.examples().iter().map(t5_wgpu::batch::Example::lengths).collect();
    assert_eq!((cut.texts()[1].source.as_str(), lengths), (">abcd", vec![(5, 2), (5, 2), (4, 4)]));
    let refused = open("error", 5).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:2: 6 source and 2 target tokens"), "{refused}");
    let refused = open("skip", 2).unwrap_err().to_string();
    assert!(
        refused.starts_with("all 3 examples for train in ") && refused.contains("a.tsv are longer than 2"),
        "{refused}"
    );
    assert!(open("truncate", 1).unwrap_err().to_string().contains("raise max_source"));
}

#[test]
fn characters_without_a_piece_are_counted_and_named() {
    let folder = Folder::new("unknown");
    folder.write("a.tsv", "ab\tğ ü\nab\tba\nüb\ta\n");
    let declared = task("train = \"a.tsv\"\ncolumns = [\"source\", \"target\"]").unwrap();
    let text = ["ab ba abba baab"; 4].map(|line| Ok(line.to_owned()));
    let options = TrainOptions { vocab_size: 8, sentinels: 2, ..TrainOptions::default() };
    let own = train(text.into_iter(), &options).unwrap().tokenizer;
    for (tokenizer, unknown) in [(own, (2, BTreeSet::from(['ğ', 'ü']))), (Tokenizer::bytes(), (0, BTreeSet::new()))] {
        let set = TaskSet::open(&declared, &folder.0, Split::Train, &tokenizer).unwrap();
        assert_eq!(set.unknown(&tokenizer).unwrap(), unknown);
    }
}

#[test]
fn bad_files_name_file_and_line() {
    let folder = Folder::new("bad-files");
    for (name, contents, more, message) in [
        ("a.tsv", "source\ttarget\na\tb\nno tab\n", "", "a.tsv:3: 1 column(s), expected 2: source, target"),
        ("b.csv", "source,target\na,b\nc\n", "", "b.csv:3: 1 column(s), expected 2: source, target"),
        ("c.jsonl", "{\"source\": \"a\"\n", "", "c.jsonl:1: not valid JSON"),
        ("d.jsonl", "{\"source\": \"a\", \"target\": \"b\"}\n[1]\n", "", "d.jsonl:2: every line must be a JSON object"),
        ("array.json", "[\n{\"source\": 1, \"target\": 2},\n\n7]", "", "array.json:4: every item of the array"),
        ("cut.json", "[{\"source\": 1, \"target\": 2},\n", "", "the file begins as an array"),
        ("null.jsonl", "{\"source\": \"a\", \"target\": null}", "", "null.jsonl:1: the column \"target\" is null"),
        ("nan.jsonl", "{\"source\": \"a\", \"target\": NaN}", "", "the column \"target\" is NaN, which is no text"),
        (
            "unanswerable.jsonl",
            "{\"source\": \"a\", \"answers\": {\"text\": [], \"answer_start\": []}}",
            "target = \"{answers.text.0}\"",
            "the column \"answers.text\" is an empty list (to leave such rows out: --on-bad-row skip",
        ),
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
fn bad_rows_are_left_out_and_counted_if_asked() {
    let folder = Folder::new("bad-rows");
    folder.write("a.tsv", "source\ttarget\na\tb\nno tab\nc\t\n\td\ne\tf\n");
    folder.write("a.csv", "source,target\na,b\nc\nd,\ne,f\n");
    folder.write("a.jsonl", "{\"source\": \"a\", \"target\": \"b\"}\n{\n[]\n{\"source\": NaN, \"target\": 1}\n{\"source\": \"e\", \"target\": \"f\"}\n");
    std::fs::write(folder.0.join("latin.tsv"), b"source\ttarget\na\tb\nc\t\xE9\ne\tf\n").unwrap();
    std::fs::write(folder.0.join("latin.csv"), b"source,target\na,b\nc,\xE9\ne,f\n").unwrap();
    for (name, bad, first) in [
        ("a.tsv", 3, "a.tsv:3: 1 column(s)"),
        ("a.csv", 2, "a.csv:3: 1 column(s)"),
        ("a.jsonl", 3, "a.jsonl:2: not valid JSON"),
        ("latin.tsv", 1, "latin.tsv:3: not UTF-8"),
        ("latin.csv", 1, "latin.csv:3: not UTF-8"),
    ] {
        let config = task(&format!("train = \"{name}\"\non_bad_row = \"skip\"")).unwrap();
        let set = TaskSet::open(&config, &folder.0, Split::Train, &Tokenizer::bytes()).unwrap();
        let sources: Vec<&str> = set.texts().iter().map(|text| text.source.as_str()).collect();
        assert_eq!((sources, set.left_out().bad), (vec!["a", "e"], bad), "{name}");
        let found = set.findings("t", &config, Split::Train, &Tokenizer::bytes()).unwrap().join("\n");
        assert!(found.contains(&format!("{bad} rows for train are no examples and left out; the first: ")), "{found}");
        assert!(found.contains(first), "{found}");
        assert!(folder.error(&format!("train = \"{name}\"\non_bad_row = \"error\"")).contains("--on-bad-row skip"));
    }
    folder.write("none.tsv", "source\ttarget\na\t\n");
    let error = folder.error("train = \"none.tsv\"\non_bad_row = \"skip\"");
    assert!(error.contains("1 rows are left out, the first as") && error.contains("the target is empty"), "{error}");
}

#[test]
fn a_first_row_that_names_the_columns_is_no_example() {
    let folder = Folder::new("headers");
    let pairs = "columns = [\"source\", \"target\"]";
    let words = "columns = [\"word\", \"sound\"]";
    for (number, (first, columns, is_header)) in [
        ("source\ttarget", pairs, true),
        ("Input_Text\ttarget_text", pairs, true),
        ("input\ttarget", pairs, true),
        ("source_text\ttarget_text", pairs, true),
        ("input\tAH0 N P UH2 T", pairs, false),
        ("source\ttarget", words, false),
        ("word\tsound", words, true),
    ]
    .into_iter()
    .enumerate()
    {
        let names = [format!("{number}.tsv"), format!("{number}.csv")];
        folder.write(&names[0], &format!("{first}\nabc\tcba\n"));
        folder.write(&names[1], &format!("{}\nabc,cba\n", first.replace('\t', ",")));
        for name in names {
            let config = task(&format!("train = \"{name}\"\n{columns}")).unwrap();
            let set = TaskSet::open(&config, &folder.0, Split::Train, &Tokenizer::bytes()).unwrap();
            assert_eq!((set.n_examples(), set.left_out().headers.len()), if is_header { (1, 1) } else { (2, 0) });
            let found = set.findings("t", &config, Split::Train, &Tokenizer::bytes()).unwrap().join("\n");
            assert_eq!(found.contains("names the columns and is no example"), is_header, "{found}");
            let kept = folder.texts(&format!("train = \"{name}\"\n{columns}\nheader = false"), Split::Train);
            assert_eq!(kept.len(), 2);
        }
    }
}

#[test]
fn json_as_python_writes_it() {
    let folder = Folder::new("python-json");
    folder
        .write("array.json", "[{\"source\": \"a\", \"target\": \"b\"}, {\"source\": \"c\", \"target\": \"d\"}]")
        .write("lines.json", "\u{feff}[\n  {\"source\": \"a\",\n   \"target\": \"b\"},\n\n{\"source\": \"c\", \"target\": \"d\"}\n]\n")
        .write("nan.jsonl", "{\"source\": \"a\", \"target\": \"b\", \"score\": NaN}\n{\"source\": \"c\", \"x\": [-Infinity], \"target\": \"d\"}\n")
        .write("long.jsonl", "{\"source\": -12345678901234567890123, \"target\": 9007199254740993}\n");
    let both = vec![pair("a", &["b"]), pair("c", &["d"])];
    for name in ["array.json", "lines.json", "nan.jsonl"] {
        assert_eq!(folder.texts(&format!("train = \"{name}\""), Split::Train), both, "{name}");
    }
    let digits = [pair("-12345678901234567890123", &["9007199254740993"])];
    assert_eq!(folder.texts("train = \"long.jsonl\"", Split::Train), digits);
}

/// Findings about examples with these targets.
fn findings(folder: &Folder, targets: &[&str], tokenizer: &Tokenizer) -> String {
    let line =
        |target: &&str| serde_json::json!({"source": format!("say {target}"), "target": target}).to_string() + "\n";
    folder.write("found.jsonl", &targets.iter().map(line).collect::<String>());
    let config = task("train = \"found.jsonl\"").unwrap();
    let set = TaskSet::open(&config, &folder.0, Split::Train, tokenizer).unwrap();
    set.findings("t", &config, Split::Train, tokenizer).unwrap().join("\n")
}

#[test]
fn targets_that_do_not_come_back_from_the_tokenizer_are_counted() {
    let folder = Folder::new("lost");
    let lines = ["one two three", "a b c", "list tab two spaces wide joined"].map(|line| Ok(line.to_owned()));
    let options = TrainOptions {
        vocab_size: 200,
        sentinels: 5,
        character_coverage: 1.0,
        allow_smaller: true,
        ..TrainOptions::default()
    };
    let own = train(lines.into_iter(), &options).unwrap().tokenizer;
    let targets = ["one\ntwo", "a\tb", "a  b", "\u{ff41}", "one two"];
    let found = findings(&folder, &targets, &own);
    assert!(found.contains("4 of 5 train targets come back from the tokenizer as another text"), "{found}");
    for lost in ["line ends", "tabs", "spaces in a row or at an end", "\u{ff41}"] {
        assert!(found.contains(lost), "{lost}: {found}");
    }
    assert_eq!(findings(&folder, &targets, &Tokenizer::bytes()), "");
    let spiece = Tokenizer::open("tests/data/tokenizers/t5-small.rebuilt.spiece.model").unwrap();
    let found = findings(&folder, &["a\u{200d}b", "a b"], &spiece);
    assert!(found.contains("1 of 2 train targets come back") && found.contains("U+200D"), "{found}");
}

#[test]
fn special_tokens_within_texts_are_counted() {
    let folder = Folder::new("special");
    let folder_of = |name: &str| Tokenizer::open(&format!("tests/data/tokenizers/{name}")).unwrap();
    for tokenizer in
        [Tokenizer::bytes(), folder_of("t5-small.rebuilt.spiece.model"), folder_of("t5-small.tokenizer.json")]
    {
        let found = findings(&folder, &["bonjour </s>", "<s>old</s> new", "a <extra_id_0>", "plain"], &tokenizer);
        assert!(
            found.contains("special tokens are spelled out within texts (</s> in 2, <s> in 1 of 4 train"),
            "{found}"
        );
        assert!(found.contains("sentinels stand within texts (<extra_id_0> in 1 of 4 train"), "{found}");
    }
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
        ("train = \"a.tsv\"\npreset = \"glue/cola\"\ninput = \"{x}\"", "leave input, target and choices out"),
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
