//! Models by their names: a server in the test that answers as the hub does, and the ways in which hubs and connections fail.
#![cfg(feature = "hub")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::Scratch;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};
use t5_wgpu::hub::{DownloadProgress, Hub, HubModel, HubOptions, ModelName};
use t5_wgpu::t5::LoadStep;
use t5_wgpu::{Error, HubProblem, Result, T5};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";
const NAME: &str = "someone/tiny";

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn git_hash(bytes: &[u8]) -> String {
    let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &whole).as_ref())
}

/// What was asked for.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    from: Option<u64>,
    token: Option<String>,
}

/// What the server does instead of answering well.
enum Fault {
    None,
    /// Ends the connection after so many bytes of the body.
    Drop(usize),
    /// Rests after so many bytes of the body.
    Rest(usize, Duration),
    /// Another body of the same length.
    WrongBytes,
    /// A body of this length, and headers that say so.
    OtherLength(usize),
    /// Headers that say nothing about the length, and a body without an end.
    Endless,
    /// The whole, although a part was asked for.
    IgnoresRange,
    Status(u16, &'static [(&'static str, &'static str)]),
    Redirect(String),
}

type Plan = Box<dyn Fn(&Asked, usize) -> Fault + Send + Sync>;

struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    /// What the hub says about the model.
    info: Value,
    /// By the path, and how often it was asked for before.
    plan: Plan,
    asked: Mutex<Vec<Asked>>,
    etag: Option<String>,
}

/// A hub with one model.
struct Server {
    inner: Arc<Inner>,
    address: String,
}

impl Server {
    fn new(files: BTreeMap<String, Vec<u8>>, plan: Plan) -> Server {
        let info = info(&files);
        Server::with(files, info, None, plan)
    }

    fn with(files: BTreeMap<String, Vec<u8>>, info: Value, etag: Option<String>, plan: Plan) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner { files, info, plan, asked: Mutex::new(Vec::new()), etag });
        let serving = inner.clone();
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // Whoever hangs up is no fault of the server.
                thread::spawn(move || serving.serve(stream).is_ok());
            }
        });
        Server { inner, address }
    }

    fn tiny(plan: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static) -> Server {
        Server::new(tiny(), Box::new(plan))
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.inner.asked.lock().unwrap())
    }

    /// The methods and paths that were asked for since the last call.
    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    fn options(&self, scratch: &Scratch) -> HubOptions {
        HubOptions { endpoint: self.address.clone(), cache: scratch.path("cache"), ..HubOptions::default() }
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut asked = Asked { method, path, from: None, token: None };
        for line in lines {
            let line = line?;
            let Some((key, value)) = line.split_once(": ") else { break };
            match key.to_lowercase().as_str() {
                "range" => asked.from = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
                "authorization" => asked.token = Some(value.to_owned()),
                _ => {}
            }
        }
        let before = {
            let mut all = self.asked.lock().unwrap();
            let before = all.iter().filter(|other| other.path == asked.path && other.method == asked.method).count();
            all.push(asked.clone());
            before
        };
        self.answer(&mut stream, &asked, (self.plan)(&asked, before))
    }

    fn answer(&self, stream: &mut TcpStream, asked: &Asked, fault: Fault) -> std::io::Result<()> {
        match &fault {
            Fault::Status(status, headers) => {
                let headers: String = headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
                return write!(
                    stream,
                    "HTTP/1.1 {status} X\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
            Fault::Redirect(to) => {
                return write!(
                    stream,
                    "HTTP/1.1 302 X\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
            _ => {}
        }
        let path = asked.path.split('?').next().unwrap();
        let info = self.info.to_string().into_bytes();
        let file = path.split_once(&format!("/resolve/{COMMIT}/")).map(|(_, name)| name);
        let file = file.or_else(|| path.strip_prefix("/elsewhere/"));
        let body = match file {
            None if path.starts_with(&format!("/api/models/{NAME}/revision/")) => Some(&info),
            file => self.files.get(file.unwrap_or(path)),
        };
        let Some(body) = body else {
            return write!(stream, "HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        };
        let mut body = body.clone();
        let etag =
            self.etag.clone().unwrap_or_else(|| if body.len() > 10_000 { sha256(&body) } else { git_hash(&body) });
        let whole = body.len();
        let mut head = format!("x-repo-commit: {COMMIT}\r\netag: \"{etag}\"\r\nconnection: close\r\n");
        match fault {
            Fault::WrongBytes => body[whole / 2] ^= 1,
            Fault::OtherLength(length) => body.resize(length, 0),
            _ => {}
        }
        let from = asked.from.filter(|_| !matches!(fault, Fault::IgnoresRange)).map_or(0, |from| from as usize);
        let status = match from {
            0 => "200 OK".to_owned(),
            from => {
                head += &format!("content-range: bytes {from}-{}/{whole}\r\n", whole - 1);
                body.drain(..from.min(whole));
                "206 Partial Content".to_owned()
            }
        };
        if matches!(fault, Fault::Endless) {
            write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n")?;
            loop {
                stream.write_all(&[0; 4096])?;
            }
        }
        write!(stream, "HTTP/1.1 {status}\r\n{head}content-length: {}\r\n\r\n", body.len())?;
        match fault {
            _ if asked.method == "HEAD" => Ok(()),
            Fault::Drop(after) => stream.write_all(&body[..after.min(body.len())]),
            Fault::Rest(after, length) => {
                stream.write_all(&body[..after])?;
                thread::sleep(length);
                stream.write_all(&body[after..])
            }
            _ => stream.write_all(&body),
        }
    }
}

fn no_fault(_: &Asked, _: usize) -> Fault {
    Fault::None
}

/// A model with everything that its repository would have.
fn tiny() -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = ["config.json", WEIGHTS, "tokenizer_config.json"]
        .map(|name| (name.to_owned(), fs::read(data("tiny-model").join(name)).unwrap()))
        .into();
    for other in ["README.md", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"] {
        files.insert(other.into(), b"never read".to_vec());
    }
    files
}

/// What the hub says about these files.
fn info(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| match bytes.len() > 10_000 {
        true => json!({
            "rfilename": name, "size": bytes.len(), "blobId": "f".repeat(40),
            "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134},
        }),
        false => json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes)}),
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    json!({"id": NAME, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}, "gated": false})
}

fn fetch(options: &HubOptions, name: &str) -> Result<HubModel> {
    let name = ModelName::parse(name).unwrap();
    Hub::new(options.clone())?.fetch(&name, &mut |_| ControlFlow::Continue(()))
}

fn is_tiny(folder: &Path) {
    for name in ["config.json", WEIGHTS, "tokenizer_config.json"] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), tiny()[name], "{name}");
    }
}

