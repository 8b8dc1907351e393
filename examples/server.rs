//! Serves a model over TCP, one text a line, one answer a line:
//! `cargo run --release --example server -- MODEL_FOLDER 127.0.0.1:7878`, then `echo "a text" | nc 127.0.0.1 7878`.
//!
//! Texts that arrive while the model works, from whatever connections, are answered together in its next batch. A text's answer
//! is the same in any company.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use t5_wgpu::{Error, Result, T5};

/// The most bytes of a line: more is no text to answer.
const MOST_BYTES: u64 = 1 << 16;

/// Texts that are answered at one time.
const MOST_TEXTS: usize = 64;

/// A text, and where its answer goes.
struct Request {
    text: String,
    reply: Sender<String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, address] = arguments.as_slice() else {
        return Err(Error::Input("two arguments are needed: MODEL_FOLDER ADDRESS".into()));
    };
    let t5 = T5::load(folder).wait()?;
    let listener = TcpListener::bind(address).map_err(Error::io("listen on", address))?;
    let bound = listener.local_addr().map_err(Error::io("listen on", address))?;
    println!("listening on {bound}");

    let (requests, queue) = channel();
    std::thread::spawn(move || answer_batches(&t5, &queue));
    for connection in listener.incoming() {
        let requests = requests.clone();
        let serve = move || match connection.and_then(|connection| serve(&connection, &requests)) {
            Ok(()) => {}
            Err(error) => eprintln!("a connection ended: {error}"),
        };
        if let Err(error) = std::thread::Builder::new().spawn(serve) {
            eprintln!("a connection was refused: {error}");
        }
    }
    Ok(())
}

/// Answers all that is waiting, again and again.
fn answer_batches(t5: &T5, queue: &Receiver<Request>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(MOST_TEXTS - 1));
        let texts: Vec<&str> = batch.iter().map(|request| request.text.as_str()).collect();
        let answers = match t5.answer(&texts, &t5.decoding()).wait() {
            Ok(answers) => answers.into_iter().map(|answer| answer.text.replace(['\n', '\r'], " ")).collect(),
            Err(error) => vec![format!("error: {error}"); batch.len()],
        };
        if matches!(t5.gpu().check(), Err(Error::DeviceLost(_))) {
            eprintln!("the device was lost: opening it anew");
            if let Err(error) = t5.reopen().wait() {
                eprintln!("it cannot be opened: {error}");
            }
        }
        for (request, answer) in batch.into_iter().zip(answers) {
            // Whoever hung up does not wait for it.
            let _ = request.reply.send(answer);
        }
    }
}

/// Reads lines and writes their answers, in order, until the other side hangs up. Lines are read on while answers are made.
fn serve(connection: &TcpStream, requests: &Sender<Request>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection);
    let (replies, waiting) = channel::<Receiver<String>>();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || -> std::io::Result<()> {
            let mut out = BufWriter::new(connection);
            for answer in waiting {
                writeln!(out, "{}", answer.recv().unwrap_or_else(|_| "error: the server is going away".into()))?;
                out.flush()?;
            }
            Ok(())
        });
        loop {
            let mut line = Vec::new();
            let n = lines.by_ref().take(MOST_BYTES).read_until(b'\n', &mut line)?;
            if n == 0 {
                break;
            }
            if n as u64 == MOST_BYTES {
                return Err(std::io::Error::other("a line of more than 64 KiB"));
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (reply, answer) = channel();
            // Without a writer or a model there is nobody to answer.
            if replies.send(answer).is_err() || requests.send(Request { text, reply }).is_err() {
                break;
            }
        }
        drop(replies);
        writer.join().unwrap_or(Ok(()))
    })
}
