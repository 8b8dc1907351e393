//! The rules of the source tree that a compiler does not check: ARCHITECTURE.md gives the layers, and each violation
//! says its file, its line and the reason for the rule.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The layers from top to bottom. A module may use what lies below its own line.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["study"],
    &["verify", "bench", "recipe", "t5", "convert", "forecast"],
    &["train", "generate", "forward", "report", "hub"],
    &["model", "data", "tokenizer", "checkpoint", "tune", "run_folder"],
    &["ops"],
    &["plan", "graph"],
    &["gpu"],
];

/// (user, used): the arrows allowed within a line.
const PEERS: &[(&str, &str)] = &[
    ("model", "checkpoint"),
    ("model", "tune"),
    ("tune", "checkpoint"),
    ("tokenizer", "checkpoint"),
    ("data", "tokenizer"),
    ("train", "forward"),
    ("train", "generate"),
    ("hub", "forward"),
    ("plan", "graph"),
    ("bench", "verify"),
];

/// What every module may use, and itself uses nothing else. `Error` and `Result` are `error`'s, named at the root.
const BASE: &[&str] = &["error", "rng", "files", "batch", "Error", "Result"];

/// The modules of the feature `train`. All others but `cli` are the core, which builds without a feature.
const TRAIN_RING: &[&str] = &["bench", "convert", "data", "recipe", "report", "run_folder", "study", "train", "verify"];

/// Files of the feature `train` in a module of the core.
const TRAIN_FILES: &str = "src/tokenizer/train";

/// The graphics layer must be liftable into another project, so it takes nothing along but the error type and the care for files.
const GPU_MAY_USE: &[&str] = &["error", "files", "Error", "Result"];

const CLI_CRATES: &[&str] =
    &["clap", "clap_complete", "clap_mangen", "anyhow", "ctrlc", "signal_hook", "libc", "ratatui"];

/// The macros and handles that panic, or let a file's control characters through to the terminal.
const BARE_OUTPUT: &[&str] = &["println", "eprintln", "print", "eprint"];

const MAX_RUST_LINES: usize = 500;
const MAX_SHADER_LINES: usize = 250;

/// What must not stay in the tree. Split, so that this file does not hold what it looks for.
const UNFINISHED: &[(&str, &str)] = &[
    (concat!("to", "do!("), "unfinished code"),
    (concat!("unimpl", "emented!("), "unfinished code"),
    (concat!("db", "g!("), "left over from debugging"),
    (concat!("#[ign", "ore"), "a test that does not run proves nothing"),
    (concat!("should_", "panic"), "catch the panic and compare its message, or return an error"),
    (concat!("FIX", "ME"), "finish it or write it up in docs/"),
    (concat!("TO", "DO"), "finish it or write it up in docs/"),
    (concat!("XX", "X"), "finish it or write it up in docs/"),
];

#[test]
fn arrows_between_layers_point_down() {
    let mut found = Vec::new();
    for file in rust_files(&["src"]) {
        let Some(own) = file.top_module() else { continue };
        if !BASE.contains(&own) && rank(own).is_none() {
            found.push(format!("{}:1: module `{own}` has no layer: give it one in {}", file.path, file!()));
            continue;
        }
        for (line, used) in root_paths(&lex(&file.text), file.module_depth()) {
            if let Err(why) = may_use(own, &used) {
                found.push(format!("{}:{line}: `{own}` names `crate::{used}`: {why}", file.path));
            }
        }
    }
    assert_none(found);
}

#[test]
fn only_the_gpu_layer_names_wgpu() {
    let stray = words_outside(&["wgpu"], |path| path.starts_with("src/gpu/") || path == "src/gpu.rs");
    assert_none(
        stray.into_iter().map(|at| format!("{at}: only src/gpu/ talks to wgpu; the rest goes through it")).collect(),
    );
}

#[test]
fn only_the_hub_touches_the_network() {
    let words = ["ureq", "ring", "hf_hub", "TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs"];
    let stray = words_outside(&words, |path| path.starts_with("src/hub/"));
    assert_none(stray.into_iter().map(|at| format!("{at}: a build without the feature `hub` goes nowhere")).collect());
}

