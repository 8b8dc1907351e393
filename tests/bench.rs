//! The benchmark's own arithmetic, and what it writes.

#![cfg(feature = "cli")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::gpu;
use serde_json::Value;
use t5_wgpu::batch::BatchShape;
use t5_wgpu::bench::{
    BenchOptions, ExpectedResult, FrozenWorkload, SMALL_DISPATCH, Subject, SuiteResult, WorkloadKind, recorded_results,
    render_suite, sampled_places, submission_path,
};
use t5_wgpu::gpu::{Caps, StepWork};
use t5_wgpu::graph::{Dtype, Graph, Tensor64, interpret};
use t5_wgpu::model::{Builder, Model, T5Config};
use t5_wgpu::ops::{Attention, Mask, Matmul, MatmulLayout, gather_index};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool, outline};
use t5_wgpu::verify::{Timed, bench_cases};

fn adapters() -> [Caps; 2] {
    let caps = |kind, subgroup| Caps { kind, subgroup, max_binding: 128 << 20, ..Caps::default() };
    [caps("CPU", Some((8, 8))), caps("discrete GPU", None)]
}

fn flops(steps: &[StepWork]) -> f64 {
    steps.iter().map(|step| step.work.flops).sum()
}

fn bytes(steps: &[StepWork]) -> f64 {
    steps.iter().map(|step| step.work.bytes).sum()
}

#[test]
fn products_are_counted() {
    for caps in adapters() {
        for (layout, a, b) in [
            (MatmulLayout::Nn, [16, 64], [64, 32]),
            (MatmulLayout::Nt, [16, 64], [32, 64]),
            (MatmulLayout::Tn, [64, 16], [64, 32]),
        ] {
            let mut graph = Graph::new();
            let inputs = [graph.leaf("a", &a, Dtype::F32), graph.leaf("b", &b, Dtype::F32)];
            let c = graph.push1(Matmul::new(layout), &inputs);
            let steps = outline(&caps, &graph, &[c]).unwrap();
            assert_eq!(flops(&steps), 2.0 * 16.0 * 32.0 * 64.0, "{layout:?}");
            // Where no operand is packed, each moves once.
            if steps.len() == 1 {
                assert_eq!(bytes(&steps), 4.0 * (16 * 64 + 64 * 32 + 16 * 32) as f64, "{layout:?}");
            }
        }
    }
}

#[test]
fn attention_is_counted() {
    let (batch, heads, d_kv, len) = (2, 3, 8, 20);
    let op = Attention {
        batch,
        heads,
        d_kv,
        q_len: len,
        kv_len: len,
        mask: Mask::Causal,
        fused: true,
        reach: None,
        query_block: 1,
        dropout: 0.0,
        site: 0,
        tiling: None,
    };
    let pairs = (batch * heads * len * len * d_kv) as f64;
    for caps in adapters() {
        let mut graph = Graph::new();
        let qkv = graph.leaf("qkv", &[batch * len, 3 * heads * d_kv], Dtype::F32);
        let seed = graph.leaf("seed", &[batch * len, heads * d_kv], Dtype::F32);
        let out = graph.push(op.clone(), &[qkv])[0];
        assert_eq!(flops(&outline(&caps, &graph, &[out]).unwrap()), 4.0 * pairs);
        let grads = graph.backward(&[(out, seed)], &[(qkv, None)]);
        assert_eq!(flops(&outline(&caps, &graph, &grads).unwrap()), (4.0 + 14.0) * pairs);
    }
}

/// A window's work grows with the length: on an adapter that ends long loops, too, texts of any length can be seen through it.
#[test]
fn windows_are_counted() {
    let (heads, d_kv, len, radius) = (3, 8, 1 << 16, 127);
    for caps in adapters() {
        let caps = Caps { max_iterations: Some(65_535), ..caps };
        let work = |mask: Mask| {
            let op = Attention {
                batch: 1,
                heads,
                d_kv,
                q_len: len,
                kv_len: len,
                mask,
                fused: true,
                reach: None,
                query_block: 1,
                dropout: 0.0,
                site: 0,
                tiling: None,
            };
            let mut graph = Graph::new();
            let qkv = graph.leaf("qkv", &[len, 3 * heads * d_kv], Dtype::F32);
            let ranges = graph.leaf("ranges", &[len, 2], Dtype::U32);
            let out = graph.push(op, &[qkv, ranges, ranges])[0];
            outline(&caps, &graph, &[out])
        };
        let refused = work(Mask::Segments).unwrap_err().to_string();
        assert!(refused.contains("attention over 65536 positions"), "{refused}");
        let pairs = (heads * len * (2 * radius + 1) * d_kv) as f64;
        assert_eq!(flops(&work(Mask::Window { radius }).unwrap()), 4.0 * pairs);
    }
}

