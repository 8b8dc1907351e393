//! The one error type of the library: every variant names the cause, the place and, where there is one, the remedy.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the world can do to us. Programmer's errors (wrong shapes while a graph is built) panic instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, disk full.
    #[error("cannot {action} {}: {cause}{}", path.display(), io_remedy(cause))]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    /// A file was read but says something wrong; `line` is 1-based where it means anything.
    #[error("{}{}: {}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default(), readable(what))]
    File { path: PathBuf, line: Option<usize>, what: String },
    /// Another process works in the folder of a run.
    #[error("{}: another process is working in this folder; choose another one", path.display())]
    Busy { path: PathBuf },
    /// The caller's values cannot be used: ids out of range, text too long, impossible settings.
    #[error("{}", readable(.0))]
    Input(String),
    /// A tokenizer has more ids than the model's embedding has rows.
    #[error(
        "the tokenizer has {ids} ids, the model an embedding of {rows} rows: use the model's own tokenizer, or where tokens were \
         added give the model rows for them, once: python -c \"from transformers import AutoModelForSeq2SeqLM as M; m = \
         M.from_pretrained('IN'); m.resize_token_embeddings({ids}); m.save_pretrained('OUT')\""
    )]
    Vocabulary { ids: usize, rows: usize },
    /// A setting has a value that cannot be used. `key` is what recipes call it.
    #[error("{key}: {}", readable(what))]
    Setting { key: String, what: String },
    /// No adapter fits, or the one chosen lacks a needed feature.
    #[error("{0}")]
    Adapter(String),
    /// The device or the host could not give the memory asked for.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device is lost, with everything in its memory. Every later call gives this error, too.
    #[error("the GPU device was lost: {0}; what it held is gone: open it anew and start from what was saved last")]
    DeviceLost(String),
    /// A kernel does not compile: a bug in this program or in the compiler that is named.
    #[error("{0}")]
    Shader(String),
    /// The driver failed, or a call was refused: a bug in this program or its driver.
    #[error("the GPU's driver failed or refused a call: {0}")]
    Driver(String),
    /// A model cannot be had from the hub.
    #[error("{model}: {}", readable(what))]
    Hub { model: String, problem: HubProblem, what: String },
    /// The model was unloaded, and not opened again.
    #[error("the model is unloaded: reopen it first")]
    Unloaded,
    /// The caller wanted it to stop.
    #[error("stopped before the end")]
    Cancelled,
    /// A number that should be finite is not.
    #[error("{0}")]
    Numeric(String),
}

/// Why a model cannot be had from the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubProblem {
    /// There is no connection, or it does not last; or the hub is overloaded. It may work later.
    Network,
    /// No request was to be made, and the model is not in the cache.
    Offline,
    /// The hub wants a token, or another one.
    Access,
    /// There is no such model, revision or file.
    Missing,
    /// What the hub sends cannot be used: no model that is read here, or a file that is not what the hub says it is.
    Content,
}

impl Error {
    /// For `map_err`: `fs::read(path).map_err(Error::io("read", path))`. `action` is a verb: "read", "write", "create".
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |cause| Error::Io { action, path, cause }
    }

    /// A setting that cannot be used.
    pub fn setting(key: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Setting { key: key.into(), what: what.into() }
    }

    /// A file whose contents are wrong as a whole.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), line: None, what: what.into() }
    }

    /// A file with a wrong line (1-based); 0 where a parser does not know the line.
    pub fn line(path: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), line: (line > 0).then_some(line), what: what.into() }
    }
}

fn io_remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => " (free some space, or choose another folder)",
        io::ErrorKind::OutOfMemory => " (pack an archive so that less memory unpacks it, such as with `xz -9`)",
        io::ErrorKind::PermissionDenied => " (check its permissions, or choose another folder)",
        _ => "",
    }
}

/// The most bytes of a message: it may quote a file, which may be one line of any length.
const MOST_SHOWN: usize = 2000;

/// A text that may quote a file: without its middle if it is long.
fn readable(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST_SHOWN {
        return text.into();
    }
    let half = MOST_SHOWN / 2;
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=half).rev().find(is_boundary).unwrap_or(0);
    let end = (text.len() - half..text.len()).find(is_boundary).unwrap_or(text.len());
    format!("{} [... {} bytes ...] {}", &text[..start], end - start, &text[end..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_readable() {
        assert_eq!(Error::line("f", 0, "wrong").to_string(), "f: wrong");
        let long = Error::line("f", 2, format!("no {} (remedy)", "é".repeat(5000))).to_string();
        assert!(long.starts_with("f:2: no éé") && long.ends_with("éé (remedy)") && long.len() < 2100, "{long}");
    }
}
