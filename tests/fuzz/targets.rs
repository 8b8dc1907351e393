//! The readers, each with right files to begin with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use t5_wgpu::bench::{Comparison, SCHEMA, Saved};
use t5_wgpu::checkpoint::{Dtype, Encoding, PeftFolder, Weights};
use t5_wgpu::data::lines::Lines;
use t5_wgpu::data::task::{Files, Format, OnBadRow, TaskConfig, presets};
use t5_wgpu::data::{Split, TaskSet};
use t5_wgpu::model::{GenerationConfig, ModelParts, T5Config};
use t5_wgpu::recipe::Recipe;
use t5_wgpu::report::{ReportOptions, report};
use t5_wgpu::run_folder::RunFolder;
use t5_wgpu::study::Study;
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::Settings;
use t5_wgpu::train::examples::Sources;
use t5_wgpu::train::log::Log;
use t5_wgpu::train::state::State;
use t5_wgpu::train::tensorboard::scalars_of;
use t5_wgpu::tune::cache::{Cache, Identity};
use t5_wgpu::{Error, Result};

use crate::mutate::Shape;
use crate::{Target, folder_of, fuzz};

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name), super::$name());
        })*
    };
}

mod tests {
    use super::fuzz;
    targets! {
        config generation_config safetensors shards lora_weights lora_config ia3_weights ia3_config pytorch pytorch_shards gguf gguf_vocabulary flax t5x tokenizer_json tokenizer_config bpe_vocab bpe_merges special_tokens spiece llama recipe overrides study tsv csv json_lines
        json_array cmudict scan parallel preset_rows gzip xz zstd state log metrics predictions run_recipe bench kernel_timings
    }
}

const PAIRS: &[u8] = b"w1\t1w\nw22\t22w\nw3\t3w\nw4\t4w\n";

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

fn target(file: &'static str, shape: Shape, seeds: Vec<Vec<u8>>, read: fn(&Path) -> Result<()>) -> Target {
    Target { file, shape, seeds, beside: Vec::new(), read }
}

fn config() -> Target {
    let umt5 = json!({"model_type": "umt5", "dense_act_fn": "gelu_new", "is_gated_act": true, "eos_token_id": [1, 2], "num_layers": 8,
        "scale_decoder_outputs": null, "task_specific_params": {"a": {"b": [1, 2.5, null]}}, "head_dim": 64});
    let seeds = vec![data("tiny-model/config.json"), umt5.to_string().into_bytes()];
    target("config.json", Shape::Json, seeds, |folder| {
        let config = T5Config::from_dir(folder)?;
        assert_eq!(T5Config::from_json(&config.to_json(), "written.json")?, config);
        config.for_head(true).validate()
    })
}