#[test]
fn the_core_takes_what_it_is_given() {
    let mut found = Vec::new();
    for file in rust_files(&["src"]).iter().filter(|file| file.is_core()) {
        let tokens = lex(&file.text);
        // A default place for models lies in the home folder.
        let may_look_for_home = file.path == "src/hub/mod.rs";
        for (line, what) in environment_reads(&tokens).filter(|(_, what)| !(may_look_for_home && *what == "home_dir")) {
            let why = "the core reads no environment: make it an option, which src/cli/environment.rs fills";
            found.push(format!("{}:{line}: `{what}`: {why}", file.path));
        }
        for (line, what) in std_clocks(&tokens) {
            found.push(format!("{}:{line}: `std::time::{what}` panics in browsers: take web_time's", file.path));
        }
        for token in tokens.iter().filter(|token| token.is_string && names_the_command_line(token.text)) {
            let why = "a flag or a variable of the program: the library's texts know neither; src/cli may add advice";
            found.push(format!("{}:{}: {:?}: {why}", file.path, token.line, token.text));
        }
    }
    assert_none(found);
}

/// What it must see and what it must overlook.
#[test]
fn the_core_rule_sees_environment_clocks_and_flags() {
    let text = r#"
use std::env;
fn f() { std::env::var("A"); let v = env!("CARGO_PKG_VERSION"); option_env!("B"); }
use std::time::{Duration, Instant};
fn g() { std::time::SystemTime::now(); let s: std::time::Duration = x; web_time::Instant::now(); }
fn h() { std::env::home_dir() }
"#;
    assert_eq!(environment_reads(&lex(text)).collect::<Vec<_>>(), [(2, "env"), (3, "var"), (6, "home_dir")]);
    assert_eq!(std_clocks(&lex(text)).map(|(line, _)| line).collect::<Vec<_>>(), [4, 5]);
    for text in ["use --tune", "(--weights bf16)", "--adapter", "set T5_DEBUG=1", "WGPU_DX12_COMPILER"] {
        assert!(names_the_command_line(text), "{text}");
    }
    for text in ["a -- b", "d--e", "---", "T5", "T5_", "wgpu"] {
        assert!(!names_the_command_line(text), "{text}");
    }
}

#[test]
fn only_the_program_names_its_crates() {
    let stray = words_outside(CLI_CRATES, |path| path.starts_with("src/cli/") || path == "src/main.rs");
    assert_none(stray.into_iter().map(|at| format!("{at}: the library builds without it; use crate::Error")).collect());
}

#[test]
fn the_program_speaks_in_one_place() {
    let mut found = Vec::new();
    for file in rust_files(&["src"]).iter().filter(|file| file.path != "src/cli/console.rs") {
        let tokens = lex(&file.text);
        for pair in tokens.windows(2).filter(|pair| !pair[0].is_string) {
            if pair[1].text == "!" && BARE_OUTPUT.contains(&pair[0].text) {
                found.push(format!(
                    "{}:{}: `{}!`: use say! or note! of src/cli/console.rs",
                    file.path, pair[0].line, pair[0].text
                ));
            }
        }
    }
    assert_none(found);
}

#[test]
fn tests_compile_no_dependency_again() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let names = |table: &str| manifest[table].as_table().unwrap().keys().cloned().collect::<HashSet<String>>();
    let both: Vec<String> = names("dependencies").intersection(&names("dev-dependencies")).cloned().collect();
    let why = "name the features among the dependencies, or `make test` after `make build` compiles it once more";
    assert_none(both.iter().map(|name| format!("Cargo.toml:1: `{name}` is a dev-dependency, too: {why}")).collect());
}

#[test]
fn every_file_says_what_it_is() {
    let mut found = Vec::new();
    for file in rust_files(&["src"]).iter().filter(|f| !f.text.starts_with("//! ")) {
        found.push(format!("{}:1: must open with a `//!` docstring: what the module is for", file.path));
    }
    for file in files(&["shaders"], "wgsl").iter().filter(|f| !f.text.starts_with("// ")) {
        found.push(format!("{}:1: must open with a comment: what it computes, how it is parallelised", file.path));
    }
    assert_none(found);
}

#[test]
fn files_stay_short() {
    let mut found = Vec::new();
    for (files, max) in [(rust_files(&["src"]), MAX_RUST_LINES), (files(&["shaders"], "wgsl"), MAX_SHADER_LINES)] {
        for file in files {
            let lines = file.text.lines().count();
            if lines > max {
                found.push(format!("{}:{lines}: over {max} lines: split it by subject", file.path));
            }
        }
    }
    assert_none(found);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut all = rust_files(&["src", "tests", "benches", "examples"]);
    all.extend(files(&["shaders"], "wgsl"));
    let mut found = Vec::new();
    for file in all {
        for (number, line) in file.text.lines().enumerate() {
            for (needle, why) in UNFINISHED.iter().filter(|(needle, _)| contains_word(line, needle)) {
                found.push(format!("{}:{}: `{needle}`: {why}", file.path, number + 1));
            }
        }
    }
    assert_none(found);
}

