//! A training run on the full screen: the curve of the loss, progress, figures, evaluations and warnings.

mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use t5_wgpu::train::Event;
use view::View;

use super::console::{can_draw, note};

/// How soon a key is seen.
const PATIENCE: Duration = Duration::from_millis(100);

/// The terminal, taken over until [`Screen::end`], the end of its life or a panic, whichever comes first.
pub struct Screen {
    terminal: DefaultTerminal,
    view: View,
    keys: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    stopping: AtomicBool,
}

impl Screen {
    /// Takes over the terminal; `None`, and a message on standard error, where standard output is none that can be drawn
    /// on. The keys q and Ctrl-C call `stop` on another thread; before the second time the terminal is given back, so
    /// that `stop` may end the process.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn open(title: &str, stop: impl Fn() + Send + 'static) -> Result<Option<Screen>> {
        if !can_draw(&io::stdout()) || !io::stdin().is_terminal() {
            note!("no full-screen view: this is no terminal that can be drawn on; plain lines instead");
            return Ok(None);
        }
        let terminal = ratatui::try_init().context("cannot take over the terminal")?;
        let shared = Arc::new(Shared::default());
        let keys = thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(&shared, stop)
        });
        let mut screen = Screen { terminal, view: View::new(title), keys: Some(keys), shared };
        screen.draw();
        Ok(Some(screen))
    }

    /// Takes in what happened and draws it.
    pub fn show(&mut self, event: &Event) {
        self.view.take(event);
        self.draw();
    }

    /// Gives the terminal back.
    pub fn end(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(keys) = self.keys.take() {
            // The thread only waits for keys; if it panicked, the terminal is restored all the same.
            let _ended = keys.join();
            give_back();
        }
    }

    fn draw(&mut self) {
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        let view = &self.view;
        // A picture that cannot be drawn stops no training.
        let _drawn = self.terminal.draw(|frame| view.draw(frame, stopping));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for keys until the screen ends.
fn listen(shared: &Shared, stop: impl Fn()) {
    while !shared.ended.load(Ordering::Relaxed) {
        if !matches!(event::poll(PATIENCE), Ok(true)) {
            continue;
        }
        let Ok(Input::Key(key)) = event::read() else { continue };
        if !means_stop(&key) {
            continue;
        }
        if shared.stopping.swap(true, Ordering::Relaxed) {
            give_back();
        }
        stop();
    }
}

/// Leaves the full screen, with the cursor in sight: the process may end before the terminal's own clean-up.
fn give_back() {
    ratatui::restore();
    // Nothing is left to do about a terminal that refuses.
    let _shown = execute!(io::stdout(), Show);
}

fn means_stop(key: &KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q' | 'Q')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_control_c_stop() {
        let key = |c, modifiers| means_stop(&KeyEvent::new(KeyCode::Char(c), modifiers));
        assert!(key('q', KeyModifiers::NONE) && key('c', KeyModifiers::CONTROL));
        assert!(!key('c', KeyModifiers::NONE) && !key('x', KeyModifiers::CONTROL));
    }
}