#[track_caller]
fn assert_hub(result: Result<HubModel>, expected: HubProblem, says: &[&str]) {
    match result {
        Err(Error::Hub { problem, what, .. }) => {
            assert_eq!(problem, expected, "{what}");
            says.iter().for_each(|part| assert!(what.contains(part), "{part:?} is not in {what:?}"));
        }
        other => panic!("{other:?}"),
    }
}

/// The names of all files below a folder.
fn all_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => waiting.push(entry.path()),
                false => found.push(entry.path().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn blobs(scratch: &Scratch) -> PathBuf {
    scratch.path("cache/models--someone--tiny/blobs")
}

fn part(scratch: &Scratch) -> PathBuf {
    blobs(scratch).join(sha256(&tiny()[WEIGHTS]) + ".part")
}

fn is_weights(asked: &Asked) -> bool {
    asked.path.ends_with(WEIGHTS)
}

#[test]
fn a_model_is_fetched_once_and_then_taken_from_the_cache() {
    let (scratch, server) = (Scratch::new("hub"), Server::tiny(no_fault));
    let options = server.options(&scratch);
    let model = fetch(&options, NAME).unwrap();
    is_tiny(&model.folder);
    assert!(model.folder.ends_with(Path::new("models--someone--tiny/snapshots").join(COMMIT)), "{model:?}");
    let size: usize =
        ["config.json", WEIGHTS, "tokenizer_config.json"].map(|name| tiny()[name].len()).into_iter().sum();
    assert_eq!((model.received, model.licence.as_deref(), model.remark), (size as u64, Some("apache-2.0"), None));
    let resolve = |name: &str| format!("GET /{NAME}/resolve/{COMMIT}/{name}");
    let list = |revision: &str| format!("GET /api/models/{NAME}/revision/{revision}?blobs=true");
    let expected = [list("main"), resolve("config.json"), resolve("tokenizer_config.json"), resolve(WEIGHTS)];
    assert_eq!(server.paths(), expected, "nothing that would not be read, and weights last");
    let root = scratch.path("cache/models--someone--tiny");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT, "as other programs of the cache find it");
    assert_eq!(fs::read(root.join("blobs").join(git_hash(&tiny()["config.json"]))).unwrap(), tiny()["config.json"]);
    assert!(fs::read_link(model.folder.join(WEIGHTS)).is_ok_and(|link| link.is_relative()) || !cfg!(unix));

    let again = fetch(&options, NAME).unwrap();
    assert_eq!((again.folder, again.received), (model.folder.clone(), 0));
    assert_eq!(server.paths(), [list("main")], "one request for the commit");

    let by_commit = format!("{NAME}@{COMMIT}");
    assert_eq!(fetch(&options, &by_commit).unwrap().folder, model.folder);
    let offline = HubOptions { offline: true, ..options.clone() };
    assert_eq!(fetch(&offline, NAME).unwrap().folder, model.folder);
    assert_eq!(server.paths(), [""; 0], "no request for a commit, none offline");

    let other = format!("{NAME}@{}", COMMIT.replace('0', "1"));
    assert_hub(fetch(&options, &other), HubProblem::Content, &["as the commit of"]);
    server.asked();

    fetch(&options, &format!("{NAME}@refs/pr/1")).unwrap();
    assert_eq!(server.paths(), [list("refs%2Fpr%2F1")]);
    assert_eq!(fs::read_to_string(root.join("refs/refs/pr/1")).unwrap(), COMMIT);

    assert_hub(fetch(&offline, "someone/else"), HubProblem::Offline, &["not in", "cache"]);
}