/// A training step's products: 6 operations a parameter and token, the encoder's parameters meeting source tokens only.
#[test]
fn a_training_step_is_counted() {
    let gpu = gpu();
    let config = T5Config::preset("tiny").unwrap();
    let model = Model::init(&gpu, config, 0).unwrap();
    let shape = BatchShape { batch: 2, src_len: 24, tgt_len: 12, packed: false };
    let mut b = Builder::new(&model, shape, 0.0);
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let stats = b.loss(hidden, 0.0, 0.0);
    let stats = b.graph.replayed(stats);
    let c = &model.config;
    let inner = c.inner_dim();
    let (source, target) = (48.0, 24.0);
    let feed = (3 * c.d_model * c.d_ff) as f64;
    let attention = (4 * c.d_model * inner) as f64;
    let encoder = c.num_layers as f64 * source * (feed + attention);
    let cross = (2 * c.d_model * inner) as f64 * (source + target);
    let decoder = c.num_decoder_layers as f64 * (target * (feed + attention) + cross);
    let head = target * (c.vocab_size * c.d_model) as f64;
    let pairs = |q: usize, k: usize| (2 * c.num_heads * q * k * c.d_kv) as f64;
    let attended = c.num_layers as f64 * pairs(24, 24) + c.num_decoder_layers as f64 * (pairs(12, 12) + pairs(12, 24));
    let expected = 2.0 * (encoder + decoder + head) + 4.0 * attended;
    let steps = outline(gpu.caps(), &b.graph, &[stats]).unwrap();
    assert_eq!(flops(&steps), expected);
}

#[test]
fn an_outline_is_what_the_plan_records() {
    let gpu = gpu();
    let model = Model::init(&gpu, T5Config::preset("tiny").unwrap(), 0).unwrap();
    let mut b = Builder::new(&model, BatchShape { batch: 2, src_len: 16, tgt_len: 32, packed: false }, 0.0);
    b.decode_step(4, 0);
    let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
    let plan = Plan::compile(&gpu, &b.graph, &[], &options).unwrap();
    let counted = outline(gpu.caps(), &b.graph, &[]).unwrap();
    let recorded = plan.work();
    assert_eq!(recorded.len(), plan.dispatches());
    let same = |(a, b): (&StepWork, &StepWork)| (a.kernel, &a.label, a.work) == (b.kernel, &b.label, b.work);
    assert!(recorded.len() == counted.len() && recorded.iter().zip(&counted).all(same));
}

#[test]
fn every_case_moves_something() {
    for case in
        bench_cases().iter().filter(|case| ["add", "scale", "gather"].iter().any(|name| case.name.starts_with(name)))
    {
        let gpu = gpu();
        let moved = bytes(&case.plan(&gpu, Timed::Forward).unwrap().work());
        let expected = match case.name.as_str() {
            "gather 512 of 32128x512" => (2 * 512 * 512 + 512) as f64,
            "scale_columns 384 of 512x1152" => (2 * 1152 * 512 + 384) as f64,
            "add_columns 384 of 512x1152" => ((2 * 1152 + 384) * 512) as f64,
            _ => (3 * 8192 * 512) as f64,
        };
        assert_eq!(moved, 4.0 * expected, "{}", case.name);
    }
}

