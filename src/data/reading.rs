//! Lines of several files as one stream.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use super::lines::for_each_line;
use crate::error::{Error, Result};

/// Lines that are read ahead.
const AHEAD: usize = 1024;

/// All lines of these text files (plain or packed) that are not blank, file after file; read on a thread of its own. After an
/// error, which names its file and line, the stream ends.
pub fn text_lines(paths: Vec<PathBuf>) -> impl Iterator<Item = Result<String>> {
    let (sender, receiver) = mpsc::sync_channel(AHEAD);
    thread::spawn(move || {
        for path in paths {
            // Nobody listens any more: an error that nobody sees stops the reading.
            let stopped = |_| Error::file(&path, "not read to its end");
            if let Err(error) = for_each_line(&path, |_, line| sender.send(Ok(line.to_owned())).map_err(stopped)) {
                let _nobody_listens = sender.send(Err(error));
                return;
            }
        }
    });
    receiver.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_follow_each_other_and_an_error_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "one\n\ntwo").unwrap();
        fs::write(path("b"), b"three\n\xff\nfour\n").unwrap();
        let lines: Vec<_> = text_lines(vec![path("a"), path("b"), path("a")]).collect();
        let good: Vec<&str> = lines.iter().filter_map(|line| line.as_deref().ok()).collect();
        assert_eq!(good, ["one", "two", "three"]);
        let message = lines[3].as_ref().unwrap_err().to_string();
        assert!(lines.len() == 4 && message.contains("b:2"), "{message}");
        assert!(text_lines(vec![path("a")]).next().is_some());
    }
}
