//! Streams of text: nothing lost or doubled, the same from any position, any archive and any number of threads.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Scratch;
use flate2::Compression;
use flate2::write::GzEncoder;
use t5_wgpu::Error;
use t5_wgpu::batch::Example;
use t5_wgpu::data::lines::Lines;
use t5_wgpu::data::objective::{Iid, PrefixLm};
use t5_wgpu::data::task::Format;
use t5_wgpu::data::{Documents, Objective, TextOptions, TextPosition, TextStream};
use t5_wgpu::rng::{Purpose, Rng, fnv1a};
use t5_wgpu::tokenizer::Tokenizer;

fn options(objective: Objective, inputs_len: usize) -> TextOptions {
    TextOptions { objective, inputs_len, targets_len: None, seed: 4, documents: Documents::default(), held_out: None }
}

fn at(epoch: u64, window: u64, segment: u64) -> TextPosition {
    TextPosition { epoch, window, segment }
}

fn open(files: &[PathBuf], options: &TextOptions, position: TextPosition) -> TextStream {
    TextStream::open(files, Arc::new(Tokenizer::bytes()), options.clone(), position).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/archives").join(name)
}

fn gzip(contents: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(contents).unwrap();
    gz.finish().unwrap()
}

fn letters(tokens: &[u32]) -> String {
    tokens.iter().map(|&id| char::from(u8::try_from(id - 3).unwrap())).collect()
}

/// Documents of 0 to 40 letters with their numbers, so that no two are alike.
fn documents(count: usize, first: usize) -> Vec<String> {
    (first..first + count).map(|i| format!("<{i}{}>", "x".repeat(i * 7 % 41))).collect()
}

/// All examples of an epoch, with their positions; the stream then stands at the next one.
fn epoch(stream: &mut TextStream) -> Vec<(TextPosition, Example)> {
    let mut examples = Vec::new();
    let epoch = stream.position().epoch;
    while stream.position().epoch == epoch {
        examples.push((stream.position(), stream.next().unwrap()));
    }
    examples
}

fn sorted(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters
}

#[test]
fn an_epoch_holds_every_token_once() {
    let scratch = Scratch::new("text-epoch");
    let (a, b) = (documents(9000, 0), documents(300, 9000));
    let files = [scratch.file("a.txt", a.join("\n\n")), scratch.file("b.txt", b.join("\r\n") + "\r\n")];
    let mut stream = open(&files, &options(Objective::Lm, 64), TextPosition::default());
    assert_eq!(stream.position(), TextPosition::default());
    let all = [a, b].concat();
    let total: usize = all.iter().map(String::len).sum();
    let mut seen = Vec::new();
    for number in 0..3 {
        let examples = epoch(&mut stream);
        assert_eq!(stream.position(), at(number + 1, 0, 0));
        let text = |window: u64| -> String {
            let of = examples.iter().filter(|(place, _)| place.window == window);
            of.map(|(_, example)| letters(&example.target[..example.target.len() - 1])).collect()
        };
        let windows = [text(0), text(1)];
        assert_eq!(windows.iter().map(String::len).sum::<usize>(), total);
        assert_eq!(sorted(&windows.concat()), sorted(&all.concat()));
        // Whole documents, in another order; no segment but a window's last is short.
        assert!(all.iter().all(|document| windows.iter().any(|window| window.contains(document.as_str()))));
        let counts = windows.each_ref().map(|window| window.matches('<').count());
        assert_eq!(counts, [8192, 9300 - 8192]);
        let short = examples.iter().filter(|(_, example)| example.target.len() < 64).count();
        assert!(short <= 2, "{short}");
        seen.push(windows[0].clone());
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && !seen[0].starts_with("<0>"));
    assert_eq!(stream.passes(), 3.0);
}