fn bench(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_t5")).arg("bench").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const SMALL: [&str; 10] =
    ["--model", "tiny", "--quick", "--seconds", "0.01", "--source-len", "24", "--target-len", "12", "--json"];

#[test]
fn a_run_is_saved_traced_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (old, trace) = (path("old.json"), path("trace.json"));
    let args = [&["encoder", "decode", "train", "--trace", &trace][..], &SMALL].concat();
    let (code, stdout, stderr) = bench(&args);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["schema"], 2);
    assert!(report["adapter"]["name"].is_string() && report["date"].is_string() && report["version"].is_string());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join(".git");
    assert!(report["commit"].is_string() || !repository.exists(), "{}", report["commit"]);
    assert!(report["ceilings"]["flops"].as_f64().unwrap() > 0.0 && report["ceilings"]["bytes"].as_f64().unwrap() > 0.0);
    let figures = report["figures"].as_array().unwrap();
    for section in ["ceilings", "encoder", "decode", "train"] {
        assert!(figures.iter().any(|f| f["section"] == section), "{section}");
    }
    for figure in figures {
        let number = |key: &str| figure[key].as_f64().unwrap_or(f64::NAN);
        assert!(number("low") <= number("value") && number("value") <= number("high"), "{figure}");
    }

    // One slice a dispatch: a step of decoding at each batch size, and one of training.
    let events: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let events = events["traceEvents"].as_array().unwrap();
    let slices = events.iter().filter(|e| e["ph"] == "X").count() as u64;
    let profiles = report["profiles"].as_array().unwrap().iter().filter(|p| p["section"] != "encoder");
    let kernels = profiles.flat_map(|p| p["kernels"].as_array().unwrap());
    assert_eq!(slices, kernels.map(|k| k["dispatches"].as_u64().unwrap()).sum::<u64>());
    let step = figures.iter().find(|f| f["name"] == "train-1x24+12-dropout0.1, step").unwrap();
    let training = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == 2).count() as u64;
    assert_eq!(step["dispatches"].as_u64().unwrap(), training);
    assert!(events.iter().filter(|e| e["ph"] == "X").all(|e| e["dur"].as_f64().unwrap() >= 0.0));

    // The same ceilings again, and a file in which one of them was ten times as high.
    let mut faster = report.clone();
    let first = &mut faster["figures"][0];
    for key in ["value", "low", "high"] {
        first[key] = (10.0 * first[key].as_f64().unwrap()).into();
    }
    fs::write(&old, faster.to_string()).unwrap();
    let (code, stdout, stderr) =
        bench(&["ceilings", "--model", "tiny", "--quick", "--seconds", "0.01", "--compare", &old]);
    assert_eq!(code, Some(0), "{stderr}");
    let line = stdout.lines().find(|line| line.contains("WORSE")).expect("a figure got worse");
    assert!(line.contains(report["figures"][0]["name"].as_str().unwrap()), "{line}");
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.json");
    fs::write(&other, r#"{"schema": 99}"#).unwrap();
    let other = other.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["--model", "t5-medium"], "t5-small"),
        (&["--model", "no/such/folder"], "no model folder"),
        (&["nonsense"], "encoder"),
        (&["--compare", other], "schema 99"),
        (&["ceilings", "--trace", "x.json"], "decode and train"),
        (&["suite", "t5-small/enc-1x1"], "t5-small/enc-512x8"),
        (&["suite", "tiny", "--seconds", "0"], "positive number"),
        (&["table", "no/such/folder"], "no/such/folder"),
    ];
    for (args, expected) in cases {
        let (code, _, stderr) = bench(args);
        assert_ne!(code, Some(0), "{args:?}");
        assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

/// 180 GiB with gradients and moments: refused before anything is allocated, where the memory is the host's.
#[test]
fn a_model_that_does_not_fit_is_refused() {
    let gpu = gpu();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let digits: String = memory.lines().next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    let known_and_small = digits.parse::<u64>().is_ok_and(|kib| kib < 160 << 20);
    if gpu.caps().is_cpu() && known_and_small {
        let (code, _, stderr) = bench(&["train", "--model", "t5-11b", "--quick", "--seconds", "0.01"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("MiB for its parameters") && stderr.contains("smaller --model"), "{stderr}");
    }
}

#[test]
fn predictions_need_no_adapter() {
    let (code, stdout, stderr) = bench(&["--predict", "--model", "flan-t5-xl", "--json", "--adapter", "none such"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["prediction"], &report["guess"]), (&true.into(), &true.into()));
    assert!(report["cards"].as_array().unwrap().len() > 10);
    let (code, stdout, _) = bench(&["--predict"]);
    assert!(code == Some(0) && stdout.starts_with("PREDICTED"), "{stdout}");
}

/// A card wants thousands of invocations: a kernel that has fewer leaves most of it idle, however fast each of them is.
#[test]
fn decoding_keeps_cards_busy() {
    let options = BenchOptions {
        batch: Some(1),
        source_len: Some(512),
        target_len: Some(480),
        ..BenchOptions::new(Subject::parse("t5-base").unwrap())
    };
    let workloads = t5_wgpu::bench::predict(&options, &[]).unwrap().workloads;
    let step = workloads.iter().find(|w| w.name.starts_with("dec-")).unwrap();
    assert!(step.steps.len() > 90, "{} dispatches", step.steps.len());
    // Units of 128 lanes.
    for units in [20, 60, 130] {
        for dispatch in step.steps.iter().filter(|d| d.work.bytes >= SMALL_DISPATCH) {
            let (has, lanes) = (dispatch.invocations(), units * 128);
            assert!(has >= lanes / 2, "{} ({}): {has} invocations for {lanes} lanes", dispatch.kernel, dispatch.label);
        }
    }
}

/// The contents of every leaf that the graph reads: parameters from the device, the batch from the workload.
fn leaves_of(model: &Model, graph: &Graph, frozen: &FrozenWorkload) -> HashMap<String, Tensor64> {
    let batch = frozen.workload.batch(&model.config);
    let whole = |data: &[u32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let contents = |(_, info): (_, &t5_wgpu::graph::ValueInfo)| {
        let data = match info.label.as_str() {
            "src_ids" => whole(&batch.src_ids),
            "tgt_ids" => whole(&batch.tgt_in),
            "src_index" => whole(&gather_index(&batch.src_ids, |_| true)),
            "tgt_index" => whole(&gather_index(&batch.tgt_in, |_| true)),
            "src_lens" => whole(&batch.src_lens),
            "labels" => whole(&batch.labels),
            "dstats" => vec![0.0, 0.0, 0.0, 1.0],
            name => {
                let slice = model.bind(name).unwrap_or_else(|| panic!("{name}"));
                let range = slice.offset..slice.offset + slice.bytes;
                let words: Vec<u32> = pollster::block_on(model.gpu.read(&slice.buffer, range)).unwrap();
                match info.dtype {
                    Dtype::U32 => whole(&words),
                    _ => words.iter().map(|&word| f64::from(f32::from_bits(word))).collect(),
                }
            }
        };
        (info.label.clone(), Tensor64::new(&info.shape, data))
    };
    graph.leaves().map(contents).collect()
}

/// PyTorch's float64 and the oracles agree to the nine digits that are recorded. So weights and ids are what the rules say, and
/// the gate holds a device against the truth.
#[test]
fn the_recorded_results_are_those_of_the_oracles() {
    let recorded = recorded_results().unwrap();
    let model = Subject::parse("tiny").unwrap().open(&gpu(), false).unwrap();
    for frozen in FrozenWorkload::named(&["tiny".into()]).unwrap() {
        let mut b = Builder::new(&model, frozen.workload.shape(), 0.0);
        let encoded = b.encoder();
        let expected = &recorded[&frozen.to_string()];
        match (frozen.workload.kind, expected) {
            (WorkloadKind::Encoder, ExpectedResult::Encoder { states, .. }) => {
                let found = &interpret(&b.graph, &[encoded], &mut leaves_of(&model, &b.graph, &frozen))[0];
                let (len, width) = (frozen.workload.source_len, model.config.d_model);
                for (row, expected) in states.iter().enumerate() {
                    for ((token, column), expected) in sampled_places(len, width).zip(expected) {
                        let found = found.data[(row * len + token) * width + column];
                        assert!((found - expected).abs() < 1e-8 * expected.abs().max(1.0), "{found} {expected}");
                    }
                }
            }
            (WorkloadKind::Train, ExpectedResult::Train { loss, .. }) => {
                let hidden = b.decoder(encoded);
                let stats = b.loss(hidden, 0.0, 0.0);
                let found = &interpret(&b.graph, &[stats], &mut leaves_of(&model, &b.graph, &frozen))[0].data;
                assert!((found[0] / found[1] - loss).abs() < 1e-9, "{found:?} {loss}");
            }
            (WorkloadKind::Decode, ExpectedResult::Decode { ids, log_probs, .. }) => {
                let hidden = b.decoder(encoded);
                let logits = b.logits(hidden, None);
                let mut leaves = leaves_of(&model, &b.graph, &frozen);
                let input = [&[0.0], &ids[..ids.len() - 1].iter().map(|&id| f64::from(id)).collect::<Vec<_>>()[..]];
                leaves.insert("tgt_ids".into(), Tensor64::new(&[ids.len()], input.concat()));
                let found = &interpret(&b.graph, &[logits], &mut leaves)[0];
                for ((row, &id), expected) in found.rows().zip(ids).zip(log_probs) {
                    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    assert_eq!(row.iter().position(|&x| x == top), Some(id as usize));
                    let sum: f64 = row.iter().map(|x| (x - top).exp()).sum();
                    assert!((-sum.ln() - expected).abs() < 1e-8 * expected.abs(), "{} {expected}", -sum.ln());
                }
            }
            (kind, _) => panic!("{kind:?} has another kind's result"),
        }
    }
}

#[test]
fn a_suite_is_measured_checked_submitted_and_laid_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let submit = format!("--submit={}", folder.path().display());
    let args = ["suite", "tiny", "--seconds", "0.01", "--sustained", "0.05", "--tune", "off", &submit];
    let (code, stdout, stderr) = bench(&args);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(stdout.matches("PASS").count(), 3, "{stdout}");
    let written = stderr.lines().find_map(|line| line.strip_prefix("wrote ")).expect("a file was written");
    let result = SuiteResult::read(Path::new(written)).unwrap();
    assert_eq!(submission_path(folder.path(), &result.machine, true).unwrap(), Path::new(written));
    assert!(result.passed() && result.workloads.len() == 3);
    assert!(result.workloads.iter().all(|w| w.left_out.is_none() && w.cold.is_some() && !w.kernels.is_empty()));
    assert_eq!(result.workloads.iter().filter(|w| w.sustained.is_some()).count(), 1);
    assert!(result.ceilings.flops > 0.0 && result.ceilings.bytes > 0.0 && result.ceilings.dispatch_seconds > 0.0);
    // The saved form is the schema that docs/benchmarks.md describes.
    let text = fs::read_to_string(written).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&saved["format"], &saved["schema"]), (&"t5-bench-suite".into(), &1.into()));
    let documented = include_str!("../docs/benchmarks.md");
    let is_documented = |key: &String| {
        let forms = [format!("`{key}`"), format!("`.{key}`"), format!("`{key}[]`"), format!("`.{key}[]`")];
        forms.iter().any(|form| documented.contains(form))
    };
    let workload = saved["workloads"].as_array().unwrap().iter().find(|w| !w["sustained"].is_null()).unwrap();
    let top = [&saved, &saved["machine"]["adapter"], &saved["settings"], &saved["ceilings"], workload];
    let parts = ["gate", "cold", "sustained"].map(|part| &workload[part]);
    let lists = [&workload["gate"]["checks"][0], &workload["figures"][0], &workload["kernels"][0]];
    let machine = saved["machine"].as_object().unwrap().keys().filter(|key| *key != "adapter");
    for key in [&top[..], &parts, &lists].concat().iter().flat_map(|o| o.as_object().unwrap().keys()).chain(machine) {
        assert!(key == "machine" || is_documented(key), "docs/benchmarks.md lacks `{key}`");
    }

    let (code, _, stderr) = bench(&args);
    assert!(code == Some(1) && stderr.contains("is there already") && stderr.contains("--force"), "{stderr}");
    assert_eq!(fs::read_to_string(written).unwrap(), text);

    // A result whose gate failed, and three files that are no results.
    let mut wrong = result.clone();
    wrong.machine.adapter.vendor = "other".into();
    wrong.workloads[0].gate.as_mut().unwrap().passed = false;
    assert!(!wrong.passed());
    let shown = render_suite(&wrong);
    assert!(shown.contains("FAILED tiny/enc-64x4") && shown.matches("~~").count() == 4, "{shown}");
    wrong.submit(folder.path(), false).unwrap();
    let dir = folder.path().to_str().unwrap();
    let page = folder.path().join("page.html");
    let (code, stdout, stderr) = bench(&["table", dir, "--html", page.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("~~ ")).count(), 1, "{stdout}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("tiny") && page.matches("struck\"").count() == 1 && !page.contains("http"), "{page}");

    let bad = [("old.json", text.replacen("\"schema\": 1", "\"schema\": 99", 1)), ("half.json", text[..200].into())];
    for (name, text) in &bad {
        fs::write(folder.path().join(name), text).unwrap();
    }
    fs::write(folder.path().join("report.json"), r#"{"schema": 2, "figures": []}"#).unwrap();
    let (code, stdout, stderr) = bench(&["table", dir]);
    assert_eq!(code, Some(1), "{stderr}");
    for named in ["old.json: has schema 99", "half.json:", "report.json: is a report of `t5 bench --json`", "3 of 5"] {
        assert!(stderr.contains(named), "{named}: {stderr}");
    }
    assert!(stdout.contains("enc-64x4"), "{stdout}");
    let (_, stdout, _) = bench(&["table", dir, "--json"]);
    let table: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!([&table["results"], &table["bad"]].map(|list| list.as_array().unwrap().len()), [2, 3]);

    // What is predicted says how far off it was here, and stays a guess: no card is among the results.
    let (code, stdout, _) = bench(&["--predict", "--model", "tiny", "--results", dir]);
    assert!(code == Some(0) && stdout.contains("A GUESS") && stdout.contains("off by"), "{stdout}");
}

/// On another day the same file: numbers that this program never writes are refused.
#[test]
fn a_result_without_a_measurement_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    for text in ["", "[]", "null", r#"{"format": "t5-bench-suite"}"#, r#"{"format": "t5-bench-suite", "schema": 1}"#] {
        fs::write(&path, text).unwrap();
        let error = SuiteResult::read(&path).unwrap_err().to_string();
        assert!(error.contains("x.json") && error.contains("is not a result"), "{text}: {error}");
    }
}