#[test]
fn shaders_are_files_and_every_file_is_used() {
    let mut found = Vec::new();
    let mut used = HashSet::new();
    for file in rust_files(&["src"]) {
        let tokens = lex(&file.text);
        // A macro that joins "shaders/", a name and ".wgsl" makes every literal of that file a possible shader's name.
        let joins_names = tokens.windows(3).any(|t| [t[0].text, t[1].text, t[2].text] == ["concat", "!", "("])
            && tokens.iter().any(|t| t.is_string && t.text == ".wgsl");
        for token in tokens.iter().filter(|t| t.is_string) {
            if token.text.contains("@compute") {
                found.push(format!("{}:{}: WGSL in a Rust string: put it in shaders/", file.path, token.line));
            }
            let name = token.text.rsplit('/').next().unwrap_or_default();
            match name.strip_suffix(".wgsl") {
                Some(stem) => used.insert(stem.to_owned()),
                None => joins_names && used.insert(name.to_owned()),
            };
        }
    }
    for file in files(&["shaders"], "wgsl") {
        let stem = file.path.trim_start_matches("shaders/").trim_end_matches(".wgsl");
        if !used.contains(stem) {
            found.push(format!("{}:1: no Rust file includes it: use it or delete it", file.path));
        }
    }
    assert_none(found);
}

#[test]
fn variables_in_shader_loops_have_initialisers() {
    let mut found = Vec::new();
    for file in files(&["shaders"], "wgsl") {
        for line in bare_loop_variables(&lex(&file.text)) {
            found.push(format!(
                "{}:{line}: a variable in a loop without an initialiser: Tint does not make it zero again in each round; say \
                 `= T()`",
                file.path
            ));
        }
    }
    assert_none(found);
}

#[test]
fn the_scanner_sees_bare_variables_in_loops() {
    let text = "fn f() { var a: u32; loop { var b = 1; if x { var c: array<u32, 2>; } } var d: u32; }\nfn g() { for (var i = 0; i < 2; i++) { var e: u32; } }";
    assert_eq!(bare_loop_variables(&lex(text)), [1, 2]);
}

/// The lines of `var`s without an initialiser inside of WGSL's loops.
fn bare_loop_variables(tokens: &[Token]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut blocks: Vec<bool> = Vec::new(); // whether each open block lies in a loop
    let mut loop_begins = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "loop" | "for" | "while" => loop_begins = true,
            "{" => {
                blocks.push(loop_begins || blocks.last() == Some(&true));
                loop_begins = false;
            }
            "}" => _ = blocks.pop(),
            "var" if blocks.last() == Some(&true) => {
                let end = tokens[at..].iter().find(|t| matches!(t.text, "=" | ";"));
                found.extend(end.filter(|t| t.text == ";").map(|_| token.line));
            }
            _ => {}
        }
    }
    found
}

/// The scanner itself: what it must see and what it must overlook.
#[test]
fn the_scanner_reads_rust() {
    let text = r###"
//! crate::comment::x
/* crate::block /* nested */ */
pub use crate::{error::Error, plan::{Plan, slots::{A, B}}, Result};
const C: char = '"'; fn f<'a>(s: &'a str) { crate::ops::g("crate::text::x", r#"crate::"raw""#, '\'') }
pub(crate) use super::sibling::X;
mod tests { use super::*; use super::super::cousin; use super::super::super::model::M; }
use super::super::graph::{Graph};
"###;
    let seen: Vec<(usize, String)> = root_paths(&lex(text), 2);
    let names: Vec<&str> = seen.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["error", "plan", "Result", "ops", "model", "graph"]);
    assert_eq!(seen.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 4, 4, 5, 7, 8]);
}

#[test]
fn the_ring_rule_knows_in_from_out() {
    for (user, used) in [("train", "generate"), ("recipe", "tune"), ("generate", "data"), ("generate", "model")] {
        assert_eq!(may_use(user, used).is_ok(), (user, used) != ("generate", "data"), "{user} -> {used}");
    }
}

