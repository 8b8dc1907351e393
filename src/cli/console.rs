//! How the program speaks: the only place that writes to standard output and standard error.
//!
//! [`say!`] is for results and [`note!`] for messages about the work; both show control characters as escapes, since names,
//! values and texts in them come from files and models. [`Data`] is for data that other programs read, which are changed only
//! where a terminal would act on them. [`doing`] says what long work is going on, whenever nothing else has been said for a while.
//! Nothing here panics: a reader that has left ends the command, see [`reader_left`]; a message
//! that nobody can read is dropped. Colours are left to clap, indicatif and crossterm, which all know NO_COLOR.

use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Prints a line of the command's result.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::console::print(&format!("{}\n", format_args!($($part)*))) };
}

/// Prints a line on standard error.
macro_rules! note {
    ($($part:tt)*) => { $crate::cli::console::print_note(&format!($($part)*)) };
}

pub(crate) use {note, say};

/// Writes text as it is, but for control characters, to standard output.
///
/// # Errors
/// It is full, or its reader has left.
pub fn print(text: &str) -> io::Result<()> {
    activity().spoke = Instant::now();
    let mut out = io::stdout().lock();
    out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()).map_err(no_output)
}

/// There is no place to complain about standard error.
pub fn print_note(text: &str) {
    activity().spoke = Instant::now();
    print_line(text);
}

fn print_line(text: &str) {
    let _nobody_listens = writeln!(io::stderr(), "{}", printable(text));
}

/// What the program is at.
struct Activity {
    /// Nothing is said of an empty one.
    what: String,
    /// What it waits for at the moment.
    detail: Option<String>,
    since: Instant,
    /// When something was last printed.
    spoke: Instant,
    muted: bool,
}

static ACTIVITY: LazyLock<Mutex<Activity>> = LazyLock::new(|| {
    // A program without threads left is no worse than a silent one.
    let _no_thread = std::thread::Builder::new().name("activity".into()).spawn(break_silence);
    let now = Instant::now();
    Mutex::new(Activity { what: String::new(), detail: None, since: now, spoke: now, muted: false })
});

fn activity() -> MutexGuard<'static, Activity> {
    ACTIVITY.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn break_silence() {
    const SILENCE: Duration = Duration::from_secs(2);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let mut now = activity();
        if !now.muted && !now.what.is_empty() && now.spoke.elapsed() >= SILENCE {
            let what = now.detail.as_ref().unwrap_or(&now.what);
            print_line(&format!("  {what}, {} s", now.since.elapsed().as_secs()));
            now.spoke = Instant::now();
        }
    }
}

/// From now on until the next call, long silences are broken by a line on standard error that says so. Nothing is said while
/// `what` is empty: the program waits for its user, or something on the screen moves by itself.
pub fn doing(what: &str) {
    let mut now = activity();
    *now = Activity { what: what.into(), detail: None, since: Instant::now(), ..*now };
}

/// Lets silences be, from now on.
pub fn mute() {
    activity().muted = true;
}

/// What the work waits for at the moment, said instead.
pub fn waiting_for(detail: Option<String>) {
    activity().detail = detail;
}

/// Whether the reader of our output, such as `head`, has had enough: no failure of the command.
pub fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Standard output for data, buffered.
pub struct Data {
    out: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Data {
    pub fn new() -> Data {
        Data { out: BufWriter::new(io::stdout().lock()), is_terminal: io::stdout().is_terminal() }
    }
}

impl Write for Data {
    /// A call's bytes are shown together; `write!` gives whole characters.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) if self.is_terminal => self.out.write_all(printable(text).as_bytes()),
            _ => self.out.write_all(bytes),
        }
        .map_err(no_output)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush().map_err(no_output)
    }
}

fn no_output(e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))
}

/// Control characters but line ends and tabs as `\u001b`, which JSON reads as the same; so are marks that turn the direction
/// of all text behind them.
pub fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        assert_eq!(printable("naïve\tline\n"), "naïve\tline\n");
        assert_eq!(printable("\u{1b}]0;x\u{7}\r\u{9b}\u{202e}"), "\\u001b]0;x\\u0007\\u000d\\u009b\\u202e");
        let json = serde_json::json!("a\u{9b}\u{7f}").to_string();
        assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), "a\u{9b}\u{7f}");
    }
}
