//! Data from files to batches: properties over many lengths, errors that name the line, and pinned streams.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use t5_wgpu::Error;
use t5_wgpu::data::cmudict::{CmuDict, is_dev};
use t5_wgpu::data::{
    BatchOptions, BatchStream, Denoising, Example, ExampleSource, Markers, PairFormat, PairOptions, PairSet,
    SpanCorruption, TextCorpus, TooLong,
};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;

fn bytes() -> Tokenizer {
    Tokenizer::bytes()
}

/// A folder of its own for a test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("t5-wgpu-data-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        if name.ends_with(".gz") {
            let mut gz = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
            gz.write_all(contents.as_ref()).unwrap();
            gz.finish().unwrap();
        } else {
            std::fs::write(&path, contents).unwrap();
        }
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// FNV-1a over the ids: pins a stream without listing it.
fn fingerprint(ids: impl IntoIterator<Item = u32>) -> u64 {
    let bytes = ids.into_iter().flat_map(u32::to_le_bytes);
    bytes.fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

/// Puts the masked spans of the target back where the source has their sentinels.
fn reassemble(example: &Example, markers: &Markers) -> Vec<u32> {
    let is_sentinel = |id: &u32| markers.sentinels.contains(id);
    let (source_eos, source) = example.source.split_last().unwrap();
    let (target_eos, target) = example.target.split_last().unwrap();
    assert_eq!((*source_eos, *target_eos), (markers.eos, markers.eos));
    let mut text = Vec::new();
    for id in source {
        if is_sentinel(id) {
            let start = target.iter().position(|t| t == id).unwrap() + 1;
            text.extend(target[start..].iter().take_while(|t| !is_sentinel(t)));
        } else {
            text.push(*id);
        }
    }
    text
}

#[test]
fn corrupted_texts_reassemble_at_every_length() {
    let markers = Markers::new((0..1500).map(|k| 100_000 - k).collect(), 99);
    for (noise_density, mean_span) in [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0), (0.5, 1.0), (0.9, 2.0), (0.15, 64.0)] {
        let objective = SpanCorruption { noise_density, mean_span, random_roll: false };
        for len in (2..300).chain((300..2000).step_by(7)) {
            let tokens: Vec<u32> = (1000..1000 + len as u32).collect();
            let mut rng = Rng::new(3, Purpose::Corruption, &[len as u64]);
            let example = objective.corrupt(&tokens, &markers, &mut rng).unwrap();
            assert_eq!(example.lengths(), objective.corrupted_lengths(len), "{objective:?} {len}");
            assert_eq!(reassemble(&example, &markers), tokens, "{objective:?} {len}");
            // Clean start, masked end: the target begins with sentinel 0 and has no final sentinel.
            assert_eq!((example.source[0], example.target[0]), (tokens[0], markers.sentinels[0]));
            assert_eq!(example.target[example.target.len() - 2], tokens[len - 1]);
            let used = example.source.iter().filter(|id| markers.sentinels.contains(id)).copied();
            assert_eq!(used.collect::<Vec<_>>(), markers.sentinels[..objective.n_spans(len)]);
        }
    }
}

#[test]
fn segments_hold_every_document_once_an_epoch() {
    let folder = Folder::new("segments");
    let documents: Vec<String> = (0..100).map(|i| format!("<{i}{}>", "x".repeat(i * 7 % 23))).collect();
    let text = documents.join("\n\n");
    let paths = [folder.write("a.txt", &text[..text.len() / 2]), folder.write("b.txt.gz", &text[text.len() / 2..])];
    let corpus = TextCorpus::open(&paths, &bytes(), 37, 5).unwrap();
    let total: usize = documents.iter().map(String::len).sum();
    assert_eq!((corpus.n_tokens(), corpus.n_segments(), corpus.segment_len()), (total, total / 37, 37));

    let epoch = |e: u64| -> String {
        let ids = (0..corpus.n_segments()).flat_map(|i| corpus.segment(e, i));
        ids.map(|id| char::from(u8::try_from(id - 3).unwrap())).collect()
    };
    let first = epoch(0);
    assert_eq!(first.len(), total / 37 * 37);
    assert_ne!(first, epoch(1));
    // The cut halves a document between the files; all others are whole, in a shuffled order, and at most once there.
    let whole: HashSet<&str> = documents.iter().map(String::as_str).filter(|d| first.contains(*d)).collect();
    assert!(whole.len() >= 95, "{} of 100 documents", whole.len());
    assert!(whole.iter().all(|d| first.matches(*d).count() == 1));
    // Access in any order, across epochs, by another reader.
    let other = TextCorpus::open(&paths, &bytes(), 37, 5).unwrap();
    for (e, i) in [(1, 3), (0, 9), (7, 0), (0, 9)] {
        assert_eq!(other.segment(e, i), corpus.segment(e, i));
    }
}