#[test]
fn the_layer_rule_knows_up_from_down() {
    for (user, used) in
        [("cli", "gpu"), ("ops", "graph"), ("model", "rng"), ("plan", "graph"), ("gpu", "error"), ("gpu", "gpu")]
    {
        assert_eq!(may_use(user, used), Ok(()), "{user} -> {used}");
    }
    for (user, used) in
        [("graph", "plan"), ("graph", "ops"), ("gpu", "rng"), ("data", "model"), ("error", "gpu"), ("ops", "x")]
    {
        assert!(may_use(user, used).is_err(), "{user} -> {used}");
    }
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_use(user: &str, used: &str) -> Result<(), String> {
    if user == used || GPU_MAY_USE.contains(&used) || PEERS.contains(&(user, used)) {
        return Ok(());
    }
    if user == "gpu" {
        return Err("the gpu layer stands alone, on `error` and `files` only".to_owned());
    }
    if BASE.contains(&used) {
        return Ok(());
    }
    if TRAIN_RING.contains(&used) && !TRAIN_RING.contains(&user) && user != "cli" {
        return Err("the core must build without the feature `train`: move the shared part into the core".to_owned());
    }
    match (rank(user), rank(used)) {
        (_, None) => Err(format!("not a layer: name it by its module's path, or give it a line in {}", file!())),
        (None, _) => Err("a module that everyone uses may use no layer".to_owned()),
        (Some(above), Some(below)) if above < below => Ok(()),
        (Some(above), Some(below)) if above == below => {
            Err("its neighbour in the same layer, with no arrow agreed".to_owned())
        }
        _ => Err("an arrow that points up: move the shared part down, or pass it in".to_owned()),
    }
}

/// Places that name `std::env`, but for the macros that read the environment of the compiler; and what they take from there.
fn environment_reads<'a>(tokens: &'a [Token<'a>]) -> impl Iterator<Item = (usize, &'a str)> {
    let code = tokens.iter().enumerate().filter(|(_, token)| !token.is_string && token.text == "env");
    code.filter_map(|(at, token)| match &tokens[at + 1..] {
        [next, ..] if next.text == "!" => None,
        [a, b, what, ..] if [a.text, b.text] == [":", ":"] => Some((token.line, what.text)),
        _ => Some((token.line, token.text)),
    })
}

/// Places that take a clock from `std::time`.
fn std_clocks<'a>(tokens: &'a [Token<'a>]) -> impl Iterator<Item = (usize, &'a str)> {
    let begins =
        |t: &[Token<'_>]| !t[0].is_string && [t[0].text, t[1].text, t[2].text, t[3].text] == ["std", ":", ":", "time"];
    let paths = tokens.windows(4).enumerate().filter(move |(_, t)| begins(t)).map(|(at, _)| &tokens[at + 4..]);
    paths.filter_map(|path| {
        let end = path.iter().position(|t| !matches!(t.text, ":" | "{" | "," | "Duration" | "Instant" | "SystemTime"));
        let clock = path[..end.unwrap_or(path.len())].iter().find(|t| t.text == "Instant" || t.text == "SystemTime")?;
        Some((clock.line, clock.text))
    })
}

/// Whether a text names a flag (`--adapter`) or a variable of the environment (`T5_DEBUG`).
fn names_the_command_line(text: &str) -> bool {
    let names = |mark: &&str| {
        let at_word = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
        let goes_on = |at: usize| text[at + mark.len()..].starts_with(|c: char| c.is_ascii_alphabetic());
        text.match_indices(*mark).any(|(at, _)| at_word(at) && goes_on(at))
    };
    ["--", "T5_", "WGPU_"].iter().any(names)
}

/// Places in src/ that name one of these words in code, as `file:line: word`.
fn words_outside(words: &[&str], exempt: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust_files(&["src"]).iter().filter(|file| !exempt(&file.path)) {
        for token in lex(&file.text).iter().filter(|t| !t.is_string && words.contains(&t.text)) {
            found.push(format!("{}:{}: `{}`", file.path, token.line, token.text));
        }
    }
    found
}

#[track_caller]
fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

/// Whether `needle` stands in the line with no letter or digit continuing it on a side where it is a word itself.
fn contains_word(line: &str, needle: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(needle).any(|(at, _)| {
        let glued_before = is_word(needle.chars().next()) && is_word(line[..at].chars().next_back());
        let glued_after = is_word(needle.chars().next_back()) && is_word(line[at + needle.len()..].chars().next());
        !glued_before && !glued_after
    })
}

struct SourceFile {
    /// From the repository's root, with forward slashes.
    path: String,
    text: String,
}

impl SourceFile {
    /// `plan` for src/plan/mod.rs, src/plan/slots.rs and src/plan.rs; None for the two crate roots.
    fn top_module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?.trim_end_matches(".rs");
        (!matches!(inside, "lib.rs" | "main.rs")).then_some(first)
    }

    /// Whether the file is part of what builds without a feature.
    fn is_core(&self) -> bool {
        let outside = |module: &str| module == "cli" || TRAIN_RING.contains(&module);
        self.path != "src/main.rs" && !self.path.starts_with(TRAIN_FILES) && !self.top_module().is_some_and(outside)
    }

    /// How many times `super` leads from the file's module to the crate's root.
    fn module_depth(&self) -> usize {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inside.split('/').count()
    }
}

fn rust_files(folders: &[&str]) -> Vec<SourceFile> {
    files(folders, "rs")
}

/// All files with this extension under these folders of the repository, sorted; a folder may be absent.
fn files(folders: &[&str], extension: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<_> = folders.iter().map(|folder| root.join(folder)).filter(|folder| folder.exists()).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // What cargo makes is not ours.
                waiting.extend((!path.ends_with("target")).then_some(path));
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(SourceFile { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

struct Token<'a> {
    line: usize,
    /// A word, one mark, or what stands between a string's quotes.
    text: &'a str,
    is_string: bool,
}

/// Rust as words, marks and strings: without comments, characters and lifetimes.
fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some((open, body, close)) = string(rest) {
            (open + body + close, Some((&rest[open..open + body], true)))
        } else if c == '\'' {
            (character(rest), None)
        } else if word > 0 {
            (word, Some((&rest[..word], false)))
        } else if c.is_whitespace() {
            (c.len_utf8(), None)
        } else {
            (c.len_utf8(), Some((&rest[..c.len_utf8()], false)))
        };
        tokens.extend(token.map(|(text, is_string)| Token { line, text, is_string }));
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

/// The length of the block comment at the start; such comments nest.
fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        let step = &text.as_bytes()[at..];
        if step.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if step.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The lengths of opening, body and closing of the string literal at the start, if there is one.
fn string(text: &str) -> Option<(usize, usize, usize)> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    let hashes = text[prefix..].find(|c| c != '#')?;
    let open = prefix + hashes + 1;
    if prefix > 2 || !text[open - 1..].starts_with('"') {
        return None;
    }
    if text[..prefix].contains('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        let body = text[open..].find(&close).unwrap_or(text.len() - open - close.len());
        return Some((open, body, close.len()));
    }
    let mut escaped = false;
    let body = text[open..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    (hashes == 0).then_some((open, body?, 1))
}

/// The length of the character literal at the start, or of the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            text[escaped + 1..].find('\'').map_or(text.len(), |close| escaped + close + 2)
        }
        (_, Some((close, '\''))) => close + 1,
        _ => 1,
    }
}