#[test]
fn without_a_network_the_cache_is_taken_and_said() {
    let (scratch, server) = (Scratch::new("hub-gone"), Server::tiny(no_fault));
    let options = server.options(&scratch);
    let folder = fetch(&options, NAME).unwrap().folder;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = HubOptions { endpoint: format!("http://127.0.0.1:{port}"), ..options };
    let begin = Instant::now();
    let found = fetch(&gone, NAME).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "it waits for a hub that it does not need");
    let remark = found.remark.unwrap();
    assert_eq!(found.folder, folder);
    assert!(
        remark.contains("in the cache") && remark.contains("no connection") && remark.contains(&COMMIT[..12]),
        "{remark}"
    );
    assert_hub(fetch(&gone, "someone/else"), HubProblem::Network, &["no connection to http://127.0.0.1", "later"]);
}

#[test]
fn dropped_connections_are_taken_up_where_they_broke() {
    let scratch = Scratch::new("hub-drop");
    let server = Server::tiny(|asked, before| match before {
        0 if is_weights(asked) => Fault::Drop(10_000),
        1 if is_weights(asked) => Fault::Drop(20_000),
        2 if is_weights(asked) => Fault::Drop(0),
        0 => Fault::Drop(3),
        _ => Fault::None,
    });
    let model = fetch(&server.options(&scratch), NAME).unwrap();
    is_tiny(&model.folder);
    let asked = server.asked();
    let starts: Vec<_> = asked.iter().filter(|asked| is_weights(asked)).map(|asked| asked.from).collect();
    assert_eq!(starts, [None, Some(10_000), Some(30_000), Some(30_000)]);
    let whole: u64 =
        ["config.json", WEIGHTS, "tokenizer_config.json"].map(|name| tiny()[name].len() as u64).iter().sum();
    assert_eq!(model.received, whole);
}

#[test]
fn a_stop_leaves_a_part_that_the_next_run_goes_on_from() {
    let scratch = Scratch::new("hub-stop");
    let server = Server::tiny(|asked, _| match is_weights(asked) && asked.from.is_none() {
        true => Fault::Rest(10_000, Duration::from_millis(500)),
        false => Fault::None,
    });
    let options = server.options(&scratch);
    let hub = Hub::new(options.clone()).unwrap();
    let mut stop = |progress: DownloadProgress<'_>| match progress.file == WEIGHTS && progress.done > 2_000 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let stopped = hub.fetch(&ModelName::parse(NAME).unwrap(), &mut stop);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    let have = fs::metadata(part(&scratch)).unwrap().len();
    assert!((1..45_976).contains(&have), "{have}");
    let offline = HubOptions { offline: true, ..options.clone() };
    assert_hub(fetch(&offline, NAME), HubProblem::Offline, &[]);

    server.asked();
    let model = fetch(&options, NAME).unwrap();
    is_tiny(&model.folder);
    assert_eq!(model.received, 45_976 - have);
    let asked = server.asked();
    assert_eq!(asked.iter().map(|asked| asked.from).collect::<Vec<_>>(), [None, Some(have)]);
    assert!(!part(&scratch).exists());
}