#[test]
fn a_text_shorter_than_a_segment_is_one_segment() {
    let folder = Folder::new("short");
    let path = folder.write("a.txt", "hello\r\n");
    let corpus = TextCorpus::open(&[&path], &bytes(), 568, 0).unwrap();
    assert_eq!((corpus.n_segments(), corpus.segment(4, 0)), (1, bytes().encode("hello").unwrap()));
    let source = Denoising::open(&[&path], &bytes(), SpanCorruption::default(), 512, 0).unwrap();
    assert_eq!(source.lengths(0), [source.example(0, 0).unwrap().lengths()]);
    let single = folder.write("b.txt", "h");
    assert!(Denoising::open(&[&single], &bytes(), SpanCorruption::default(), 512, 0).is_err());
}

#[test]
fn bad_texts_name_file_and_line() {
    let folder = Folder::new("bad-text");
    let error = |path: &Path| TextCorpus::open(&[path], &bytes(), 64, 0).err().unwrap().to_string();
    let not_utf8 = folder.write("latin1.txt", b"good\n\nbad \xE9\n");
    assert!(error(&not_utf8).contains("latin1.txt:3: ") && error(&not_utf8).contains("UTF-8"));
    assert!(error(&folder.write("empty.txt", "")).contains("empty.txt: the file holds no text"));
    assert!(error(&folder.write("blank.txt.gz", "\n \n")).contains("no text"));
    assert!(error(&folder.0.join("missing.txt")).starts_with("cannot open "));
    let whole = std::fs::read(folder.write("whole.txt.gz", "some text\n".repeat(100))).unwrap();
    assert!(error(&folder.write("cut.gz.txt", &whole[..whole.len() / 2])).starts_with("cannot read "));
    assert!(TextCorpus::open::<PathBuf>(&[], &bytes(), 64, 0).is_err());
}

#[test]
fn byte_models_get_a_clear_error_for_long_texts() {
    let folder = Folder::new("sentinels");
    let path = folder.write("a.txt", "x".repeat(10_000));
    let error = Denoising::open(&[&path], &bytes(), SpanCorruption::default(), 4096, 0).err().unwrap();
    assert!(matches!(error, Error::Input(_)));
    assert!(error.to_string().contains("125 sentinels: use a shorter sequence length"), "{error}");
    let longer_spans = SpanCorruption { mean_span: 20.0, ..SpanCorruption::default() };
    assert!(Denoising::open(&[&path], &bytes(), longer_spans, 4096, 0).is_ok());
}

#[test]
fn denoising_streams_are_pinned() {
    let path = data_file("books_heldout_sample.txt.gz");
    let open = |seed| {
        let source = Denoising::open(&[&path], &bytes(), SpanCorruption::default(), 512, seed).unwrap();
        BatchStream::new(source, BatchOptions { batch_size: 8, seed, ..BatchOptions::default() }).unwrap()
    };
    let mut stream = open(1);
    let segments = stream.source().len_per_epoch();
    assert_eq!(segments, stream.source().corpus().n_tokens() / 568);
    assert_eq!(stream.batches_per_epoch(), segments as u64 / 8);
    let numbers = [0, 1, stream.batches_per_epoch() - 1, stream.batches_per_epoch(), 1_000_000];
    let print = |stream: &mut BatchStream<Denoising>| {
        numbers.map(|i| {
            let batch = stream.get(i).unwrap();
            // 114 labels, rounded up to 8 because none is longer.
            assert_eq!(batch.shape(), (8, 512, 120));
            fingerprint(batch.src_ids.into_iter().chain(batch.labels).chain(batch.tgt_in))
        })
    };
    let prints = print(&mut stream);
    assert_eq!(prints, print(&mut open(1)));
    assert_ne!(prints, print(&mut open(2)));
    // A change here means that runs started before it cannot be resumed.
    assert_eq!(prints, PINNED);
}