/// Whatever files write their documents in, and whatever else they hold.
#[test]
fn rows_give_the_stream_of_their_texts() {
    let scratch = Scratch::new("text-rows");
    let texts = documents(500, 0);
    let rows = |row: &dyn Fn(usize, &String) -> String| -> String {
        texts.iter().enumerate().map(|(i, text)| row(i, text) + "\n").collect()
    };
    let json = rows(&|i, text| format!("{{\"text\": {text:?}, \"url\": \"{i}\"}}"));
    let packed = scratch.path("c4.json.gz");
    std::fs::write(&packed, gzip(json.as_bytes())).unwrap();
    let columns = ["n".to_owned(), "body".to_owned()];
    let table = Documents::new(Some(Format::Tsv), Some(&columns), Some("{body}")).unwrap();
    let plain = scratch.file("plain.txt", texts.join("\n"));
    let expected = epoch(&mut open(&[plain], &options(Objective::default(), 64), TextPosition::default()));
    for (file, documents) in
        [(packed, Documents::default()), (scratch.file("table.tsv", rows(&|i, text| format!("{i}\t{text}"))), table)]
    {
        let options = TextOptions { documents, ..options(Objective::default(), 64) };
        assert_eq!(epoch(&mut open(&[file], &options, TextPosition::default())), expected);
    }
    let file = scratch.file("bad.jsonl", json + "{\"url\": 1}\n");
    let options = options(Objective::default(), 64);
    let stream = TextStream::open(&[file], Arc::new(Tokenizer::bytes()), options, TextPosition::default());
    let error = stream.unwrap().next().unwrap_err().to_string();
    assert!(error.contains("bad.jsonl:501: there is no column \"text\"; there are url"), "{error}");
}

#[test]
fn a_stream_goes_on_from_every_position() {
    let scratch = Scratch::new("text-resume");
    let files: Vec<PathBuf> =
        (0..3).map(|i| scratch.file(&format!("{i}.txt"), documents(40, 40 * i).join("\n"))).collect();
    let short = scratch.file("short.txt", documents(5, 0).join("\n"));
    for (files, objective) in [
        (files.as_slice(), "span_corruption"),
        (&files, "ul2"),
        (&files, "prefix_lm"),
        (std::slice::from_ref(&short), "iid_replace_spans"),
    ] {
        let options = options(objective.parse().unwrap(), 40);
        let mut whole = open(files, &options, TextPosition::default());
        let examples: Vec<(TextPosition, Example)> =
            (0..if files.len() > 1 { 300 } else { 30 }).map(|_| (whole.position(), whole.next().unwrap())).collect();
        assert!(whole.position().epoch >= 2);
        for (cut, (position, _)) in examples.iter().enumerate() {
            let json = serde_json::to_string(position).unwrap();
            let mut rest = open(files, &options, serde_json::from_str(&json).unwrap());
            for (place, expected) in examples[cut..].iter().take(12) {
                assert_eq!((&rest.position(), &rest.next().unwrap()), (place, expected));
            }
        }
        let other = TextOptions { seed: 5, ..options };
        assert_ne!(open(files, &other, TextPosition::default()).next().unwrap(), examples[0].1);
    }
}

#[test]
fn a_stream_resumes_in_a_later_window() {
    let scratch = Scratch::new("text-windows");
    let files = [scratch.file("a.txt", documents(20_000, 0).join("\n"))];
    let options = TextOptions { held_out: Some((0.1, false)), ..options(Objective::default(), 128) };
    let mut whole = open(&files, &options, TextPosition::default());
    let examples = epoch(&mut whole);
    assert_eq!(examples.last().unwrap().0.window, 2);
    for cut in [1, examples.len() / 2, examples.len() - 1] {
        let mut rest = open(&files, &options, examples[cut].0.clone());
        for (place, expected) in examples[cut..].iter().take(50) {
            assert_eq!((&rest.position(), &rest.next().unwrap()), (place, expected));
        }
    }
    let (last, _) = examples.last().unwrap();
    for lost in [at(0, 3, 0), at(0, 9, 0), at(0, 2, last.segment + 1), at(5, 1, 1 << 40)] {
        let error = open(&files, &options, lost).next().unwrap_err().to_string();
        assert!(error.contains("there is no segment") && error.contains("a.txt"), "{error}");
    }
}

#[test]
fn progress_grows_from_0_to_1() {
    let scratch = Scratch::new("text-progress");
    let files = [scratch.file("a.txt", documents(9000, 0).join("\n")), scratch.file("b.txt", "a few words\n")];
    let mut stream = open(&files, &options(Objective::Lm, 64), TextPosition::default());
    let mut before = -1.0;
    while stream.position().epoch < 2 {
        let passes = stream.passes();
        assert!(passes >= before && passes < 2.0, "{before} {passes} {:?}", stream.position());
        assert_eq!(passes.floor(), stream.position().epoch as f64);
        before = passes;
        stream.next().unwrap();
    }
    assert!(before > 1.95 && stream.passes() == 2.0);
}