fn generation_config() -> Target {
    let seeds = texts(&[
        r#"{"eos_token_id": [1, 2], "decoder_start_token_id": 0, "max_length": 20, "num_beams": 4, "temperature": 0.5}"#,
    ]);
    target("generation_config.json", Shape::Json, seeds, |folder| {
        let config = T5Config::from_json(r#"{"model_type": "t5"}"#, "config.json")?;
        GenerationConfig::from_dir(folder, &config).map(drop)
    })
}

fn tensors(names: &[&'static str]) -> Vec<u8> {
    let numbers: Vec<u8> = (0..6).flat_map(|i| (i as f32 / 4.0).to_le_bytes()).collect();
    let tensor = |&name: &&'static str| (name, TensorView::new(Dtype::F32, vec![2, 3], &numbers).unwrap());
    safetensors::serialize(names.iter().map(tensor), None).unwrap()
}

fn read_weights(folder: &Path) -> Result<()> {
    let weights = Weights::open(folder)?;
    for name in weights.names() {
        let shape = weights.shape(name).unwrap();
        let dtype = weights.dtype(name).unwrap();
        let bytes = weights.read_bytes(name, dtype, shape)?.len();
        if [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64].contains(&dtype) {
            assert_eq!(weights.read_f32(name, shape)?.len() * dtype.bitsize() / 8, bytes);
        }
    }
    weights.expect_decoder()?;
    weights.embedding_name()?;
    weights.unused([]);
    Ok(())
}

fn safetensors() -> Target {
    let seeds = vec![tensors(&["shared.weight", "decoder.a", "b"])];
    target("model.safetensors", Shape::Safetensors, seeds, read_weights)
}

fn shards() -> Target {
    let index = r#"{"metadata": {"total_size": 72}, "weight_map": {"shared.weight": "a.safetensors", "decoder.b": "b.safetensors"}}"#;
    let beside =
        vec![("a.safetensors", tensors(&["shared.weight", "other"])), ("b.safetensors", tensors(&["decoder.b"]))];
    Target { beside, ..target("model.safetensors.index.json", Shape::Json, texts(&[index]), read_weights) }
}

/// One file of a folder of peft, with the other beside it, merged into its base.
fn peft(kind: &str, file: &'static str, shape: Shape) -> Target {
    const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let base = golden("flan").to_string_lossy().into_owned();
    let of = |name: &str| {
        let contents = fs::read(golden(kind).join(name)).unwrap();
        match name.ends_with(".json") {
            true => String::from_utf8(contents).unwrap().replace("tests/golden/flan", &base).into_bytes(),
            false => contents,
        }
    };
    let beside = FILES.into_iter().filter(|name| *name != file).map(|name| (name, of(name))).collect();
    let read = |folder: &Path| {
        let lora = PeftFolder::open(folder)?;
        let base = lora.base()?;
        let targets: Vec<String> = lora.targets().map(str::to_owned).collect();
        // What lies where a spoilt name leads is no fault of the adapter.
        let Ok(weights) = Weights::open(&base) else { return Ok(()) };
        let weights = weights.with_peft(lora)?;
        for target in targets {
            let shape = weights.shape(&target).unwrap().to_vec();
            weights.read_f32(&target, &shape)?;
        }
        Ok(())
    };
    Target { beside, ..target(file, shape, vec![of(file)], read) }
}

fn lora_weights() -> Target {
    peft("lora", "adapter_model.safetensors", Shape::Safetensors)
}

fn ia3_weights() -> Target {
    peft("ia3", "adapter_model.safetensors", Shape::Safetensors)
}

fn ia3_config() -> Target {
    peft("ia3", "adapter_config.json", Shape::Json)
}

fn lora_config() -> Target {
    peft("lora", "adapter_config.json", Shape::Json)
}

fn pytorch() -> Target {
    let seeds = ["unchecked.bin", "legacy.bin", "nested.bin"].map(|file| data(&format!("sources/views/{file}")));
    target("pytorch_model.bin", Shape::Bytes, seeds.into(), read_weights)
}

fn pytorch_shards() -> Target {
    let index = r#"{"metadata": {}, "weight_map": {"shared.weight": "a.bin", "double": "b.bin"}}"#;
    let beside = vec![("a.bin", data("sources/views/views.bin")), ("b.bin", data("sources/views/legacy.bin"))];
    let index = index.replace("shared.weight", "module.shared.weight").replace("double", "module.double");
    Target { beside, ..target("pytorch_model.bin.index.json", Shape::Json, texts(&[&index]), read_weights) }
}

fn flax() -> Target {
    target("flax_model.msgpack", Shape::Bytes, vec![data("sources/mt5-flax/flax_model.msgpack")], read_weights)
}

fn t5x() -> Target {
    target("checkpoint", Shape::Bytes, vec![data("sources/mt5-t5x/checkpoint")], read_weights)
}

fn gguf() -> Target {
    let seeds = vec![data("sources/gguf/blocks.gguf"), data("sources/t5v10-gguf/model.gguf")];
    target("model.gguf", Shape::Bytes, seeds, |folder| {
        let weights = Weights::open(folder)?;
        for name in weights.names() {
            let shape = weights.shape(name).unwrap();
            match weights.encoding(name).unwrap() {
                Encoding::Blocks(format) => drop(weights.read_blocks(name, format, shape)?),
                Encoding::Plain(dtype) => drop(weights.read_bytes(name, dtype, shape)?),
            }
            // Spoilt scales may be no numbers, which is said.
            let _ = weights.read_f32(name, shape);
        }
        match ModelParts::open_any(folder) {
            // One of the seeds holds blocks, and no T5.
            Err(error) if error.to_string().contains("of the kind none") => Ok(()),
            other => other.map(drop),
        }
    })
}

fn gguf_vocabulary() -> Target {
    target("model.gguf", Shape::Bytes, vec![data("sources/gguf/vocabulary-small.gguf")], |folder| {
        use_tokenizer(&Tokenizer::from_dir(folder)?, true)
    })
}

const TEXTS: [&str; 9] = [
    "",
    "Hello, world! 123",
    " \t double  spaces\r\nand a line ",
    "<extra_id_0> a<extra_id_1>.</s><pad>",
    "e\u{301}té 你好 \u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f466} ﬁ ½ Å",
    "\0\u{1b}\u{fffd}\u{10ffff}\u{2581}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "pretraining <h> low lower newest",
    "<extra_id_<extra_id_7>",
];

/// Encodes and decodes with a tokenizer that was read. `exact`: its stream gives what it decodes at once.
fn use_tokenizer(tokenizer: &Tokenizer, exact: bool) -> Result<()> {
    let size = tokenizer.vocab_size();
    for text in TEXTS {
        let ids = tokenizer.encode_with_eos(text)?;
        assert!(ids.iter().all(|&id| (id as usize) < size), "{ids:?} of {size}");
        let decoded = tokenizer.decode(&ids);
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        assert!(!exact || streamed == decoded, "{streamed:?} {decoded:?}");
        tokenizer.special_texts(text);
    }
    let ids = [0, 1, 2, 3, 99, size as u32, (size as u32).wrapping_sub(1), u32::MAX];
    ids.iter().for_each(|&id| drop(tokenizer.piece(id)));
    tokenizer.decode(&ids);
    assert!((0..tokenizer.n_sentinels()).all(|k| tokenizer.sentinel(k).is_some()));
    Ok(())
}

fn tokenizer_json() -> Target {
    let added = json!([{"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true},
        {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true}]);
    let unigram = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Prepend", "prepend": "x"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": false}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\p{L}+(?!x)"}, "behavior": "Isolated", "invert": false},
            {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}, {"type": "Digits", "individual_digits": true}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true},
            {"type": "Replace", "pattern": {"String": "q"}, "content": "u"}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false,
            "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u{2581}", -2.0], ["a", -3.0], ["lo", -4.5], ["<extra_id_0>", 0.0]]}});
    let word_piece = json!({"version": "1.0", "added_tokens": added, "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<pad>", 0]}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "##a": 4, "hello": 5}}});
    let seeds = vec![
        data("tokenizers/bpe/tokenizer.json"),
        data("tokenizers/added-newline/tokenizer.json"),
        unigram.to_string().into_bytes(),
        word_piece.to_string().into_bytes(),
    ];
    target("tokenizer.json", Shape::Json, seeds, |folder| {
        use_tokenizer(&Tokenizer::open(&folder.join("tokenizer.json").to_string_lossy())?, false)
    })
}

