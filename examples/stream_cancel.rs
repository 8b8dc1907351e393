//! Shows an answer as it is made, and stops it after a time:
//! `cargo run --release --example stream_cancel -- MODEL_FOLDER TEXT SECONDS`.

use std::io::Write;
use std::time::Duration;

use t5_wgpu::{Error, Result, T5};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, text, seconds] = arguments.as_slice() else {
        return Err(Error::Input("three arguments are needed: MODEL_FOLDER TEXT SECONDS".into()));
    };
    let seconds: f64 = seconds.parse().map_err(|_| Error::Input(format!("{seconds:?} is no number of seconds")))?;

    let on_progress = |progress: t5_wgpu::t5::LoadProgress| {
        eprint!("\rloading: {} of {} numbers", progress.done, progress.total);
    };
    let t5 = T5::builder(folder).progress(on_progress).load().wait()?;
    eprintln!("\nmemory: {:?}", t5.memory());

    let decoding = t5.decoding().max_new_tokens(2000);
    let stream = t5.stream(text, &decoding);
    let canceller = stream.canceller();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 1e6)));
        canceller.cancel();
    });
    for piece in stream.blocking() {
        match piece {
            Ok(piece) => print!("{}", piece.text),
            Err(Error::Cancelled) => print!(" [stopped]"),
            Err(error) => return Err(error),
        }
        // A closed pipe ends the example without a complaint.
        if std::io::stdout().flush().is_err() {
            break;
        }
    }
    println!();
    Ok(())
}