const PINNED: [u64; 5] =
    [8313251926627784144, 6688006277923536028, 2167969751134593937, 17021859280370755794, 16386710714580218007];

fn pairs(path: &Path, options: &PairOptions) -> Result<PairSet, Error> {
    PairSet::open(path, None, options, &bytes())
}

#[test]
fn pairs_from_both_formats_are_the_same() {
    let folder = Folder::new("pairs");
    let options = PairOptions { prefix: "say: ".into(), ..PairOptions::default() };
    let tsv = "\u{feff}cat\tK AE1 T\r\n\nżółw\tzuw\ncat\tK AA1 T";
    let json = "{\"source\": \"cat\", \"target\": \"K AE1 T\", \"id\": 3}\n \n{\"source\":\"żółw\",\"target\":\"zuw\"}\n\
                {\"target\":\"K AA1 T\",\"source\":\"cat\"}\n";
    for path in [
        folder.write("a.tsv", tsv),
        folder.write("a.TSV.gz", tsv),
        folder.write("a.jsonl", json),
        folder.write("a.jsonl.gz", json),
    ] {
        let set = pairs(&path, &options).unwrap();
        assert_eq!(set.n_examples(), 3);
        assert_eq!(set.examples()[0].source, bytes().encode_with_eos("say: cat").unwrap());
        assert_eq!(set.examples()[1].target, bytes().encode_with_eos("zuw").unwrap());
        assert_eq!((set.texts()[1].source.as_str(), set.texts()[2].target.as_str()), ("żółw", "K AA1 T"));
        assert_eq!(set.groups(), [vec![0, 2], vec![1]]);
        assert_eq!(set.example(9, 1).unwrap(), set.examples()[1]);
        assert_eq!(set.lengths(0)[0], (9, 8));
    }
    let keys = PairOptions { source_key: "en".into(), target_key: "de".into(), ..PairOptions::default() };
    let other = folder.write("b.txt", "{\"en\": \"cat\", \"de\": \"Katze\"}");
    assert!(pairs(&other, &keys).unwrap_err().to_string().contains(".tsv or .jsonl"));
    let set = PairSet::open(&other, Some(PairFormat::Jsonl), &keys, &bytes()).unwrap();
    assert_eq!(set.texts()[0].target, "Katze");
}