#[test]
fn a_damaged_part_is_fetched_again() {
    let scratch = Scratch::new("hub-part");
    let server = Server::tiny(no_fault);
    let options = server.options(&scratch);
    for (bytes, starts) in
        [(vec![7_u8; 9_000], vec![Some(9_000), None]), (vec![7; 45_976], vec![None]), (vec![7; 50_000], vec![None])]
    {
        let _ = fs::remove_dir_all(scratch.path("cache"));
        fs::create_dir_all(blobs(&scratch)).unwrap();
        fs::write(part(&scratch), bytes).unwrap();
        is_tiny(&fetch(&options, NAME).unwrap().folder);
        let asked = server.asked();
        let found: Vec<_> = asked.iter().filter(|asked| is_weights(asked)).map(|asked| asked.from).collect();
        assert_eq!(found, starts);
    }
}

#[test]
fn a_server_that_sends_the_whole_again_is_understood() {
    let scratch = Scratch::new("hub-whole");
    let server = Server::tiny(|asked, before| match (is_weights(asked), before) {
        (true, 0) => Fault::Drop(10_000),
        (true, 1) => Fault::IgnoresRange,
        _ => Fault::None,
    });
    is_tiny(&fetch(&server.options(&scratch), NAME).unwrap().folder);
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_removed_and_named() {
    type MakesFault = fn() -> Fault;
    let cases: [(&str, MakesFault); 6] = [
        (WEIGHTS, || Fault::WrongBytes),
        ("config.json", || Fault::WrongBytes),
        (WEIGHTS, || Fault::OtherLength(45_975)),
        (WEIGHTS, || Fault::OtherLength(45_977)),
        (WEIGHTS, || Fault::OtherLength(1 << 20)),
        (WEIGHTS, || Fault::Endless),
    ];
    for (file, fault) in cases {
        let scratch = Scratch::new("hub-wrong");
        let server = Server::tiny(move |asked, _| if asked.path.ends_with(file) { fault() } else { Fault::None });
        let options = server.options(&scratch);
        assert_hub(fetch(&options, NAME), HubProblem::Content, &[file, "removed"]);
        let left = all_files(&scratch.path("cache"));
        assert!(!left.iter().any(|path| path.contains(".part") || path.ends_with(file)), "{left:?}");
        // The hub was mended.
        let good = HubOptions { endpoint: Server::tiny(no_fault).address, ..options };
        is_tiny(&fetch(&good, NAME).unwrap().folder);
    }
}

#[test]
fn refusals_name_cause_and_remedy() {
    let of = |status, headers: &'static [(&'static str, &'static str)], token: Option<&str>, at: &'static str| {
        let scratch = Scratch::new("hub-refused");
        let server = Server::tiny(move |asked, _| match asked.path.contains(at) {
            true => Fault::Status(status, headers),
            false => Fault::None,
        });
        fetch(&HubOptions { token: token.map(str::to_owned), ..server.options(&scratch) }, NAME)
    };
    let (list, file) = ("/api/", "/resolve/");
    assert_hub(of(401, &[], None, list), HubProblem::Access, &["401", "private or gated", "give a token"]);
    assert_hub(of(401, &[], Some("hf_x"), list), HubProblem::Access, &["does not take this token"]);
    assert_hub(of(403, &[], Some("hf_x"), file), HubProblem::Access, &["accept the model's terms at", NAME]);
    assert_hub(of(404, &[], None, list), HubProblem::Missing, &["no such thing", "the model"]);
    assert_hub(of(404, &[], None, file), HubProblem::Missing, &["config.json"]);
    assert_hub(
        of(404, &[("x-error-code", "RevisionNotFound")], None, list),
        HubProblem::Missing,
        &["no revision main"],
    );
    assert_hub(of(418, &[], None, list), HubProblem::Content, &["418"]);
    assert_hub(of(503, &[("retry-after", "0")], None, list), HubProblem::Network, &["not well", "503", "later"]);
    assert_hub(of(429, &[("retry-after", "0")], None, file), HubProblem::Network, &["too many requests"]);
}

#[test]
fn what_passes_is_tried_again() {
    let scratch = Scratch::new("hub-passing");
    let server = Server::tiny(|_, before| match before {
        0 => Fault::Status(500, &[]),
        1 => Fault::Status(429, &[("retry-after", "0")]),
        _ => Fault::None,
    });
    let mut waits = Vec::new();
    let hub = Hub::new(server.options(&scratch)).unwrap();
    let mut hear = |progress: DownloadProgress<'_>| {
        waits.extend(progress.waiting.map(str::to_owned));
        ControlFlow::Continue(())
    };
    is_tiny(&hub.fetch(&ModelName::parse(NAME).unwrap(), &mut hear).unwrap().folder);
    assert!(waits.iter().any(|why| why.contains("500")) && waits.iter().any(|why| why.contains("429")), "{waits:?}");
}