fn tokenizer_config() -> Target {
    let beside = vec![
        ("spiece.model", data("tokenizers/added-new/spiece.model")),
        ("added_tokens.json", br#"{"<h>": 106}"#.to_vec()),
    ];
    let seeds = vec![data("tokenizers/added-old/tokenizer_config.json")];
    Target {
        beside,
        ..target("tokenizer_config.json", Shape::Json, seeds, |folder| {
            use_tokenizer(&Tokenizer::from_dir(folder)?, true)
        })
    }
}

fn spiece() -> Target {
    let names = ["added-new/spiece.model", "byte_fallback.spiece.model", "rules.spiece.model"];
    let seeds = names.map(|name| data(&format!("tokenizers/{name}"))).to_vec();
    target("spiece.model", Shape::Protobuf, seeds, |folder| use_tokenizer(&Tokenizer::from_dir(folder)?, true))
}

/// One file of a byte-level BPE in its old form, with the others beside it.
fn bpe(file: &'static str, shape: Shape) -> Target {
    let names = ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"];
    let of = |name: &str| data(&format!("tokenizers/codet5/{name}"));
    let beside = names.into_iter().filter(|name| *name != file).map(|name| (name, of(name))).collect();
    Target {
        beside,
        ..target(file, shape, vec![of(file)], |folder| use_tokenizer(&Tokenizer::from_dir(folder)?, false))
    }
}

fn bpe_vocab() -> Target {
    bpe("vocab.json", Shape::Json)
}

fn bpe_merges() -> Target {
    bpe("merges.txt", Shape::Bytes)
}

fn special_tokens() -> Target {
    bpe("special_tokens_map.json", Shape::Json)
}

fn llama() -> Target {
    let beside = vec![("tokenizer_config.json", data("tokenizers/llama/tokenizer_config.json"))];
    Target {
        beside,
        ..target("tokenizer.model", Shape::Protobuf, vec![data("tokenizers/llama/tokenizer.model")], |folder| {
            use_tokenizer(&Tokenizer::from_dir(folder)?, true)
        })
    }
}

const RECIPE: &str = r#"
name = "all"
seed = 7
[model]
d_model = 16
heads = 2
layers = 1
tie = false
dropout = 0.1
[tokenizer]
vocab_size = 300
train = ["words"]
files = ["text.txt"]
character_coverage = 0.999
pieces = ["<sep>"]
[texts.words]
files = ["te*.txt"]
held_out = 0.2
inputs_len = 24
examples = 100
objective = { name = "span_corruption", noise_density = 0.2 }
[tasks.t]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2
prefix = "say: "
input = '{source | replace("a", "b")}'
on_bad_row = "skip"
metrics = ["exact_match", { name = "per", ignore = "012", as = "p" }]
[tasks.p]
test = { en = "text.txt", de = ["text.txt"] }
input = "{en}"
target = "{de}"
max_source = 64
too_long = "truncate"
[[stage]]
name = "a"
train = ["t", "words"]
mixture = { rates = "proportional", limit = 65536, temperature = 2.0 }
scale = { words = 0.1 }
steps = 20
batch_size = 4
lr = 1e-3
optimizer = "adafactor"
batching = { packed = { source_len = 512, target_len = 256 } }
eval_every = 5
best = "t/p"
[[stage]]
name = "b"
from = "a"
begin = "best"
evaluate = ["p"]
split = "test"
temperature = 0.5
top_k = 3
"#;

fn recipe_beside() -> Vec<(&'static str, Vec<u8>)> {
    vec![("pairs.tsv", PAIRS.to_vec()), ("text.txt", b"some words\nand more\n".to_vec())]
}

/// What was read can be spelled out, written, and read again.
fn use_recipe(recipe: Recipe, folder: &Path) -> Result<()> {
    let spelled = recipe.spelled_out().expect("a checked recipe");
    let text = spelled.to_toml().expect("a recipe that was read");
    let path = folder.join("written.toml");
    fs::write(&path, &text).unwrap();
    assert_eq!(Recipe::reread(&path)?.to_toml()?, text);
    recipe
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .chain(["tokenizer"])
        .for_each(|part| drop(recipe.essence(part)));
    Ok(())
}

fn recipe() -> Target {
    let read = |folder: &Path| use_recipe(Recipe::read(&folder.join("recipe.toml"), &[])?, folder);
    Target { beside: recipe_beside(), ..target("recipe.toml", Shape::Toml, texts(&[RECIPE]), read) }
}

/// Of `--set`, a line each.
fn overrides() -> Target {
    let read = |folder: &Path| {
        let lines = fs::read_to_string(folder.join("overrides")).unwrap_or_default();
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        match Recipe::read(&folder.join("recipe.toml"), &lines) {
            // It names the override.
            Err(Error::Input(what)) if what.starts_with("--set") => Err(Error::file(folder, what)),
            recipe => use_recipe(recipe?, folder),
        }
    };
    let seeds = texts(&[
        "a.steps=5\nmodel.d_model = 32",
        "tasks.t.prefix=x: \na.scale={ t = 2.0 }",
        "seed=1\na.train=[\"t\"]\na.scale={}\na.best=t/loss",
    ]);
    let beside = [recipe_beside(), vec![("recipe.toml", RECIPE.into())]].concat();
    Target { beside, ..target("overrides", Shape::Text, seeds, read) }
}

/// What was read has cells, each with a baseline among them or of the same shape, and can be written.
fn study() -> Target {
    let read = |folder: &Path| {
        let study = Study::read(&folder.join("study.toml"))?;
        for cell in study.cells() {
            assert_eq!(study.baseline_of(&cell).levels.len(), cell.levels.len());
            drop((study.described(&cell), study.paper_values(&cell)));
        }
        study.to_toml().map(drop)
    };
    let seeds = texts(&[
        "recipe = \"recipe.toml\"\nseeds = [0, 1]\nset = [\"a.steps=5\"]\n[[factor]]\nname = \"f\"\n\
         levels = [{ name = \"x\" }, { name = \"y\", set = [\"a.lr=0.1\"] }]\n",
        "recipe = \"recipe.toml\"\nseeds = [3]\ndesign = \"each\"\nbaseline = { f = \"y\" }\n[[factor]]\nname = \"f\"\n\
         levels = [{ name = \"x\" }, { name = \"y\" }]\n[paper]\nsource = \"p\"\nsigma = { G = 0.5 }\n\
         row = [{ cell = { f = \"x\" }, values = { G = 1.0 } }]\n",
    ]);
    let beside = [recipe_beside(), vec![("recipe.toml", RECIPE.into())]].concat();
    Target { beside, ..target("study.toml", Shape::Toml, seeds, read) }
}

/// Reads a task, and again with bad rows left out: right files have none.
fn use_task(config: TaskConfig, folder: &Path) -> Result<()> {
    let bytes = Tokenizer::bytes();
    let read = |on_bad_row, split| {
        let config = TaskConfig { on_bad_row: Some(on_bad_row), max_source: Some(64), ..config.clone() };
        TaskSet::open(&config, folder, split, &bytes)
    };
    let skipping = read(OnBadRow::Skip, Split::Train);
    let strict = read(OnBadRow::Error, Split::Train);
    if let Ok(strict) = &strict {
        let skipping = skipping.as_ref().expect("no bad rows");
        assert_eq!((skipping.texts(), skipping.left_out().bad), (strict.texts(), 0));
    }
    skipping?.findings("t", &config, Split::Train, &bytes)?;
    strict.map(drop)
}

fn files(name: &str) -> Option<Files> {
    Some(Files::Together(vec![name.into()]))
}

/// A task of a format whose columns are known.
macro_rules! task {
    ($name:ident, $file:literal, $shape:expr, $seeds:expr, $config:expr) => {
        fn $name() -> Target {
            target($file, $shape, texts(&$seeds), |folder| {
                use_task(TaskConfig { train: files($file), ..$config }, folder)
            })
        }
    };
}

fn pairs() -> TaskConfig {
    TaskConfig { columns: Some(vec!["source".into(), "target".into()]), ..TaskConfig::default() }
}

fn templates(input: &str, target: &str) -> TaskConfig {
    TaskConfig { input: Some(input.into()), target: Some(target.into()), ..TaskConfig::default() }
}

fn format(format: Format) -> TaskConfig {
    TaskConfig { format: Some(format), ..TaskConfig::default() }
}

task!(tsv, "t.tsv", Shape::Text, ["a b\tc\nd é\te f\n", "source\ttarget\r\nx\ty\r\n"], pairs());
task!(csv, "t.csv", Shape::Text, ["a,\"b, \"\"c\"\"\nd\"\ne,f\n", "\u{feff}input_text,target_text\nx,y\n"], pairs());
task!(
    json_lines,
    "t.jsonl",
    Shape::JsonLines,
    [
        "{\"q\": \"a\", \"a\": {\"text\": [\"b\", 1, true]}}\n{\"q\": 12345678901234567890123, \"a\": {\"text\": [\"x\"]}}\n"
    ],
    templates("ask {q}", "{a.text.0 | replace(\"b\", \"c\")}")
);
task!(
    json_array,
    "t.json",
    Shape::Json,
    [
        "[{\"q\": \"a\", \"a\": \"b\"},\n {\"q\": 1.5, \"a\": [\"c\", \"d\"], \"n\": NaN}]",
        "[\n{\"q\": true, \"a\": \"\\u00e9\"}]\n"
    ],
    templates("{q}", "{a}")
);
task!(
    cmudict,
    "t.dict",
    Shape::Text,
    ["'bout B AW1 T\ncat K AE1 T # animal\ncat(2) K AH0 T\n;;; c\ndog D AO1 G\n"],
    TaskConfig::default()
);
task!(
    scan,
    "t.txt",
    Shape::Text,
    ["IN: walk left OUT: I_TURN_LEFT I_WALK\nIN: run OUT: I_RUN\n"],
    format(Format::Scan)
);

fn parallel() -> Target {
    let read = |folder: &Path| {
        let columns = [("en".to_owned(), vec!["t.en".to_owned()]), ("de".to_owned(), vec!["t.de".to_owned()])];
        let train = Some(Files::Parallel(BTreeMap::from(columns)));
        use_task(TaskConfig { train, ..templates("{en}", "{de}") }, folder)
    };
    let beside = vec![("t.de", b"eins\nzwei\n\ndrei\n".to_vec())];
    Target { beside, ..target("t.en", Shape::Text, texts(&["one\ntwo\n\nthree\n", "a\nb\nc\nd\n"]), read) }
}

/// Rows of all presets; each reads those that it can.
fn preset_rows() -> Target {
    let recorded: Value = serde_json::from_slice(&data("tasks/presets.json")).unwrap();
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    for case in recorded["cases"].as_array().unwrap() {
        rows.entry(case["preset"].as_str().unwrap()).or_insert_with(|| case["row"].to_string());
    }
    let seeds = rows.into_values().collect::<Vec<_>>().chunks(8).map(|rows| rows.join("\n").into_bytes()).collect();
    target("t.jsonl", Shape::JsonLines, seeds, |folder| {
        let mut last = Ok(());
        let mut read = 0;
        for preset in presets() {
            let languages = |name: &str| (preset == "wmt").then(|| name.to_owned());
            let config = TaskConfig {
                train: files("t.jsonl"),
                validation: files("t.jsonl"),
                preset: Some(preset.into()),
                source_language: languages("en"),
                target_language: languages("de"),
                on_bad_row: Some(OnBadRow::Skip),
                ..TaskConfig::default()
            };
            for split in [Split::Train, Split::Validation] {
                match config.load(folder, split) {
                    Err(e) => last = Err(e),
                    Ok(examples) => {
                        let answers: Vec<String> = examples.iter().map(|example| example.target.clone()).collect();
                        // Some metrics refuse what they are given.
                        let _ = config.score(&answers, &examples);
                        read += 1;
                    }
                }
            }
        }
        if read > 0 { Ok(()) } else { last }
    })
}

/// Reads an archive of lines to its end, or so much of it that its end does not matter.
fn read_archive(path: PathBuf) -> Result<()> {
    let mut lines = Lines::open(&path)?;
    let mut bytes = 0;
    while let Some((_, line)) = lines.next_bytes()? {
        bytes += line.len() + 1;
        if bytes > 64 << 20 {
            break;
        }
    }
    Ok(())
}

fn gzip() -> Target {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut encoder, &PAIRS.repeat(50)).unwrap();
    let one = encoder.finish().unwrap();
    target("t.gz", Shape::Bytes, vec![[&one[..], &one].concat(), one], |folder| read_archive(folder.join("t.gz")))
}