#[test]
fn held_out_documents_are_the_same_in_every_epoch() {
    let scratch = Scratch::new("text-held");
    let all = documents(600, 0);
    let files = [scratch.file("a.txt", all[..500].join("\n")), scratch.file("b.txt", all[500..].join("\n"))];
    let part = |held_out: bool, epochs: u64| -> String {
        let options = TextOptions { held_out: Some((0.2, held_out)), ..options(Objective::Lm, 64) };
        let mut stream = open(&files, &options, at(epochs, 0, 0));
        epoch(&mut stream).iter().map(|(_, example)| letters(&example.target[..example.target.len() - 1])).collect()
    };
    let (rest, held) = (part(false, 0), part(true, 0));
    assert!(all.iter().all(|document| rest.contains(document.as_str()) != held.contains(document.as_str())));
    // 120 expected, deviation 10.
    assert!((80..160).contains(&held.matches('<').count()));
    assert_eq!(sorted(&part(true, 3)), sorted(&held));
    let none = TextOptions { held_out: Some((0.0, true)), ..options(Objective::Lm, 64) };
    let error = open(&files, &none, TextPosition::default()).next().unwrap_err().to_string();
    assert!(error.contains("a.txt, ") && error.contains("hold out more"), "{error}");
}

#[test]
fn a_prefix_lm_does_not_join_documents() {
    let scratch = Scratch::new("text-prefix");
    let all = documents(50, 0);
    let files = [scratch.file("a.txt", all.join("\n") + "\nz\n")];
    let mut stream = open(&files, &options(Objective::PrefixLm(PrefixLm::default()), 31), TextPosition::default());
    let mut texts: Vec<String> = Vec::new();
    for (_, Example { source, target }) in epoch(&mut stream) {
        texts.push(letters(&[&source[..source.len() - 1], &target[..target.len() - 1]].concat()));
    }
    // Documents of more than 30 letters are cut; a rest of one letter cannot be masked.
    let pieces = all.iter().flat_map(|d| [&d[..d.len().min(30)], &d[d.len().min(30)..]]).filter(|p| p.len() > 1);
    let mut expected: Vec<String> = pieces.map(str::to_owned).collect();
    expected.sort_unstable();
    texts.sort_unstable();
    assert_eq!(texts, expected);
}

#[test]
fn of_long_documents_a_part_is_used() {
    let scratch = Scratch::new("text-long");
    let long: String = (0..30_000).map(|i| format!("{i:05}")).collect();
    let files = [scratch.file("a.txt", &long)];
    let mut starts = std::collections::BTreeSet::new();
    let mut stream = open(&files, &options(Objective::Lm, 1001), TextPosition::default());
    for _ in 0..12 {
        let examples = epoch(&mut stream);
        let text: String =
            examples.iter().map(|(_, example)| letters(&example.target[..example.target.len() - 1])).collect();
        let start = long.find(&text).unwrap();
        assert_eq!((start % 65_536, text.len()), (0, 65_536.min(long.len() - start)));
        starts.insert(start);
    }
    assert_eq!(starts.len(), 3);
}

#[test]
fn archives_and_plain_files_are_the_same() {
    let scratch = Scratch::new("text-archives");
    let text: String = (1..=2000).map(|i| format!("{i}\n")).collect();
    let (one, two) = text.split_at(text.len() / 2 + 2);
    let plain = scratch.file("plain", &text);
    let files = [
        scratch.file("plain.marked", format!("\u{feff}{text}")),
        scratch.file("one.gz", gzip(text.as_bytes())),
        scratch.file("two.gz", [gzip(one.as_bytes()), gzip(two.as_bytes())].concat()),
        fixture("seq2000.zst"),
        fixture("seq2000.xz"),
    ];
    let options = options(Objective::default(), 100);
    let expected = epoch(&mut open(&[plain], &options, TextPosition::default()));
    assert!(expected.len() > 50);
    for file in files {
        assert!(
            epoch(&mut open(std::slice::from_ref(&file), &options, TextPosition::default())) == expected,
            "{file:?}"
        );
        let mut lines = Lines::open(&file).unwrap();
        for number in 1..=2000 {
            assert_eq!(lines.next_text().unwrap(), Some((number, number.to_string().as_str())));
        }
        assert_eq!(lines.next_bytes().unwrap(), None);
        assert_eq!(lines.bytes_read(), std::fs::metadata(&file).unwrap().len());
    }
}