#[test]
fn redirects_are_followed_and_tokens_stay_at_home() {
    let scratch = Scratch::new("hub-redirect");
    // Large files lie elsewhere, on another port here.
    let store = Server::tiny(no_fault);
    let elsewhere = format!("{}/elsewhere/{WEIGHTS}", store.address);
    let server = Server::tiny(move |asked, _| match &asked.path {
        path if path.ends_with(&format!("{COMMIT}/{WEIGHTS}")) => Fault::Redirect(elsewhere.clone()),
        path if path.ends_with(&format!("{COMMIT}/config.json")) => Fault::Redirect("/elsewhere/config.json".into()),
        _ => Fault::None,
    });
    let options = HubOptions { token: Some("hf_secret".into()), ..server.options(&scratch) };
    is_tiny(&fetch(&options, NAME).unwrap().folder);
    let home = server.asked();
    assert!(home.iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")), "{home:?}");
    assert!(home.iter().any(|asked| asked.path == "/elsewhere/config.json"));
    let abroad = store.asked();
    assert!(abroad.len() == 1 && abroad[0].token.is_none(), "{abroad:?}");
    assert!(!format!("{options:?}").contains("hf_secret"));

    for (to, says) in
        [("/elsewhere/round", "without an end"), ("file:///etc/passwd", "not followed"), ("//x/y", "not followed")]
    {
        let server = Server::tiny(move |asked, _| match asked.path.contains("/api/") {
            true => Fault::None,
            false => Fault::Redirect(to.into()),
        });
        let scratch = Scratch::new("hub-round");
        assert_hub(fetch(&server.options(&scratch), NAME), HubProblem::Content, &[says]);
    }
}

#[test]
fn hostile_names_leave_the_folder_alone() {
    let evil = "../../../../evil";
    let index = json!({"weight_map": {"a": format!("{evil}.safetensors")}}).to_string().into_bytes();
    let name = "model.safetensors.index.json";
    let with = |mut files: BTreeMap<String, Vec<u8>>, more: &[(&str, &[u8])]| {
        files.extend(more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())));
        files
    };
    let strange = with(
        tiny(),
        &[(evil, b"x"), ("/etc/evil", b"x"), ("a/../../evil", b"x"), ("C:\\evil", b"x"), ("\u{1b}[2J", b"x")],
    );
    let scratch = Scratch::new("hub-hostile");
    let server = Server::new(strange, Box::new(no_fault));
    is_tiny(&fetch(&server.options(&scratch), NAME).unwrap().folder);
    assert!(!server.paths().iter().any(|path| path.contains("evil")), "what is not read is not fetched");

    let refused = |files: BTreeMap<String, Vec<u8>>, info: Value, etag: Option<&str>| {
        let scratch = Scratch::new("hub-hostile");
        let server = Server::with(files, info, etag.map(str::to_owned), Box::new(no_fault));
        let error = fetch(&server.options(&scratch), NAME).unwrap_err().to_string();
        let all = all_files(&scratch.path(""));
        let cache = scratch.path("cache").to_str().unwrap().to_owned();
        assert!(all.iter().all(|path| path.starts_with(&cache) && !path.contains("evil")), "{all:?}");
        error
    };
    let mut files = tiny();
    files.remove(WEIGHTS);
    let files = with(files, &[(name, &index), (&format!("{evil}.safetensors"), b"x")]);
    let error = refused(files.clone(), info(&files), None);
    assert!(error.contains("outside of this folder"), "{error}");

    let bare = |files: &BTreeMap<String, Vec<u8>>| {
        let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
        json!({"sha": COMMIT, "siblings": siblings})
    };
    let error = refused(tiny(), bare(&tiny()), Some(evil));
    assert!(error.contains("does not say size and hash"), "{error}");
    for sha in [evil, "", "main", "/etc"] {
        let error = refused(tiny(), json!({"sha": sha, "siblings": info(&tiny())["siblings"]}), None);
        assert!(error.contains("as the commit of main"), "{error}");
    }
    let mut huge = info(&tiny());
    huge["siblings"].as_array_mut().unwrap().iter_mut().for_each(|file| {
        file["size"] = json!(u64::MAX);
        file["lfs"] = Value::Null;
    });
    let error = refused(tiny(), huge, Some(evil));
    assert!(error.contains("does not say size and hash"), "{error}");
    let error = refused(tiny(), json!({"no": "hub"}), None);
    assert!(error.contains("does not answer as a hub does"), "{error}");
    let modules = json!([{"path": "../../evil", "type": "x.Dense"}]).to_string().into_bytes();
    let files = with(tiny(), &[("modules.json", &modules)]);
    assert!(refused(files.clone(), info(&files), None).contains("no plain name"));
}