fn xz() -> Target {
    target("t.xz", Shape::Xz, vec![data("archives/seq2000.xz")], |folder| read_archive(folder.join("t.xz")))
}

fn zstd() -> Target {
    target("t.zst", Shape::Bytes, vec![data("archives/seq2000.zst")], |folder| read_archive(folder.join("t.zst")))
}

/// The state of a run that goes on: its settings hold, and there is a batch where it says.
fn state() -> Target {
    let folder = folder_of("state");
    let task = TaskConfig { train: files(&folder.join("pairs.tsv").to_string_lossy()), ..pairs() };
    let text: t5_wgpu::train::settings::TextConfig =
        serde_json::from_value(json!({"files": folder.join("text.txt"), "inputs_len": 24, "examples": 9})).unwrap();
    let mut settings = Settings { batch_size: 2, ..Settings::on_task("t", task) };
    settings.texts.insert("x".into(), text);
    settings.train.push("x".into());
    settings.settle();
    let mut state = serde_json::to_value(State::new(settings, "0123".into())).unwrap();
    state["position"] = json!({"window": 3, "batch": 1, "passes": [2.5, 0.0],
        "source": {"drawn": 12, "members": [{"examples": 10}, {"text": {"epoch": 1, "window": 0, "segment": 0}}]}});
    let read = |folder: &Path| {
        let state = State::load(folder)?;
        state.check(folder)?;
        // How many rows fit is the device's to say.
        if state.settings.batch_size > 64 {
            return Ok(());
        }
        let tokenizer = Arc::new(Tokenizer::bytes());
        let config = T5Config::from_json(r#"{"model_type": "t5"}"#, "config.json")?;
        let sources = Sources::open(&state.settings, &tokenizer);
        let batches = sources.and_then(|sources| sources.stream(&config, &state.position));
        let taken = batches.and_then(|mut batches| (0..3).try_for_each(|_| batches.next_batch().map(drop)));
        // It names the file that the settings name.
        taken.map_err(|e| Error::file(folder, e.to_string()))
    };
    let seeds = vec![state.to_string().into_bytes()];
    Target { beside: recipe_beside(), ..target("training_state/state.json", Shape::Json, seeds, read) }
}

const LOG: &str = r#"{"event":"step","step":1,"steps":3,"epoch":0.5,"loss":5.1,"accuracy":0.1,"lr":0.001,"grad_norm":1.5,"clip":1.0,"skipped":0,"tokens":90,"tokens_per_second":10.0,"padding":0.1,"elapsed":1.0,"time_left":2.0}
{"event":"kernels","step":1,"seconds":0.5,"choices":[{"class":"matmul nt","variant":"tiles","ms":{"tiles":1.0}}]}
{"event":"evaluation","step":2,"tasks":{"t":{"examples":4,"loss":2.0,"accuracy":0.5,"bits_per_byte":1.5,"metrics":{"per":30.0,"bleu":null},"scores":[{"name":"per","value":30.0,"better":"lower","signature":"x"}]}},"metric":"t/per","value":30.0,"best":true}
{"event":"warning","step":2,"what":"the loss is not finite"}
{"event":"step","step":3,"steps":3,"loss":4.9,"lr":0.0005,"tokens":270,"elapsed":3.0}
{"event":"ends_early","step":3,"evaluations":5}
"#;

fn write_report(folder: &Path) -> Result<()> {
    let page = report(&[folder.to_path_buf()], &ReportOptions::default())?.html;
    assert!(page.ends_with("</html>\n"));
    Ok(())
}

fn log() -> Target {
    target("log.jsonl", Shape::JsonLines, texts(&[LOG]), |folder| {
        // As if the marker were there.
        fs::write(folder.join(t5_wgpu::run_folder::MARKER), "").unwrap();
        let run = RunFolder::open(folder, &["log.jsonl"])?;
        Log::read(&run, 2)?;
        let text = fs::read(folder.join("log.jsonl")).unwrap();
        for line in String::from_utf8_lossy(&text).lines() {
            serde_json::from_str(line).ok().as_ref().and_then(scalars_of);
        }
        write_report(folder)
    })
}

fn metrics() -> Target {
    let seed = r#"{"step": 2, "best": true, "tasks": {"t": {"examples": 4, "loss": 2.0, "metrics": {"per": 30.0}, "scores": [{"name": "per", "value": 30.0, "better": "lower"}]}}}"#;
    Target {
        beside: vec![("recipe.toml", RECIPE.into())],
        ..target("b/metrics.json", Shape::Json, texts(&[seed]), write_report)
    }
}

fn predictions() -> Target {
    let seed = "{\"source\": \"a\", \"prediction\": \"<b>\", \"references\": [\"b\", \"c\"], \"correct\": true}\n{\"source\": \"x\", \"prediction\": \"y\"}\n";
    Target {
        beside: vec![("recipe.toml", RECIPE.into())],
        ..target("b/predictions/t.jsonl", Shape::JsonLines, texts(&[seed]), write_report)
    }
}

/// The recipe in a run's folder, as a report reads it.
fn run_recipe() -> Target {
    Target {
        beside: vec![("a/log.jsonl", LOG.into())],
        ..target("recipe.toml", Shape::Toml, texts(&[RECIPE]), write_report)
    }
}

fn bench() -> Target {
    let figure = json!({"section": "ops", "name": "matmul", "unit": "GFLOP/s", "better": "higher", "value": 20.5, "low": 20.0, "high": 21.0,
        "samples": 9, "flops": 1e9, "ceiling_share": 0.5});
    let seed = json!({"schema": SCHEMA, "version": "0.1.0", "commit": null, "date": "2026-01-31T12:00:00Z", "checked": false, "quick": true,
        "seconds": 1.0, "adapter": {"name": "llvmpipe", "driver_info": "Mesa", "backend": "vulkan"}, "figures": [figure, figure]});
    target("bench.json", Shape::Json, vec![seed.to_string().into_bytes()], |folder| {
        let saved = Saved::read(&folder.join("bench.json"))?;
        for (old, new) in saved.figures.iter().flat_map(|old| saved.figures.iter().map(move |new| (old, new))) {
            Comparison::of(old, new);
        }
        Ok(())
    })
}

/// What was measured of the kernels of an adapter.
fn kernel_timings() -> Target {
    let seed = json!({"format": 1, "adapter": "a", "backend": "b", "driver": "c", "checked": false,
        "classes": {"matmul nt": {"sources": "0123", "variant": "tiles", "ms": {"tiles": 1.5}}}});
    target("kernels-a-b.json", Shape::Json, vec![seed.to_string().into_bytes()], |folder| {
        let identity = Identity { adapter: "a".into(), backend: "b".into(), driver: "c".into(), checked: false };
        let (_, warning) = Cache::new(folder, identity).load();
        warning.map_or(Ok(()), |what| Err(Error::Input(what)))
    })
}
