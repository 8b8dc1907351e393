//! Stops a run by Ctrl-C, `kill`, or the end of its terminal.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::Context;

use super::console::note;
use super::exit_code::ExitCode;

/// Of Ctrl-C, on every system.
const INTERRUPT: i32 = 2;

static STOP: AtomicBool = AtomicBool::new(false);
static SAVES: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(INTERRUPT);

/// Whether the run was asked to stop.
pub fn interrupted() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Says whether a stop now would find something to save. Without that, the first signal ends the process at once.
pub fn set_saves(saves: bool) {
    SAVES.store(saves, Ordering::Relaxed);
}

/// The exit code of a run that a signal stopped, as shells expect it.
pub fn exit_code() -> ExitCode {
    ExitCode::from(u8::try_from(128 + SIGNAL.load(Ordering::Relaxed)).unwrap_or(u8::MAX))
}

/// What Ctrl-C does.
pub fn interrupt() {
    stop(INTERRUPT);
}

/// The first signal lets the step finish and the checkpoint be written, the second quits at once.
fn stop(signal: i32) {
    SIGNAL.store(signal, Ordering::Relaxed);
    if !SAVES.load(Ordering::Relaxed) {
        note!("stopped: nothing was to be saved");
        end(signal);
    } else if STOP.swap(true, Ordering::Relaxed) {
        end(signal);
    } else {
        note!("stopping after this step (once more quits at once, back to the last checkpoint)");
    }
}

/// Ends the process as the signal would have done by itself.
fn end(signal: i32) -> ! {
    #[cfg(unix)]
    let _ended = signal_hook::low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal)
}

/// Listens from now on.
#[cfg(unix)]
pub fn listen() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    // A program that was started by `nohup` is to outlive its terminal.
    let wanted = [SIGINT, SIGTERM].into_iter().chain((!is_ignored(SIGHUP)).then_some(SIGHUP));
    let mut signals = signal_hook::iterator::Signals::new(wanted).context("cannot listen for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(stop))
        .context("cannot listen for signals")?;
    Ok(())
}

#[cfg(not(unix))]
pub fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(interrupt).context("cannot listen for Ctrl-C")
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one; all of its bytes are set before.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