/// A server that imitates the hub, and gives a list of names alone.
#[test]
fn sizes_and_hashes_may_be_in_headers() {
    let scratch = Scratch::new("hub-bare");
    let siblings: Vec<Value> = tiny().keys().map(|name| json!({"rfilename": name})).collect();
    let info = json!({"sha": COMMIT, "siblings": siblings, "tags": ["t5", "license:mit"]});
    let server = Server::with(tiny(), info, None, Box::new(no_fault));
    let model = fetch(&server.options(&scratch), NAME).unwrap();
    is_tiny(&model.folder);
    assert_eq!(model.licence.as_deref(), Some("mit"));
    assert_eq!(server.paths().iter().filter(|path| path.starts_with("HEAD")).count(), 3);
}

#[test]
fn shards_and_modules_are_found_by_what_names_them() {
    let mut files = tiny();
    files.remove(WEIGHTS);
    let weights = &tiny()[WEIGHTS];
    let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "parts/b.safetensors"}});
    let modules = json!([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
    ]);
    for (name, bytes) in [
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("model-00001-of-00002.safetensors", weights.clone()),
        ("parts/b.safetensors", weights[1..].to_vec()),
        ("model-00009-of-00009.safetensors", b"of another model".to_vec()),
        ("modules.json", modules.to_string().into_bytes()),
        ("1_Pooling/config.json", b"{}".to_vec()),
        ("2_Dense/config.json", b"{ }".to_vec()),
        ("2_Dense/model.safetensors", weights[2..].to_vec()),
        ("2_Dense/pytorch_model.bin", b"never read".to_vec()),
    ] {
        files.insert(name.into(), bytes);
    }
    let scratch = Scratch::new("hub-shards");
    let server = Server::new(files.clone(), Box::new(no_fault));
    let options = server.options(&scratch);
    let folder = fetch(&options, NAME).unwrap().folder;
    let found: Vec<String> = all_files(&folder);
    let found: Vec<&str> = found.iter().map(|path| path.strip_prefix(folder.to_str().unwrap()).unwrap()).collect();
    assert_eq!(
        found,
        [
            "/1_Pooling/config.json",
            "/2_Dense/config.json",
            "/2_Dense/model.safetensors",
            "/config.json",
            "/model-00001-of-00002.safetensors",
            "/model.safetensors.index.json",
            "/modules.json",
            "/parts/b.safetensors",
            "/tokenizer_config.json"
        ]
    );
    for path in found {
        assert_eq!(fs::read(folder.join(&path[1..])).unwrap(), files[&path[1..]], "{path}");
    }
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(fetch(&offline, NAME).unwrap().folder, folder);
    fs::remove_file(folder.join("parts/b.safetensors")).unwrap();
    assert_hub(fetch(&offline, NAME), HubProblem::Offline, &[]);
}

/// It has no tokenizer, and is whole all the same.
#[test]
fn a_model_of_time_series_is_fetched_once() {
    let scratch = Scratch::new("hub-chronos");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families/chronos-t5");
    let read = |name: &str| (name.to_owned(), fs::read(folder.join(name)).unwrap());
    let server = Server::new(["config.json", "model.safetensors"].map(read).into(), Box::new(no_fault));
    let options = server.options(&scratch);
    let fetched = fetch(&options, NAME).unwrap().folder;
    server.paths();
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(fetch(&offline, NAME).unwrap().folder, fetched);
    assert_eq!(server.paths(), [""; 0]);
}

