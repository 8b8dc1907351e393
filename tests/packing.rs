//! Several examples in a row: how rows are filled, and that a model learns the same from them as from one example a row.

mod common;

use std::path::Path;

use std::ops::Range;

use common::gpu;
use t5_wgpu::batch::{Batch, BatchShape, Example, IGNORE};
use t5_wgpu::data::Packer;
use t5_wgpu::model::{Model, read_span};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::train::engine::{Engine, LossStats, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

const FOLDERS: [&str; 5] = ["t5v10", "flan", "byt5", "umt5", "mt5"];

fn example(source: &[u32], target: &[u32]) -> Example {
    Example { source: source.to_vec(), target: target.to_vec() }
}

/// A shape whose rows hold several examples.
fn shape((batch, src_len, tgt_len): (usize, usize, usize)) -> BatchShape {
    BatchShape { batch, src_len, tgt_len, packed: true }
}

/// Which examples of these (source, target) lengths each row of (source, target) tokens holds.
fn next_fit(lengths: &[(usize, usize)], row: (usize, usize)) -> Vec<Range<usize>> {
    let mut packer = Packer::new(row.0, row.1);
    let mut rows: Vec<Range<usize>> = Vec::new();
    for (i, &(source, target)) in lengths.iter().enumerate() {
        match (packer.push(source, target), rows.last_mut()) {
            (false, Some(row)) => row.end = i + 1,
            _ => rows.push(i..i + 1),
        }
    }
    rows
}

/// The example of SeqIO's documentation of `make_autoregressive_inputs`.
#[test]
fn targets_shift_within_their_segments() {
    let examples = [example(&[2, 1], &[3, 8, 1]), example(&[5], &[9, 1]), example(&[6, 7, 1], &[5, 4, 1])];
    let batch = Batch::collate(&[examples.iter().collect(), Vec::new()], shape((2, 7, 10)), 0, 0);
    let segments = batch.segments.as_ref().unwrap();
    assert_eq!(batch.tgt_in[..10], [0, 3, 8, 0, 9, 0, 5, 4, 0, 0]);
    assert_eq!(segments.tgt[..10], [1, 1, 1, 2, 2, 3, 3, 3, 0, 0]);
    assert_eq!(batch.labels[..10], [3, 8, 1, 9, 1, 5, 4, 1, IGNORE, IGNORE]);
    assert_eq!(
        (&batch.src_ids[..7], &segments.src[..7]),
        ([2, 1, 5, 6, 7, 1, 0].as_slice(), [1, 1, 2, 3, 3, 3, 0].as_slice())
    );
    assert!(segments.src[7..].iter().chain(&segments.tgt[10..]).all(|&id| id == 0));
    assert!(batch.labels[10..].iter().all(|&label| label == IGNORE));
    assert_eq!((batch.src_lens.as_slice(), batch.tgt_lens.as_slice()), ([6, 0].as_slice(), [8, 0].as_slice()));
    assert_eq!((batch.n_tokens(), batch.n_positions()), (14, 34));

    // A start id of its own stands before every target, and nowhere else.
    let batch = Batch::collate(&[examples.iter().collect()], shape((1, 6, 9)), 0, 50);
    assert_eq!(batch.tgt_in, [50, 3, 8, 50, 9, 50, 5, 4, 0]);
}

#[test]
fn too_long_rows_are_refused() {
    let message = |f: fn()| *std::panic::catch_unwind(f).unwrap_err().downcast::<String>().unwrap();
    let found = message(|| {
        let long = example(&[1; 3], &[1]);
        Batch::collate(&[vec![&long, &long]], shape((1, 5, 2)), 0, 0);
    });
    assert!(found.contains("row 0 has more than 5 source tokens"), "{found}");
    let found = message(|| drop(next_fit(&[(3, 1), (2, 9)], (4, 8))));
    assert!(found.contains("2 and 9 tokens in a row of 4 and 8"), "{found}");
}

/// Rows of example numbers, as the words "next-fit" say it.
fn naive_next_fit(lengths: &[(usize, usize)], row: (usize, usize)) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for i in 0..lengths.len() {
        let open = rows.last().cloned().unwrap_or_default();
        let with = open.iter().chain([&i]).map(|&k| lengths[k]).fold((0, 0), |(s, t), (ds, dt)| (s + ds, t + dt));
        match rows.last_mut() {
            Some(open) if with.0 <= row.0 && with.1 <= row.1 => open.push(i),
            _ => rows.push(vec![i]),
        }
    }
    rows
}

