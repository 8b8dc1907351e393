//! Tokenizers against golden ids of the reference libraries, round trips, saved folders and damaged files.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use t5_wgpu::tokenizer::Tokenizer;

const T5_JSON: &str = "t5-small.tokenizer.json";
const T5_SPIECE: &str = "t5-small.rebuilt.spiece.model";

#[derive(Deserialize)]
struct T5Golden {
    text: String,
    sentencepiece: Option<Vec<u32>>,
    hf_tokenizers: Vec<u32>,
}

#[derive(Deserialize)]
struct SentencePieceGolden {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name)
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(fixture(name).to_str().unwrap()).unwrap()
}

fn golden<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let lines = fs::read_to_string(fixture(name)).unwrap();
    let rows: Vec<T> = lines.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 50, "{name} has only {} rows", rows.len());
    rows
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("t5-tokenizers-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

/// Enough of xorshift for made-up ids.
fn made_up_ids(count: usize, below: u32) -> Vec<u32> {
    let mut state = 0x2545_f491u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn t5_json_gives_the_ids_of_hf_tokenizers() {
    let tokenizer = open(T5_JSON);
    for row in golden::<T5Golden>("t5-small.golden_encodings.jsonl") {
        assert_eq!(tokenizer.encode_with_eos(&row.text).unwrap(), row.hf_tokenizers, "{:?}", row.text);
    }
}

#[test]
fn t5_spiece_gives_the_ids_of_sentencepiece() {
    let tokenizer = open(T5_SPIECE);
    for row in golden::<T5Golden>("t5-small.golden_encodings.jsonl") {
        // SentencePiece knows no sentinels; around them both formats agree.
        let expected = row.sentencepiece.unwrap_or(row.hf_tokenizers);
        assert_eq!(tokenizer.encode_with_eos(&row.text).unwrap(), expected, "{:?}", row.text);
    }
}

#[test]
fn other_sentencepiece_models_give_their_ids_and_texts() {
    for name in ["sp_test_model", "byte_fallback", "rules"] {
        let model = if name == "sp_test_model" { "sp_test_model.model" } else { &format!("{name}.spiece.model") };
        let tokenizer = open(model);
        for row in golden::<SentencePieceGolden>(&format!("{name}.golden_encodings.jsonl")) {
            assert_eq!(tokenizer.encode(&row.text).unwrap(), row.ids, "{name}: {:?}", row.text);
            assert_eq!(tokenizer.decode(&row.ids), row.decoded, "{name}: {:?}", row.text);
        }
    }
}

/// `▁ravi n e` and `▁ rav ine` score so nearly the same that rounding decides; the counts are SentencePiece's.
#[test]
fn a_long_text_falls_apart_as_in_sentencepiece() {
    let text = "Where is the ravine, and who wrote this -- a spielberg? ".repeat(5000);
    let ids = open(T5_SPIECE).encode(&text).unwrap();
    let count = |piece| ids.iter().filter(|&&id| id == piece).count();
    assert_eq!((ids.len(), count(20_217), count(3)), (90_000, 2558, 12_442));
}

#[test]
fn bytes_are_bytes_plus_three() {
    let tokenizer = Tokenizer::bytes();
    assert_eq!(tokenizer.encode("aé\n").unwrap(), [100, 198, 172, 13]);
    assert_eq!(tokenizer.encode_with_eos("<extra_id_0>x <extra_id_124>").unwrap(), [259, 123, 35, 383, 1]);
    // Only sentinels are tokens: a literal end-of-sequence in the data must stay text.
    let literal = "a </s> <pad> <extra_id_125>";
    assert_eq!(tokenizer.encode(literal).unwrap().len(), literal.len());
    assert_eq!(tokenizer.decode(&tokenizer.encode(literal).unwrap()), literal);
    assert_eq!((tokenizer.pad(), tokenizer.eos(), tokenizer.unk(), tokenizer.vocab_size()), (0, 1, 2, 384));
    assert_eq!((tokenizer.n_sentinels(), tokenizer.sentinel(124), tokenizer.sentinel(125)), (125, Some(383), None));
}

#[test]
fn t5_specials_are_where_t5_has_them() {
    for name in [T5_JSON, T5_SPIECE] {
        let tokenizer = open(name);
        assert_eq!((tokenizer.pad(), tokenizer.eos(), tokenizer.unk()), (0, 1, 2), "{name}");
        assert_eq!((tokenizer.vocab_size(), tokenizer.n_sentinels()), (32_100, 100), "{name}");
        assert_eq!((tokenizer.sentinel(0), tokenizer.sentinel(99)), (Some(32_099), Some(32_000)), "{name}");
        assert_eq!(tokenizer.sentinel(100), None, "{name}");
        assert_eq!(tokenizer.piece(32_099).as_deref(), Some("<extra_id_0>"), "{name}");
        assert_eq!(tokenizer.piece(32_100), None, "{name}");
    }
    let own = open("byte_fallback.spiece.model");
    assert_eq!((own.n_sentinels(), own.sentinel(0)), (3, Some(own.vocab_size() as u32 - 1)));
}

#[test]
fn no_lone_space_piece_before_a_sentinel() {
    for name in [T5_JSON, T5_SPIECE] {
        let ids = open(name).encode("a <extra_id_0> b").unwrap();
        assert_eq!(ids, [3, 9, 32_099, 3, 115], "{name}");
    }
}

#[test]
fn decoding_leaves_out_padding_and_shows_what_is_no_text() {
    for name in [T5_JSON, T5_SPIECE] {
        let tokenizer = open(name);
        let mut ids = tokenizer.encode_with_eos("That is good. <extra_id_7> fine").unwrap();
        ids.extend([0, 0]);
        assert_eq!(tokenizer.decode(&ids), "That is good.<extra_id_7> fine", "{name}");
        assert!(tokenizer.decode(&[2018, 32_100, u32::MAX]).ends_with("\u{fffd}\u{fffd}"), "{name}");
        assert_eq!(tokenizer.decode(&[]), "", "{name}");
    }
    let bytes = Tokenizer::bytes();
    assert_eq!(bytes.decode(&[0, 100, 198, 1, 100, 384, u32::MAX]), "a\u{fffd}a\u{fffd}\u{fffd}");
}

#[test]
fn a_stream_says_what_decode_says() {
    for name in [T5_JSON, T5_SPIECE, "sp_test_model.model", "byte_fallback.spiece.model", "bytes"] {
        let tokenizer = if name == "bytes" { Tokenizer::bytes() } else { open(name) };
        let text = "  Größe: 😀 naïve <extra_id_3>, 日本語 -- done!  ";
        let ids = tokenizer.encode_with_eos(text).unwrap();
        assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids), "{name}");
        for ids in made_up_ids(4000, tokenizer.vocab_size() as u32 + 2).chunks(40) {
            assert_eq!(streamed(&tokenizer, ids), tokenizer.decode(ids), "{name} {ids:?}");
        }
    }
}