#[test]
fn two_at_once_fetch_one_file_once() {
    let scratch = Scratch::new("hub-two");
    let server = Server::tiny(|asked, _| match is_weights(asked) {
        true => Fault::Rest(10_000, Duration::from_millis(300)),
        false => Fault::None,
    });
    let options = server.options(&scratch);
    thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| fetch(&options, NAME).unwrap().folder));
        both.into_iter().for_each(|one| is_tiny(&one.join().unwrap()));
    });
    assert_eq!(server.paths().iter().filter(|path| path.ends_with(&format!("{COMMIT}/{WEIGHTS}"))).count(), 1);
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let new = |options: HubOptions| Hub::new(options).err().expect("refused").to_string();
    for endpoint in ["", "huggingface.co", "ftp://x", "file:///x", "https://"] {
        assert!(
            new(HubOptions { endpoint: endpoint.into(), ..HubOptions::default() }).contains("address"),
            "{endpoint}"
        );
    }
    assert!(new(HubOptions { cache: PathBuf::new(), ..HubOptions::default() }).contains("folder"));
    assert!(new(HubOptions { token: Some("a\nb".into()), ..HubOptions::default() }).contains("token"));
    assert!(new(HubOptions { proxy: Some("://".into()), ..HubOptions::default() }).contains("proxy"));
}

#[test]
fn an_application_names_a_model() {
    let (scratch, server) = (Scratch::new("hub-t5"), Server::tiny(no_fault));
    let gpu = common::gpu();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let hear = steps.clone();
    let named = T5::builder(NAME)
        .hub(server.options(&scratch))
        .gpu(&gpu)
        .progress(move |progress| hear.lock().unwrap().push(progress.step))
        .load()
        .wait()
        .unwrap();
    let folder = T5::builder(data("tiny-model")).gpu(&gpu).load().wait().unwrap();
    let text = "a text";
    let [a, b] =
        [named.clone(), folder].map(|t5| t5.answer(&[text], &t5.decoding()).wait().unwrap().remove(0).generation.ids);
    assert_eq!(a, b);
    assert!(a.len() > 1);
    let steps = std::mem::take(&mut *steps.lock().unwrap());
    assert!(steps.contains(&LoadStep::Downloading) && steps.last() == Some(&LoadStep::Uploading), "{steps:?}");
    server.asked();
    named.unload().wait().unwrap();
    named.reopen().wait().unwrap();
    assert_eq!(server.paths(), [""; 0], "the same model again, whatever the branch stands at now");
}

#[cfg(feature = "cli")]
mod program {
    use std::process::{Command, Output};

    use super::*;

