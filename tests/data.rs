//! The pronouncing dictionary: its split and its errors.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use t5_wgpu::data::cmudict::{CmuDict, Written, split_of};
use t5_wgpu::data::task::Files;
use t5_wgpu::data::{Split, TaskConfig, TaskSet};
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

#[test]
fn cmudict_splits_by_word() {
    let dict = CmuDict::open(&data_file("cmudict.dict.gz")).unwrap();
    let find = |word: &str| dict.entries.iter().find(|e| e.word == word).unwrap();
    assert_eq!(find("cat").pronunciations, ["K AE1 T"]);
    assert_eq!(find("tomato").pronunciations, ["T AH0 M EY1 T OW2", "T AH0 M AA1 T OW2"]);
    assert_eq!(find("aalborg").pronunciations, ["AO1 L B AO0 R G", "AA1 L B AO0 R G"]);
    assert_eq!((dict.entries.len(), dict.skipped), (126_052, 0));

    let folder = Folder::new("cmudict");
    let written = dict.write_tsv(&folder.0.join("g2p"), false).unwrap();
    let again = dict.write_tsv(&folder.0.join("g2p"), false).unwrap_err().to_string();
    assert!(again.contains("train.tsv: is there already"), "{again}");
    let words = dict.entries.len();
    assert_eq!(written.iter().map(|file| file.words).sum::<usize>(), words);
    for Written { split, path, words: count, lines } in written {
        let files = Some(Files::Together(vec![path.to_string_lossy().into_owned()]));
        let columns = Some(vec!["source".to_owned(), "target".to_owned()]);
        let task = TaskConfig { train: files.clone(), validation: files, columns, ..TaskConfig::default() };
        let read_as = if split == Split::Train { Split::Train } else { Split::Validation };
        let set = TaskSet::open(&task, Path::new(""), read_as, &bytes()).unwrap();
        assert_eq!(set.n_examples(), count);
        assert!(set.texts().iter().all(|pair| split_of(&pair.source) == split));
        if split == Split::Train {
            assert_eq!(lines, count);
        } else {
            assert_eq!(set.texts().iter().map(|text| text.references.len()).sum::<usize>(), lines);
            assert!((words / 22..words / 18).contains(&count), "{count} of {words}");
        }
    }
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