#[test]
fn next_fit_loses_nothing_and_never_overflows() {
    assert!(next_fit(&[], (4, 4)).is_empty());
    let mut rng = Rng::new(11, Purpose::Examples, &[0]);
    for _ in 0..500 {
        let row = (1 + rng.below(40) as usize, 1 + rng.below(40) as usize);
        let mut length = |most: usize| rng.below(most as u64 + 1) as usize;
        let lengths: Vec<_> = (0..60).map(|_| (length(row.0), length(row.1))).collect();
        let rows = next_fit(&lengths, row);
        let numbers: Vec<Vec<usize>> = rows.iter().map(|row| row.clone().collect()).collect();
        assert_eq!(numbers, naive_next_fit(&lengths, row), "{lengths:?} in {row:?}");
        assert_eq!(numbers.concat(), (0..60).collect::<Vec<_>>());
        for examples in &rows {
            let sum = lengths[examples.clone()].iter().fold((0, 0), |(s, t), (ds, dt)| (s + ds, t + dt));
            assert!(sum.0 <= row.0 && sum.1 <= row.1);
        }

        // One example after the other: `fits` says beforehand what `push` does.
        let mut packer = Packer::new(row.0, row.1);
        let starts: Vec<usize> = rows.iter().map(|row| row.start).collect();
        for (i, &(source, target)) in lengths.iter().enumerate() {
            let fits = packer.fits(source, target);
            assert_eq!(packer.push(source, target), !fits);
            assert_eq!(starts.contains(&i), !fits || i == 0);
        }
    }
}

/// Short examples, of 1 to 14 source and 1 to 9 target tokens.
fn examples(vocab: usize, n: usize) -> Vec<Example> {
    let mut rng = Rng::new(3, Purpose::Examples, &[1]);
    let mut ids = |most: u64| -> Vec<u32> {
        let len = 1 + rng.below(most);
        (0..len).map(|_| 2 + rng.below(vocab as u64 - 2) as u32).collect()
    };
    (0..n).map(|_| Example { source: ids(14), target: ids(9) }).collect()
}

fn padded(examples: &[&Example], rows: usize) -> Batch {
    let examples: Vec<Vec<&Example>> = examples.iter().map(|&example| vec![example]).collect();
    Batch::collate(&examples, BatchShape { packed: false, ..shape((rows, 14, 9)) }, 0, 0)
}

/// Rows of 37 source and 22 target tokens, and so many of them.
fn packed(examples: &[&Example], rows: usize) -> Batch {
    let lengths: Vec<_> = examples.iter().map(|example| example.lengths()).collect();
    let ranges = next_fit(&lengths, (37, 22));
    assert!(ranges.len() < examples.len());
    let filled: Vec<Vec<&Example>> = ranges.into_iter().map(|range| examples[range].to_vec()).collect();
    Batch::collate(&filled, shape((rows, 37, 22)), 0, 0)
}

/// Loss and gradients, tensor by tensor, of micro-batches added up.
fn gradients(engine: &mut Engine, batches: &[Batch]) -> (LossStats, Vec<(String, Vec<f32>)>) {
    engine.begin_step();
    for batch in batches {
        engine.micro_batch(batch, [0; 4]).unwrap();
    }
    let (stats, _) = pollster::block_on(engine.finish_gradients().unwrap().finish()).unwrap();
    let tensors = engine.model.layout.tensors();
    let read = |tensor| pollster::block_on(read_span(&engine.model.gpu, tensor, engine.gradients())).unwrap();
    (stats, tensors.iter().map(|tensor| (tensor.name.clone(), read(tensor))).collect())
}

fn relative_l2(found: &[f32], reference: &[f32]) -> f64 {
    let pairs = found.iter().zip(reference).map(|(&f, &r)| (f64::from(f), f64::from(r)));
    let (difference, norm) = pairs.fold((0.0, 0.0), |(d, n), (f, r)| (d + (f - r).powi(2), n + r * r));
    (difference / f64::max(norm, 1e-30)).sqrt()
}

/// Shared blocks, and sources and targets in one row.
const ARCHITECTURES: [&str; 4] = [
    "architectures/umt5-shared",
    "architectures/language-model",
    "architectures/prefix-lm",
    "architectures/umt5-prefix-lm",
];