#[test]
fn damaged_archives_are_errors_that_name_the_file() {
    let scratch = Scratch::new("text-damaged");
    let random: String = (0..4000).map(|i| format!("{}\n", Rng::new(1, Purpose::Examples, &[i]).next_u64())).collect();
    let archives = [
        ("gz", gzip(random.as_bytes())),
        ("zst", std::fs::read(fixture("seq2000.zst")).unwrap()),
        ("xz", { std::fs::read(fixture("seq2000.xz")).unwrap() }),
    ];
    for (kind, archive) in archives {
        for (how, bytes) in [
            ("short", archive[..archive.len() * 2 / 3].to_vec()),
            ("end", archive[..archive.len() - 1].to_vec()),
            (
                "flipped",
                archive.iter().enumerate().map(|(i, b)| if i == archive.len() / 4 { b ^ 64 } else { *b }).collect(),
            ),
        ] {
            let file = scratch.file(&format!("{how}.{kind}"), bytes);
            let mut stream = open(std::slice::from_ref(&file), &options(Objective::Lm, 64), TextPosition::default());
            let error = loop {
                match stream.next() {
                    Ok(_) => assert_eq!(stream.position().epoch, 0, "{how}.{kind} gives a whole epoch"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Io { .. } | Error::File { .. }), "{error:?}");
            assert!(error.to_string().contains(&format!("{how}.{kind}")), "{error}");
        }
    }
}

#[test]
fn bad_files_name_file_and_line() {
    let scratch = Scratch::new("text-bad");
    let attempt = |files: &[PathBuf]| {
        let stream = TextStream::open(files, Tokenizer::bytes().into(), options(Objective::Lm, 64), at(0, 0, 0));
        stream.and_then(|mut stream| stream.next()).unwrap_err().to_string()
    };
    let good = scratch.file("good.txt", "a few words\n");
    let latin1 = scratch.file("latin1.txt", b"good\n\nbad \xE9\n");
    let error = attempt(&[good.clone(), latin1]);
    assert!(error.contains("latin1.txt:3: ") && error.contains("UTF-8"), "{error}");
    assert!(attempt(&[good, scratch.path("missing.txt")]).starts_with("cannot open "));
    let (empty, blank) = (scratch.file("empty.txt", ""), scratch.file("blank.txt", "\n \t\nx\n"));
    let error = attempt(&[empty, blank]);
    assert!(error.contains("empty.txt, ") && error.contains("blank.txt") && error.contains("no text"), "{error}");
    assert!(attempt(&[]).contains("at least") || attempt(&[]).contains("between 1"));
}

#[test]
fn threads_do_not_matter() {
    let scratch = Scratch::new("text-threads");
    let files = [scratch.file("a.txt", documents(3000, 0).join("\n"))];
    let options = options(Objective::IidReplaceSpans(Iid::default()), 96);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut stream = open(&files, &options, TextPosition::default());
            (0..900).map(|_| stream.next().unwrap()).collect::<Vec<_>>()
        })
    };
    assert!(run(1) == run(2));
    fn is_send<T: Send>() {}
    is_send::<TextStream>();
}

#[test]
fn streams_are_pinned() {
    let books = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/books_heldout_sample.txt.gz");
    let prints = ["span_corruption", "ul2", "bert"].map(|objective| {
        let options = options(objective.parse().unwrap(), 256);
        let mut stream = open(std::slice::from_ref(&books), &options, TextPosition::default());
        let ids = (0..200).flat_map(|_| {
            let Example { source, target } = stream.next().unwrap();
            [source, target].concat()
        });
        fnv1a(ids.flat_map(u32::to_le_bytes))
    });
    // A change here means that runs started before it cannot be resumed.
    assert_eq!(prints, PINNED);
}

const PINNED: [u64; 3] = [15689325967272785161, 1202887566998728634, 5504209084781553983];