#[test]
fn bad_pairs_name_file_and_line() {
    let folder = Folder::new("bad-pairs");
    for (name, contents, expected) in [
        ("a.tsv", "a\tb\nno tab\n", "a.tsv:2: 1 column(s)"),
        ("b.tsv", "a\tb\n\na\tb\tc\n", "b.tsv:3: 3 column(s)"),
        ("c.tsv", "\tb\n", "c.tsv:1: the source is empty"),
        ("d.tsv", "a\t \n", "d.tsv:1: the target is empty"),
        ("e.jsonl", "{\"source\": \"a\"\n", "e.jsonl:1: not valid JSON"),
        ("f.jsonl", "{\"source\": \"a\"}\n", "f.jsonl:1: there is no key \"target\""),
        ("g.jsonl", "[1]\n", "g.jsonl:1: there is no key \"source\""),
        ("h.jsonl", "{\"source\": 3, \"target\": \"b\"}\n", "h.jsonl:1: the value of \"source\" is not a string"),
        ("i.jsonl", "{\"source\": \"\", \"target\": \"b\"}\n", "i.jsonl:1: the source is empty"),
        ("j.tsv.gz", "", "j.tsv.gz: the file holds no text"),
    ] {
        let error = pairs(&folder.write(name, contents), &PairOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let not_utf8 = folder.write("k.tsv", b"a\tb\nc\t\xFF\n");
    assert!(pairs(&not_utf8, &PairOptions::default()).unwrap_err().to_string().contains("k.tsv:2: "));
}

#[test]
fn long_pairs_are_skipped_truncated_or_refused() {
    let folder = Folder::new("long-pairs");
    let path = folder.write("a.tsv", "abc\tx\nabcd\tx\nab\txyzw\n");
    let options = |too_long| PairOptions { max_source: 4, max_target: 4, too_long, ..PairOptions::default() };
    let skipped = pairs(&path, &options(TooLong::Skip)).unwrap();
    assert_eq!((skipped.n_examples(), skipped.skipped_too_long(), skipped.truncated()), (1, 2, 0));
    let cut = pairs(&path, &options(TooLong::Truncate)).unwrap();
    assert_eq!((cut.n_examples(), cut.skipped_too_long(), cut.truncated()), (3, 0, 2));
    assert_eq!(cut.examples()[1].source, bytes().encode_with_eos("abc").unwrap());
    assert_eq!(cut.examples()[2].target, bytes().encode_with_eos("xyz").unwrap());
    assert_eq!((cut.texts()[1].source.as_str(), cut.texts()[2].target.as_str()), ("abcd", "xyzw"));
    let refused = pairs(&path, &options(TooLong::Error)).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:2: 5 source and 2 target tokens"), "{refused}");
    let none = pairs(&path, &PairOptions { max_source: 2, ..options(TooLong::Skip) }).unwrap_err().to_string();
    assert!(none.contains("all 3 pairs"), "{none}");
    assert!(pairs(&path, &PairOptions { max_source: 1, ..options(TooLong::Truncate) }).is_err());
}

#[test]
fn cmudict_splits_by_word() {
    let dict = CmuDict::open(&data_file("cmudict.dict.gz")).unwrap();
    let find = |word: &str| dict.entries.iter().find(|e| e.word == word).unwrap();
    assert_eq!(find("cat").pronunciations, ["K AE1 T"]);
    assert_eq!(find("tomato").pronunciations, ["T AH0 M EY1 T OW2", "T AH0 M AA1 T OW2"]);
    assert_eq!(find("aalborg").pronunciations, ["AO1 L B AO0 R G", "AA1 L B AO0 R G"]);
    assert_eq!((dict.entries.len(), dict.skipped), (126_052, 0));

    let folder = Folder::new("cmudict");
    let written = dict.write_tsv(&folder.0.join("g2p")).unwrap();
    let words = dict.entries.len();
    assert_eq!(written.train_words + written.dev_words, words);
    assert!((words / 22..words / 18).contains(&written.dev_words), "{} of {words}", written.dev_words);
    let train = pairs(&written.train, &PairOptions::default()).unwrap();
    let dev = pairs(&written.dev, &PairOptions::default()).unwrap();
    assert_eq!((train.n_examples(), train.groups().len()), (written.train_words, written.train_words));
    assert_eq!((dev.n_examples(), dev.groups().len()), (written.dev_lines, written.dev_words));
    assert!(train.texts().iter().all(|pair| !is_dev(&pair.source)));
    assert!(dev.texts().iter().all(|pair| is_dev(&pair.source)));
}

#[test]
fn bad_dictionaries_name_file_and_line() {
    let folder = Folder::new("bad-dict");
    let path = folder.write("a.dict", ";;; comment\ncat K AE1 T\ndog\n");
    assert!(CmuDict::open(&path).unwrap_err().to_string().contains("a.dict:3: the word \"dog\" has no phonemes"));
    let odd = CmuDict::open(&folder.write("b.dict", "3d TH R IY1\ncat K\ncat(2) K\ncat(3) T\n")).unwrap();
    assert_eq!((odd.skipped, odd.entries.len()), (1, 1));
    assert_eq!(odd.entries[0].pronunciations, ["K", "T"]);
}