    fn t5(server: &Server, scratch: &Scratch, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
        command
            .args(arguments)
            .env("T5_TUNE", "off")
            .env("HF_ENDPOINT", &server.address)
            .env("HF_HOME", scratch.path("home"));
        for other in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(other);
        }
        for proxy in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    fn run(command: &mut Command) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    #[test]
    fn commands_take_names() {
        let (scratch, server) = (Scratch::new("hub-cli"), Server::tiny(no_fault));
        fs::create_dir_all(scratch.path("home")).unwrap();
        fs::write(scratch.path("home/token"), "hf_login\n").unwrap();
        let tiny = data("tiny-model");
        let generate = |model: &str| run(&mut t5(&server, &scratch, &["generate", "--model", model, "a text"]));
        let (code, named, said) = generate(NAME);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!("fetching {NAME}")) && said.contains("its licence is apache-2.0, see http://"),
            "{said}"
        );
        assert!(server.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_login")));
        let (_, of_folder, _) = generate(tiny.to_str().unwrap());
        assert_eq!(named, of_folder);
        let (_, again, said) = generate(NAME);
        assert!(again == named && !said.contains("licence"), "it is said once: {said}");

        let offline = |arguments: &[&str]| run(t5(&server, &scratch, arguments).env("HF_HUB_OFFLINE", "1"));
        server.asked();
        let (code, _, said) = offline(&["embed", "--model", NAME, "a text", "--quiet"]);
        assert!(code == Some(0) && !said.contains(NAME), "{said}");
        let pairs = scratch.pairs(3);
        let pairs = pairs.to_str().unwrap();
        let (code, scores, said) = offline(&["score", "--model", NAME, "--pairs", pairs, "--quiet"]);
        assert!(code == Some(0) && !scores.is_empty(), "{said}");
        let (code, _, said) = offline(&["eval", "--model", NAME, "--pairs", pairs, "--json"]);
        assert_eq!(code, Some(0), "{said}");
        let recipe = format!(
            "[model]\nfrom = \"{NAME}\"\n[tasks.a]\ntrain = \"{pairs}\"\ncolumns = [\"source\", \"target\"]\n[[stage]]\nname = \"b\"\ntrain = [\"a\"]\nsteps = 1\n"
        );
        let recipe = scratch.file("recipe.toml", recipe);
        let out = scratch.path("out");
        let dry = ["run", recipe.to_str().unwrap(), "--dry-run", "--out", out.to_str().unwrap()];
        let (code, plan, said) = offline(&dry);
        assert!(code == Some(0) && plan.contains("memory"), "{plan}{said}");
        assert_eq!(server.paths(), [""; 0]);

        let (code, _, said) = offline(&["generate", "--model", "someone/else", "x"]);
        assert!(
            code == Some(1) && said.contains("HF_HUB_OFFLINE") && said.contains("someone/else: is not in"),
            "{said}"
        );
        let (code, _, said) = run(&mut t5(&server, &scratch, &["generate", "--model", "someone/else", "x"]));
        assert!(code == Some(1) && said.contains("404") && said.contains("if a folder was meant"), "{said}");
        let (code, _, said) = run(&mut t5(&server, &scratch, &["generate", "--model", "t5-small", "x"]));
        assert!(code == Some(1) && said.contains("with its owner, such as google/flan-t5-small"), "{said}");
    }

    /// A folder of that name goes first, and nobody is asked.
    #[test]
    fn a_folder_goes_before_a_name() {
        let (scratch, server) = (Scratch::new("hub-folder"), Server::tiny(no_fault));
        fs::create_dir_all(scratch.path(NAME)).unwrap();
        for (name, bytes) in tiny().iter().filter(|(name, _)| !name.contains('/')) {
            fs::write(scratch.path(NAME).join(name), bytes).unwrap();
        }
        let mut command = t5(&server, &scratch, &["generate", "--model", NAME, "a text"]);
        let (code, _, said) = run(command.current_dir(scratch.path("")));
        assert_eq!((code, server.paths().len()), (Some(0), 0), "{said}");
    }

    #[test]
    fn silence_is_broken_while_a_file_is_slow() {
        let scratch = Scratch::new("hub-slow");
        let server = Server::tiny(|asked, _| match is_weights(asked) {
            true => Fault::Rest(10_000, Duration::from_secs(3)),
            false => Fault::None,
        });
        let (code, _, said) = run(&mut t5(&server, &scratch, &["generate", "--model", NAME, "a text"]));
        assert_eq!(code, Some(0), "{said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("model.safetensors: ")).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(" MB/s, ")), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_keeps_what_has_come() {
        let (scratch, server) = (Scratch::new("hub-full"), Server::tiny(no_fault));
        let mut limited = Command::new("sh");
        let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
        limited.args(["-c", script, env!("CARGO_BIN_EXE_t5"), "generate", "--model", NAME, "a text"]);
        limited.env("HF_ENDPOINT", &server.address).env("HF_HOME", scratch.path("home")).env("NO_PROXY", "*");
        let (code, _, said) = run(&mut limited);
        assert!(code == Some(1) && said.contains("cannot write") && said.contains(".part"), "{said}");
        server.asked();
        let (code, _, said) = run(&mut t5(&server, &scratch, &["generate", "--model", NAME, "a text"]));
        assert_eq!(code, Some(0), "{said}");
        let resumed = server.asked().iter().filter(|asked| is_weights(asked)).find_map(|asked| asked.from);
        assert!(resumed.is_some_and(|from| from > 0), "{resumed:?}");
    }

    /// A signal in the middle: the next run goes on.
    #[cfg(unix)]
    #[test]
    fn a_signal_leaves_a_part() {
        let scratch = Scratch::new("hub-signal");
        let server = Server::tiny(|asked, _| match is_weights(asked) && asked.from.is_none() {
            true => Fault::Rest(10_000, Duration::from_secs(60)),
            false => Fault::None,
        });
        let mut child = t5(&server, &scratch, &["generate", "--model", NAME, "a text"]).spawn().unwrap();
        let blobs = scratch.path("home/hub/models--someone--tiny/blobs");
        let part = blobs.join(sha256(&tiny()[WEIGHTS]) + ".part");
        let begin = Instant::now();
        while fs::metadata(&part).map_or(0, |part| part.len()) == 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing comes");
            thread::sleep(Duration::from_millis(20));
        }
        // Not the interrupt of Ctrl-C, which is ignored below a script's background job.
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success() && !child.wait().unwrap().success());
        let have = fs::metadata(&part).unwrap().len();
        server.asked();
        let (code, _, said) = run(&mut t5(&server, &scratch, &["generate", "--model", NAME, "a text"]));
        assert_eq!(code, Some(0), "{said}");
        let starts: Vec<_> = server.asked().iter().filter(|asked| is_weights(asked)).map(|asked| asked.from).collect();
        assert_eq!(starts, [Some(have)]);
    }
}