#[test]
fn a_stream_holds_back_half_a_character() {
    let tokenizer = Tokenizer::bytes();
    let mut stream = tokenizer.stream();
    let pushed: Vec<String> = tokenizer.encode("a😀b").unwrap().into_iter().map(|id| stream.push(id)).collect();
    assert_eq!(pushed, ["a", "", "", "", "😀", "b"]);
    assert_eq!(stream.push(0xf0 + 3), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn a_batch_is_its_texts() {
    let tokenizer = open(T5_SPIECE);
    let texts = ["That is good.", "", "Das ist gut."];
    let batch = tokenizer.encode_batch(&texts).unwrap();
    let single: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    assert_eq!(batch, single);
}

#[test]
fn saved_folders_open_as_the_same_tokenizer() {
    let text = "Ein <extra_id_0> Größe!!!!!!";
    for spec in ["bytes", T5_JSON, T5_SPIECE] {
        let tokenizer = if spec == "bytes" { Tokenizer::bytes() } else { open(spec) };
        let dir = scratch(&format!("save-{spec}"));
        tokenizer.save(&dir.join("first")).unwrap();
        let again = Tokenizer::from_dir(&dir.join("first")).unwrap();
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{spec}");
        assert_eq!(again.n_sentinels(), tokenizer.n_sentinels(), "{spec}");
        again.save(&dir.join("second")).unwrap();
        for file in fs::read_dir(dir.join("first")).unwrap() {
            let file = file.unwrap();
            let copy = fs::read(dir.join("second").join(file.file_name())).unwrap();
            assert_eq!(copy, fs::read(file.path()).unwrap(), "{spec}: {:?}", file.file_name());
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn files_are_saved_verbatim() {
    let dir = scratch("verbatim");
    open(T5_JSON).save(&dir).unwrap();
    assert_eq!(fs::read(dir.join("tokenizer.json")).unwrap(), fs::read(fixture(T5_JSON)).unwrap());
    open(T5_SPIECE).save(&dir).unwrap();
    assert_eq!(fs::read(dir.join("spiece.model")).unwrap(), fs::read(fixture(T5_SPIECE)).unwrap());
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_folder_sets_the_number_of_sentinels() {
    let dir = scratch("extra-ids");
    let n_sentinels = |config: &str| {
        fs::write(dir.join("tokenizer_config.json"), config).unwrap();
        Tokenizer::from_dir(&dir).unwrap().n_sentinels()
    };
    let byt5 = r#""tokenizer_class": "ByT5Tokenizer""#;
    assert_eq!(n_sentinels(&format!("{{{byt5}}}")), 125);
    assert_eq!(n_sentinels(&format!("{{{byt5}, \"extra_ids\": 7, \"pad_token\": null}}")), 7);
    // As transformers 5 saves it.
    let listed = r#""extra_ids": 0, "extra_special_tokens": ["<extra_id_0>", {"content": "<extra_id_1>"}, "<other>"]"#;
    assert_eq!(n_sentinels(&format!("{{{byt5}, {listed}}}")), 2);
    fs::copy(fixture(T5_SPIECE), dir.join("spiece.model")).unwrap();
    assert_eq!(n_sentinels("{\"extra_ids\": 5}"), 5);
    assert_eq!(Tokenizer::from_dir(&dir).unwrap().sentinel(0), Some(32_004));
    assert_eq!(n_sentinels("{}"), 100);
    fs::copy(fixture("t5-small.tokenizer_config.json"), dir.join("tokenizer_config.json")).unwrap();
    assert_eq!(Tokenizer::from_dir(&dir).unwrap().n_sentinels(), 100);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn damaged_and_missing_files_are_named() {
    let dir = scratch("damaged");
    let message = |spec: &Path| match Tokenizer::open(spec.to_str().unwrap()) {
        Ok(_) => panic!("{} opened", spec.display()),
        Err(e) => e.to_string(),
    };
    let write = |name: &str, contents: &[u8]| {
        fs::write(dir.join(name), contents).unwrap();
        dir.join(name)
    };
    assert!(message(&dir.join("nowhere")).contains("nowhere"));
    assert!(message(&dir).contains("no tokenizer"));
    assert!(message(&write("empty", b"")).contains("the file is empty"));
    assert!(message(&write("page", b"<html>404</html>")).contains("neither"));
    assert!(message(&write("lfs", b"version https://git-lfs.github.com/spec/v1\n")).contains("git lfs pull"));
    assert!(message(&write("garbage", b"\x0a\xff\xff\xff\xff\xff\xff")).contains("SentencePiece model"));
    assert!(message(&write("no-pieces", b"\x0a\x00\x12\x00\x1a\x00")).contains("piece 0 is empty"));
    assert!(message(&write("wrong.json", b"{\"model\": 3}")).contains("tokenizer.json"));

    let json = fs::read(fixture(T5_JSON)).unwrap();
    assert!(message(&write("cut.json", &json[..json.len() / 2])).contains("cut.json"));
    let spiece = fs::read(fixture(T5_SPIECE)).unwrap();
    for at in [1, 2, 1000, spiece.len() / 2, spiece.len() - 1] {
        // A cut between two messages is seen by what is missing, any other by the decoder.
        let text = message(&write("cut.model", &spiece[..at]));
        assert!(text.contains("cut.model") && text.contains("not a usable"), "{at}: {text}");
    }
    write("tokenizer_config.json", b"{\n\"extra_ids\": -1}");
    assert!(message(&dir).contains("tokenizer_config.json:2"));
    write("tokenizer_config.json", b"{\"extra_ids\": 99999999999}");
    assert!(message(&dir).contains("extra_ids"));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_damaged_model_that_still_opens_does_not_panic() {
    let dir = scratch("flipped");
    let spiece = fs::read(fixture("sp_test_model.model")).unwrap();
    let at = made_up_ids(200, spiece.len() as u32);
    for (round, at) in at.into_iter().enumerate() {
        let mut bytes = spiece.clone();
        bytes[at as usize..].iter_mut().take(64).for_each(|byte| *byte ^= 0x55 ^ round as u8);
        fs::write(dir.join("spiece.model"), bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_dir(&dir) {
            let ids = tokenizer.encode("Das is\u{300} a ﬁne <extra_id_3> 日本語 ½!").unwrap();
            tokenizer.decode(&ids);
        }
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn no_text_ends_a_sequence() {
    let mut spelled = Vec::new();
    for tokenizer in [Tokenizer::bytes(), open(T5_SPIECE), open(T5_JSON)] {
        for text in ["bonjour </s>", "plain: <s>old</s> new", "a<pad>b<unk>", "</s>", "<pad></s></s>"] {
            let ids = tokenizer.encode_with_eos(text).unwrap();
            let controls = [tokenizer.eos(), tokenizer.pad()];
            assert!(ids[..ids.len() - 1].iter().all(|id| !controls.contains(id)), "{text}: {ids:?}");
            assert_eq!(ids.last(), Some(&tokenizer.eos()));
            spelled.push(ids);
        }
        // Sentinels are read as tokens by all.
        let ids = tokenizer.encode("a <extra_id_1>").unwrap();
        assert_eq!(ids.last().copied(), tokenizer.sentinel(1));
        // What cannot come from text has its name all the same.
        let names = [tokenizer.eos(), tokenizer.pad(), tokenizer.unk()].map(|id| tokenizer.piece(id).unwrap());
        assert_eq!(names[0], "</s>");
        assert_eq!(names[1], "<pad>");
        let texts = tokenizer.special_texts("x </s> <extra_id_3><extra_id_999>");
        assert_eq!(texts.into_iter().collect::<Vec<_>>(), ["</s>", "<extra_id_3>"]);
    }
    // One vocabulary in two formats: the same ids.
    assert_eq!(spelled[5..10], spelled[10..]);
}

/// (text, ids, decoded) of a file of expectations.
fn expected(name: &str) -> Vec<(String, Vec<u32>, Option<String>)> {
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(fixture(name)).unwrap()).unwrap();
    let rows = json.get("texts").unwrap_or(&json).as_array().unwrap();
    let ids =
        |row: &serde_json::Value| row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let row = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        (text("text").unwrap(), ids(row), text("decoded"))
    };
    rows.iter().map(row).collect()
}

#[test]
fn tokens_added_to_a_sentencepiece_vocabulary_are_read_and_written() {
    for folder in ["added-new", "added-old"] {
        let tokenizer = open(folder);
        assert_eq!((tokenizer.vocab_size(), tokenizer.sentinel(0), tokenizer.n_sentinels()), (66, Some(62), 10));
        for (text, ids, _) in expected("added.json") {
            assert_eq!(tokenizer.encode_with_eos(&text).unwrap(), ids, "{folder}: {text}");
            assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids));
        }
        assert_eq!(tokenizer.decode(&[63, 65, 64]), "{<hl>}");
        let dir = scratch(&format!("saved-{folder}"));
        tokenizer.save(&dir).unwrap();
        let again = Tokenizer::from_dir(&dir).unwrap();
        assert_eq!(again.encode("{ <hl>").unwrap(), tokenizer.encode("{ <hl>").unwrap());
    }
    let dir = scratch("added-wrong");
    fs::copy(fixture("added-new/spiece.model"), dir.join("spiece.model")).unwrap();
    fs::write(dir.join("added_tokens.json"), "{\"<hl>\": 5}").unwrap();
    let error = Tokenizer::from_dir(&dir).err().unwrap().to_string();
    assert!(error.contains("\"<hl>\" the id 5, where") && error.contains("do not belong together"), "{error}");
}

#[test]
fn a_tokenizer_that_is_named_as_a_file_has_the_settings_beside_it() {
    let (file, folder) = (open("few/spiece.model"), open("few"));
    assert_eq!((file.sentinel(0), file.n_sentinels()), (folder.sentinel(0), 4));
    let (file, folder) = (open("named/tokenizer.json"), open("named"));
    assert_eq!((file.eos(), file.pad(), file.unk()), (folder.eos(), folder.pad(), folder.unk()));
}

#[test]
fn sentinels_that_are_pieces_are_not_listed_as_further_tokens() {
    let tokenizer = open("own-sentinels/spiece.model");
    assert_eq!((tokenizer.vocab_size(), tokenizer.n_sentinels()), (58, 5));
    let dir = scratch("own-sentinels");
    tokenizer.save(&dir).unwrap();
    let config = fs::read_to_string(dir.join("tokenizer_config.json")).unwrap();
    assert!(!config.contains("additional_special_tokens") && config.contains("\"extra_ids\": 0"), "{config}");
    let again = Tokenizer::from_dir(&dir).unwrap();
    for (text, ids, _) in expected("own-sentinels.json") {
        assert_eq!(tokenizer.encode_with_eos(&text).unwrap(), ids, "{text}");
        assert_eq!(again.encode_with_eos(&text).unwrap(), ids, "{text}");
    }
}

#[test]
fn a_post_processor_begins_what_a_model_reads() {
    let tokenizer = open("bpe");
    for (text, ids, decoded) in expected("bpe.json") {
        assert_eq!(tokenizer.encode_with_eos(&text).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids), decoded.unwrap());
    }
    // The same in its old form.
    let old = open("bpe-old");
    for (text, ids, decoded) in expected("bpe.json") {
        assert_eq!(old.encode_with_eos(&text).unwrap(), ids, "{text}");
        assert_eq!(old.decode(&ids), decoded.unwrap());
    }
}

/// CodeT5's, as two files and as one; LLaMA's with byte fallback and added tokens; T5's with `"legacy": false`.
#[test]
fn odd_lines_have_the_ids_of_transformers() {
    let unlegacy = scratch("unlegacy");
    fs::copy(fixture(T5_SPIECE), unlegacy.join("spiece.model")).unwrap();
    fs::write(unlegacy.join("tokenizer_config.json"), r#"{"extra_ids": 100, "legacy": false}"#).unwrap();
    for (folder, lines) in
        [("codet5", "codet5"), ("codet5-json", "codet5"), ("llama", "llama"), ("unlegacy", "unlegacy")]
    {
        let tokenizer = if folder == "unlegacy" { Tokenizer::from_dir(&unlegacy).unwrap() } else { open(folder) };
        let rows = golden::<SentencePieceGolden>(&format!("{lines}.golden_encodings.jsonl"));
        assert!(rows.len() >= 200, "{lines} has {} lines", rows.len());
        for row in rows {
            assert_eq!(tokenizer.encode_with_eos(&row.text).unwrap(), row.ids, "{folder}: {:?}", row.text);
            assert_eq!(streamed(&tokenizer, &row.ids), tokenizer.decode(&row.ids), "{folder}: {:?}", row.text);
            if lines == "codet5" {
                assert_eq!(tokenizer.decode(&row.ids), row.decoded, "{folder}: {:?}", row.text);
            }
        }
        let dir = scratch(&format!("odd-{folder}"));
        tokenizer.save(&dir).unwrap();
        let again = Tokenizer::from_dir(&dir).unwrap();
        let text = "fn f(x) { <extra_id_0> } foo_bar <hl>";
        assert_eq!(again.encode_with_eos(text).unwrap(), tokenizer.encode_with_eos(text).unwrap(), "{folder}");
        assert_eq!((again.pad(), again.eos()), (tokenizer.pad(), tokenizer.eos()), "{folder}");
        fs::remove_dir_all(dir).unwrap();
    }
    assert_eq!(open("codet5").n_sentinels(), 10);
    let llama = open("llama");
    assert_eq!((llama.n_sentinels(), llama.eos(), llama.unk()), (10, 2, 0));
    assert_eq!(llama.sentinel(9), Some(llama.pad()));
}

#[test]
fn damaged_files_of_a_bpe_are_named() {
    let dir = scratch("bpe-damaged");
    let message = |vocab: &str, merges: &str| {
        fs::write(dir.join("vocab.json"), vocab).unwrap();
        fs::write(dir.join("merges.txt"), merges).unwrap();
        Tokenizer::from_dir(&dir).err().expect("refused").to_string()
    };
    assert!(message("{\"a\": -1}", "").contains("vocab.json:1: not a vocabulary"));
    assert!(message("{\"a\": 0}", "").contains("has no \"</s>\", which begins or ends"));
    let whole = "{\"<s>\": 0, \"</s>\": 1, \"a\": 2}";
    assert!(message(whole, "#version: 0.2\na b c\n").contains("merges.txt:2: \"a b c\" is no pair"));
    assert!(message(whole, "a b\n").contains("not a usable tokenizer.json"));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn added_tokens_are_decoded_as_they_were_written() {
    let tokenizer = open("added-newline");
    for (text, ids, _) in expected("added-newline.json") {
        assert_eq!(tokenizer.decode(&ids), text);
        assert_eq!(streamed(&tokenizer, &ids), text);
    }
}

/// Its time grew with the square of their number: half a minute for these.
#[test]
fn many_listed_tokens_are_looked_up_at_once() {
    let folder = scratch("listed");
    let listed: Vec<String> = (0..20_000).map(|k| format!("<extra_id_{k}><")).collect();
    let config = serde_json::json!({"tokenizer_class": "T5Tokenizer", "additional_special_tokens": listed});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::copy(fixture("added-new/spiece.model"), folder.join("spiece.model")).unwrap();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_dir(&folder);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(tokenizer.map(|tokenizer| tokenizer.n_sentinels()).ok(), Some(20_000));
}
