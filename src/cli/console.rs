//! All output of the program: the only place that writes to standard output and standard error.
//!
//! [`say!`] is for results and [`note!`] for messages about the work; both show control characters as escapes, since names,
//! values and texts in them come from files and models. [`Data`] is for data that other programs read, which are changed only
//! where a terminal would act on them. [`doing`] and [`show_progress`] tell what long work is going on.
//! Nothing here panics: a reader that has left ends the command, see [`reader_left`]; a message
//! that nobody can read is dropped. Colours are left to clap and crossterm, which know NO_COLOR; where TERM is "dumb", there
//! are none, and nothing moves.

use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ratatui::crossterm::cursor::MoveToColumn;
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{Clear, ClearType, size};

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
    activity().print(text);
}

/// The work that the program is doing.
struct Activity {
    /// Nothing is said of an empty one.
    what: String,
    /// What it waits for at the moment.
    detail: Option<String>,
    /// On a terminal: the line below all others, which shows the progress.
    progress: Option<String>,
    since: Instant,
    /// When something was last printed.
    spoke: Instant,
    muted: bool,
}

static ACTIVITY: LazyLock<Mutex<Activity>> = LazyLock::new(|| {
    // A program without threads left is no worse than a silent one.
    let _no_thread = std::thread::Builder::new().name("activity".into()).spawn(keep_alive);
    let now = Instant::now();
    Mutex::new(Activity { what: String::new(), detail: None, progress: None, since: now, spoke: now, muted: false })
});

fn activity() -> MutexGuard<'static, Activity> {
    ACTIVITY.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Activity {
    fn print(&mut self, text: &str) {
        self.spoke = Instant::now();
        self.clear();
        let _nobody_listens = writeln!(io::stderr(), "{}", printable(text));
        self.draw();
    }

    fn draw(&self) {
        const TURNS: [char; 4] = ['-', '\\', '|', '/'];
        let Some(progress) = &self.progress else { return };
        let turn = TURNS[self.since.elapsed().as_millis() as usize / 200 % TURNS.len()];
        let line = format!("{turn} {}", self.detail.as_ref().unwrap_or(progress));
        // Some terminals do not know their width.
        let width = size().ok().map(|(columns, _)| usize::from(columns)).filter(|&columns| columns > 0).unwrap_or(80);
        let shown: String = printable(&line).chars().take(width.saturating_sub(1)).collect();
        self.clear();
        let _nobody_looks = io::stderr().write_all(shown.as_bytes());
    }

    fn clear(&self) {
        if self.progress.is_some() {
            let _nobody_looks = queue!(io::stderr(), MoveToColumn(0), Clear(ClearType::CurrentLine));
        }
    }
}

/// Lets the line of progress move, and breaks silences where there is none.
fn keep_alive() {
    const SILENCE: Duration = Duration::from_secs(2);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let mut now = activity();
        if now.progress.is_some() {
            now.draw();
        } else if !now.muted && !now.what.is_empty() && now.spoke.elapsed() >= SILENCE {
            let what = now.detail.as_ref().unwrap_or(&now.what);
            let line = format!("  {what}, {} s", now.since.elapsed().as_secs());
            now.print(&line);
        }
    }
}

/// From now on until the next call, long silences are broken by a line on standard error that says so. Nothing is said while
/// `what` is empty: the program waits for its user, or something on the screen moves by itself.
pub fn doing(what: &str) {
    let mut now = activity();
    (now.what, now.detail, now.since) = (what.into(), None, Instant::now());
}

/// Whether what is written there can move the cursor, and colour what it writes.
pub fn can_draw(place: &impl IsTerminal) -> bool {
    place.is_terminal() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Shows a bar and `what` in a line below all others, until [`end_progress`]; as [`doing`] where nothing can be drawn. Without
/// a `total` there is no bar.
pub fn show_progress(done: u64, total: u64, what: &str) {
    let counted = if total > 0 { format!("{done}/{total} {what}") } else { what.to_owned() };
    if !can_draw(&io::stderr()) {
        return doing(&counted);
    }
    let bar = if total > 0 { bar(done, total) + " " } else { String::new() };
    activity().progress = Some(bar + &counted);
}

/// Takes the line of [`show_progress`] away.
pub fn end_progress() {
    doing("");
    let mut now = activity();
    now.clear();
    now.progress = None;
}

/// `██████████████░░░░░░░░░░`
fn bar(done: u64, total: u64) -> String {
    const WIDTH: usize = 24;
    let filled = (WIDTH as f64 * done as f64 / total as f64).min(WIDTH as f64) as usize;
    "█".repeat(filled) + &"░".repeat(WIDTH - filled)
}

/// `45 s`, `12 min 05 s`, `3 h 07 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.clamp(0.0, 1e9).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Says nothing in silences from now on.
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
    out: BufWriter<Stdout>,
    is_terminal: bool,
}

impl Data {
    pub fn new() -> Data {
        Data { out: BufWriter::new(io::stdout()), is_terminal: io::stdout().is_terminal() }
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
    fn times_and_bars_are_readable() {
        assert_eq!([0.4, 59.6, 11_220.0].map(duration), ["0 s", "1 min 00 s", "3 h 07 min"]);
        for (done, filled) in [(0, 0), (1, 12), (2, 24), (3, 24)] {
            assert_eq!(bar(done, 2), "█".repeat(filled) + &"░".repeat(24 - filled));
        }
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        assert_eq!(printable("naïve\tline\n"), "naïve\tline\n");
        assert_eq!(printable("\u{1b}]0;x\u{7}\r\u{9b}\u{202e}"), "\\u001b]0;x\\u0007\\u000d\\u009b\\u202e");
        let json = serde_json::json!("a\u{9b}\u{7f}").to_string();
        assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), "a\u{9b}\u{7f}");
    }
}