/// Tied and untied heads, a table of biases in each layer, odd sizes: the five families, an encoder that sees
/// windows, and the other architectures. Neither packing nor how the
/// examples are dealt out to micro-batches changes a step by more than float32's noise.
#[test]
fn packed_rows_teach_the_same() {
    let gpu = gpu();
    for folder in FOLDERS.into_iter().chain(["families/longt5-local"]).chain(ARCHITECTURES) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
        let model = Model::load(&gpu, &dir).unwrap().0;
        let owned = examples(model.config.vocab_size, 16);
        let all: Vec<&Example> = owned.iter().collect();
        let mut engine = Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).unwrap();
        let (expected, reference) = gradients(&mut engine, &[padded(&all, 16)]);
        assert_eq!(expected.tokens, all.iter().map(|example| example.target.len()).sum::<usize>() as f64);
        for (part, rows) in [(16, 7), (8, 5), (4, 4)] {
            let of = |batch: fn(&[&Example], usize) -> Batch, rows| -> Vec<Batch> {
                all.chunks(part).map(|examples| batch(examples, rows)).collect()
            };
            for (what, batches) in [("padded", of(padded, part)), ("packed", of(packed, rows))] {
                let (stats, found) = gradients(&mut engine, &batches);
                let what = format!("{folder}: {} batches, {what}", batches.len());
                assert_eq!((stats.tokens, stats.correct), (expected.tokens, expected.correct), "{what}");
                let error = (stats.loss - expected.loss).abs() / expected.loss;
                assert!(error < 1e-6, "{what}: loss {} instead of {}", stats.loss, expected.loss);
                let scored: f64 = batches.iter().map(|b| pollster::block_on(engine.evaluate(b)).unwrap().loss).sum();
                assert!((scored - expected.loss).abs() / expected.loss < 1e-6, "{what}: scored {scored}");
                for ((name, found), (_, reference)) in found.iter().zip(&reference) {
                    let error = relative_l2(found, reference);
                    assert!(error < 1e-5, "{what}: {name} is off by {error:.1e}");
                }
            }
        }
    }
}

/// Sums of blocks have no gradients: an error says so before a run begins.
#[test]
fn transient_global_attention_is_not_trained() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families/longt5-tglobal");
    let model = Model::load(&gpu(), &dir).unwrap().0;
    let refused = Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).map(drop).unwrap_err();
    assert!(refused.to_string().contains("for inference only"), "{refused}");
}

/// With dropout on, which is drawn by position.
#[test]
fn recomputed_activations_of_packed_rows_change_no_bit() {
    let gpu = gpu();
    for folder in ["flan"].into_iter().chain(ARCHITECTURES) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
        let bits = |recompute: bool| {
            let model = Model::load(&gpu, &dir).unwrap().0;
            let owned = examples(model.config.vocab_size, 16);
            let regularization = Regularization { dropout: 0.1, ..Regularization::default() };
            let engine = Engine::new(model, regularization, &OptimizerConfig::adamw(), 0.0).unwrap();
            let mut engine = engine.with_recompute(recompute);
            let (stats, gradients) = gradients(&mut engine, &[packed(&owned.iter().collect::<Vec<_>>(), 7)]);
            let gradients: Vec<u32> = gradients.iter().flat_map(|(_, g)| g.iter().map(|x| x.to_bits())).collect();
            (stats.loss.to_bits(), gradients)
        };
        assert!(bits(false) == bits(true), "{folder}");
    }
}

/// What one example says reaches no other: the loss of a row is the sum of its examples' own, and changing one changes no
/// bit of another's.
#[test]
fn examples_of_a_row_do_not_see_each_other() {
    ["t5v10"].into_iter().chain(ARCHITECTURES).for_each(do_not_see_each_other);
}

fn do_not_see_each_other(folder: &str) {
    let gpu = gpu();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let model = Model::load(&gpu, &dir).unwrap().0;
    let mut engine = Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).unwrap();
    let mut owned = examples(engine.model.config.vocab_size, 4);
    let loss_of_second = |engine: &mut Engine, owned: &[Example]| {
        let mut batch = packed(&owned.iter().collect::<Vec<_>>(), 2);
        let segments = batch.segments.clone().unwrap();
        let is_second = |i: usize| i < 22 && segments.tgt[i] == 2;
        for (i, label) in batch.labels.iter_mut().enumerate() {
            *label = if is_second(i) { *label } else { IGNORE };
        }
        pollster::block_on(engine.evaluate(&batch)).unwrap().loss
    };
    let before = loss_of_second(&mut engine, &owned);
    let first = &mut owned[0];
    first.source.iter_mut().chain(&mut first.target).for_each(|id| *id = 2 + (*id + 5) % 30);
    let last = owned.len() - 1;
    owned[last].source.reverse();
    assert!(before > 0.0);
    assert_eq!(loss_of_second(&mut engine, &owned), before, "{folder}");
}