/// The first names of all paths that start at the crate's root, with their lines: after `crate::`, the crate's own name,
/// or enough `super::` for a module `depth` levels below the root, in expressions and in nested `use` trees alike.
fn root_paths(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let marks: Vec<&str> = tokens.iter().map(|t| if t.is_string { "" } else { t.text }).collect();
    let follows = |at: usize| marks[at..].starts_with(&[":", ":"]);
    let mut found = Vec::new();
    let mut braces = 0;
    let mut inline_modules = Vec::new();
    let mut at = 0;
    while at < marks.len() {
        let start = at;
        at += 1;
        match marks[start] {
            "{" => {
                braces += 1;
                if start >= 2 && marks[start - 2] == "mod" {
                    inline_modules.push(braces);
                }
            }
            "}" => {
                inline_modules.pop_if(|opened| *opened == braces);
                braces -= 1;
            }
            "crate" | "t5_wgpu" if follows(at) => found.extend(tree_heads(tokens, at + 2)),
            "super" => {
                let mut climbed = 1;
                while follows(at) && marks.get(at + 2) == Some(&"super") {
                    climbed += 1;
                    at += 3;
                }
                if climbed == depth + inline_modules.len() && follows(at) {
                    found.extend(tree_heads(tokens, at + 2));
                }
            }
            _ => {}
        }
    }
    found
}

/// The first names of a path or, where it opens a brace, of each of its branches.
fn tree_heads(tokens: &[Token], at: usize) -> Vec<(usize, String)> {
    let head = |t: &Token| (t.line, t.text.to_owned());
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![head(first)];
    }
    let mut heads = Vec::new();
    let mut depth = 0;
    for (before, token) in tokens[at..].iter().zip(&tokens[at + 1..]) {
        match before.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(before.text, "{" | ",") && token.text != "}" {
            heads.push(head(token));
        }
    }
    heads
}
