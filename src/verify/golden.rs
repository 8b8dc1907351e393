//! A model folder against reference results made by PyTorch: hidden states, logits, loss, every gradient, optimiser runs,
//! greedy decoding and beam search; of models that write no text their states, sentence embeddings or scores of labels.
//!
//! The folder is laid out as `tests/golden/README.md` says.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use super::Row;
use crate::batch::{Batch, BatchShape, IGNORE};
use crate::checkpoint::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::forward::{Classifier, EncodeOptions, Encoder, Pooling, SentenceHead};
use crate::generate::{Decoding, EarlyStopping, Generation, Generator, LengthPenalty, greedy_ids, padded};
use crate::gpu::{Gpu, Sequence};
use crate::model::{Builder, Model, ModelParts, Storage, read_span};
use crate::plan::{Plan, PlanOptions, SlotPool};
use crate::train::engine::{Engine, Regularization};
use crate::train::inputs::Inputs;
use crate::train::optimizer::OptimizerConfig;

/// Results may lie this many times as far from the float64 reference as PyTorch's own float32 does.
pub const NOISE_FACTOR: f64 = 4.0;

/// Runs every comparison that the folder has reference data for.
pub async fn check_golden(gpu: &Gpu, dir: &Path) -> Result<Vec<Row>> {
    let golden = Golden::open(dir)?;
    let mut rows = Vec::new();
    for prefix in ["", "long."] {
        if golden.has(&format!("{prefix}logits")) {
            golden.check_forward(gpu, prefix, &mut rows).await?;
        }
    }
    if golden.tensors.names().any(|name| name.starts_with("grad/")) {
        golden.check_gradients(gpu, &mut rows).await?;
    }
    if golden.scalars.get("optimizers").is_some() {
        golden.check_optimizers(gpu, &mut rows).await?;
    }
    if golden.has("generate.greedy") {
        golden.check_greedy(gpu, &mut rows).await?;
    }
    golden.check_beams(gpu, &mut rows).await?;
    golden.check_encoder(gpu, &mut rows).await?;
    golden.check_labels(gpu, &mut rows).await?;
    match rows.is_empty() {
        true => Err(Error::file(dir.join("golden.safetensors"), "holds no results")),
        false => Ok(rows),
    }
}

struct Golden<'a> {
    dir: &'a Path,
    tensors: Weights,
    scalars: Value,
}

impl<'a> Golden<'a> {
    fn open(dir: &'a Path) -> Result<Golden<'a>> {
        let path = dir.join("golden.json");
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let scalars = serde_json::from_str(&text).map_err(|e| Error::line(&path, e.line(), e.to_string()))?;
        let tensors = Weights::open_file(dir.join("golden.safetensors"))?;
        Ok(Golden { dir, tensors, scalars })
    }

    fn model(&self, gpu: &Gpu) -> Result<Model> {
        Ok(Model::load(gpu, self.dir)?.0)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let shape = self.tensors.shape(name).map(<[usize]>::to_vec);
        shape.ok_or_else(|| Error::file(self.dir.join("golden.safetensors"), format!("lacks `{name}`")))
    }

    fn floats(&self, name: &str) -> Result<Vec<f64>> {
        let data = self.tensors.read_f32(name, &self.shape(name)?)?;
        Ok(data.into_iter().map(f64::from).collect())
    }

    /// An I64 tensor and its shape.
    fn integers(&self, name: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        let shape = self.shape(name)?;
        let bytes = self.tensors.read_bytes(name, Dtype::I64, &shape)?;
        Ok((bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c)).collect(), shape))
    }

    fn scalar(&self, path: &[&str]) -> Result<f64> {
        let value = path.iter().try_fold(&self.scalars, |v, key| v.get(key)).and_then(Value::as_f64);
        value.ok_or_else(|| Error::file(self.dir.join("golden.json"), format!("lacks `{}`", path.join("."))))
    }

    fn noise(&self, name: &str) -> Result<f64> {
        Ok(NOISE_FACTOR * self.scalar(&["float32_noise", name])?)
    }

    /// The batch of the teacher-forced results; `long.` has no mask.
    fn batch(&self, prefix: &str, start: u32) -> Result<Batch> {
        let (ids, src_shape) = self.integers(&format!("{prefix}input_ids"))?;
        let (labels, tgt_shape) = self.integers(&format!("{prefix}labels"))?;
        let (batch, src_len, tgt_len) = (src_shape[0], src_shape[1], tgt_shape[1]);
        let mask = match self.tensors.contains(&format!("{prefix}attention_mask")) {
            true => self.integers(&format!("{prefix}attention_mask"))?.0,
            false => vec![1; ids.len()],
        };
        let src_lens = mask.chunks(src_len).map(|row| row.iter().sum::<i64>() as u32).collect();
        let mut tgt_in = Vec::new();
        for row in labels.chunks(tgt_len) {
            tgt_in.push(start);
            tgt_in.extend(row[..tgt_len - 1].iter().map(|&l| l.max(0) as u32));
        }
        let label = |&l: &i64| if l < 0 { IGNORE } else { l as u32 };
        Ok(Batch {
            shape: BatchShape { batch, src_len, tgt_len, packed: false },
            src_ids: ids.iter().map(|&id| id as u32).collect(),
            src_lens,
            tgt_in,
            labels: labels.iter().map(label).collect(),
            tgt_lens: vec![tgt_len as u32; batch],
            segments: None,
        })
    }

    async fn check_forward(&self, gpu: &Gpu, prefix: &str, rows: &mut Vec<Row>) -> Result<()> {
        let model = self.model(gpu)?;
        let batch = self.batch(prefix, model.config.decoder_start_token_id)?;
        let mut b = Builder::new(&model, batch.shape, 0.0);
        let has_encoder = !model.config.architecture.is_one_stack();
        let encoded = has_encoder.then(|| b.encoder());
        let hidden = match encoded {
            Some(encoded) => b.decoder(encoded),
            None => b.states(),
        };
        let logits = b.logits(hidden, None);
        let stats = b.loss(hidden, 0.0, 0.0);
        let mut outputs = vec![("logits", logits), ("stats", stats)];
        outputs.extend(encoded.map(|encoded| ("encoded", encoded)));
        let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
        let plan = Plan::compile(gpu, &b.graph, &outputs, &options)?;
        let mut sequence = Sequence::new(gpu);
        Inputs::new(&batch, &model.config)?.write(&plan, &mut sequence);
        plan.run_in(&mut sequence)?;
        sequence.submit()?;

        let mut row = |what: String, error: f64, tolerance: f64| rows.push(Row { what, error, tolerance });
        if has_encoder {
            let found = plan.read::<f32>("encoded").await?;
            let reference = self.floats(&format!("{prefix}encoder_last_hidden_state"))?;
            let (width, src_len) = (model.config.d_model, batch.shape.src_len);
            let real = |i: usize| (i / width) % src_len < batch.src_lens[i / width / src_len] as usize;
            let pairs = found.iter().zip(&reference).enumerate().filter(|(i, _)| real(*i)).map(|(_, pair)| pair);
            let tolerance = self.noise("encoder_last_hidden_state_max_abs")?;
            row(format!("{prefix}encoder_last_hidden_state"), max_abs(pairs), tolerance);
        }

        let found = plan.read::<f32>("logits").await?;
        let reference = self.floats(&format!("{prefix}logits"))?;
        row(format!("{prefix}logits"), max_abs(found.iter().zip(&reference)), self.noise("logits_max_abs")?);

        let stats = plan.read::<f32>("stats").await?;
        let (loss, expected) = (f64::from(stats[0] / stats[1]), self.scalar(&[&format!("{prefix}loss")])?);
        row(
            format!("{prefix}loss"),
            (loss - expected).abs(),
            self.noise("loss")?.max(NOISE_FACTOR * F32_ULP * expected),
        );
        Ok(())
    }

    async fn check_gradients(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        let mut engine = Engine::new(self.model(gpu)?, Regularization::default(), &OptimizerConfig::adamw(), 0.0)?;
        let batch = self.batch("", engine.model.config.decoder_start_token_id)?;
        engine.begin_step();
        engine.micro_batch(&batch, [0; 4])?;
        let (stats, _) = engine.finish_gradients()?.finish().await?;
        let tolerance = self.noise("grad_max_relative_l2")?;
        for tensor in engine.model.layout.tensors() {
            let found = read_span(gpu, tensor, engine.gradients()).await?;
            let reference = self.floats(&format!("grad/{}", tensor.name))?;
            let error = relative_l2(found.iter().map(|g| f64::from(*g) / stats.tokens), &reference);
            rows.push(Row { what: format!("grad/{}", tensor.name), error, tolerance });
        }
        Ok(())
    }

    async fn check_optimizers(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        let OptimizerConfig::Adafactor {
            eps1,
            eps2,
            clip_threshold,
            decay_rate,
            weight_decay,
            scale_parameter,
            min_dim_factored,
            ..
        } = OptimizerConfig::adafactor_hf()
        else {
            unreachable!("adafactor_hf is Adafactor")
        };
        let adafactor = |relative| OptimizerConfig::Adafactor {
            eps1,
            eps2,
            clip_threshold,
            decay_rate,
            weight_decay,
            scale_parameter,
            min_dim_factored,
            relative_step: relative,
            warmup_init: relative,
        };
        let runs = [
            ("adamw", OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }),
            ("adafactor_fixed", adafactor(false)),
            ("adafactor_relative", adafactor(true)),
        ];
        for (name, config) in runs {
            let mut engine = Engine::new(self.model(gpu)?, Regularization::default(), &config, 0.0)?;
            let batch = self.batch("", engine.model.config.decoder_start_token_id)?;
            let mut before = Vec::new();
            for tensor in engine.model.layout.tensors() {
                before.push(read_span(gpu, tensor, &engine.model.params).await?);
            }
            let losses = self.scalars.pointer(&format!("/optimizers/{name}/losses")).and_then(Value::as_array);
            let losses: Vec<f64> = losses.into_iter().flatten().filter_map(Value::as_f64).collect();
            let mut worst = if losses.len() == 11 { 0.0 } else { f64::INFINITY };
            for (step, expected) in losses.iter().enumerate() {
                engine.begin_step();
                engine.micro_batch(&batch, [0; 4])?;
                let report = match step {
                    10 => engine.finish_gradients(),
                    _ => engine.finish_step(1e-3, step as u64),
                };
                let loss = report?.finish().await?.0.mean_loss();
                worst = f64::max(worst, (loss - expected).abs() / expected);
            }
            rows.push(Row { what: format!("{name}: losses of 10 steps"), error: worst, tolerance: 1e-4 });
            let tolerance = self.delta_tolerance(name)?;
            for (tensor, before) in engine.model.layout.tensors().iter().zip(&before) {
                let after = read_span(gpu, tensor, &engine.model.params).await?;
                let delta = after.iter().zip(before).map(|(a, b)| f64::from(*a) - f64::from(*b));
                let reference = self.floats(&format!("{name}.delta/{}", tensor.name))?;
                let error = relative_l2(delta, &reference);
                rows.push(Row { what: format!("{name}.delta/{}", tensor.name), error, tolerance });
            }
        }
        Ok(())
    }

    /// Sources without padding: those of the generation results (prefix `generate.`), or of the others.
    fn sources(&self, prefix: &str) -> Result<Vec<Vec<u32>>> {
        let (ids, shape) = self.integers(&format!("{prefix}input_ids"))?;
        let (mask, _) = self.integers(&format!("{prefix}attention_mask"))?;
        let lens = mask.chunks(shape[1]).map(|row| row.iter().sum::<i64>() as usize);
        Ok(ids.chunks(shape[1]).zip(lens).map(|(row, len)| row[..len].iter().map(|&id| id as u32).collect()).collect())
    }

    /// A model that writes no text.
    fn silent_model(&self, gpu: &Gpu) -> Result<Model> {
        let parts = ModelParts::open_any(self.dir)?;
        Ok(Model::upload(gpu, &parts, Storage::F32, &mut |_, _| ControlFlow::Continue(()))?.0)
    }

    /// The states of an encoder alone, and the sentence embeddings that its folder says how to make.
    async fn check_encoder(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        if self.has("logits") || !self.has("encoder_last_hidden_state") {
            return Ok(());
        }
        let model = self.silent_model(gpu)?;
        let (sources, width) = (self.sources("")?, model.config.d_model);
        let head = SentenceHead::open(gpu, self.dir, width)?;
        let mut encoder = Encoder::new(model, head)?;
        let found = encoder.hidden_states(&sources, &EncodeOptions::default(), &|| false).await?;
        let (reference, padded) =
            (self.floats("encoder_last_hidden_state")?, self.shape("encoder_last_hidden_state")?[1]);
        let pairs = found.iter().zip(reference.chunks(padded * width)).flat_map(|(f, r)| f.values.iter().zip(r));
        let (error, tolerance) = (max_abs(pairs), self.noise("encoder_last_hidden_state_max_abs")?);
        rows.push(Row { what: "encoder_last_hidden_state".into(), error, tolerance });
        if self.has("sentence_embedding") {
            let found = encoder.embed(&sources, Pooling::Sentence, &|| false).await?;
            let reference = self.floats("sentence_embedding")?;
            let error = if found.values.len() == reference.len() {
                max_abs(found.values.iter().zip(&reference))
            } else {
                f64::INFINITY
            };
            let tolerance = self.noise("sentence_embedding_max_abs")?;
            rows.push(Row { what: "sentence_embedding".into(), error, tolerance });
        }
        Ok(())
    }

    /// The scores of a classifier's labels: `[sources, labels]`, or `[sources, positions, labels]` of tokens.
    async fn check_labels(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        if !self.has("scores") {
            return Ok(());
        }
        let mut classifier = Classifier::new(self.silent_model(gpu)?)?;
        let found = classifier.classify(&self.sources("")?, &|| false).await?;
        let (reference, shape) = (self.floats("scores")?, self.shape("scores")?);
        let each = shape[1..].iter().product();
        let mut error = if shape.last() == Some(&classifier.head().labels.len()) { 0.0 } else { f64::INFINITY };
        for (found, reference) in found.iter().zip(reference.chunks(each)) {
            error = f64::max(error, max_abs(found.values.iter().zip(reference)));
        }
        rows.push(Row { what: "scores".into(), error, tolerance: self.noise("scores_max_abs")? });
        Ok(())
    }

    /// Greedy decoding: every id must be the same.
    async fn check_greedy(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        let max_new_tokens = self.scalar(&["greedy", "max_new_tokens"])?;
        let found = greedy_ids(gpu, self.dir, &self.sources("generate.")?, max_new_tokens as usize).await?;
        let wrong = self.wrong_rows("generate.greedy", &found)?;
        rows.push(Row { what: "greedy: sources with a wrong id".into(), error: wrong as f64, tolerance: 0.0 });
        Ok(())
    }

    /// Rows that differ from a tensor of ids, or are too many or too few.
    fn wrong_rows(&self, name: &str, found: &[Vec<u32>]) -> Result<usize> {
        let (expected, shape) = self.integers(name)?;
        let differs = |(found, expected): &(&Vec<u32>, &[i64])| {
            found.len() != expected.len() || found.iter().zip(*expected).any(|(f, e)| i64::from(*f) != *e)
        };
        let wrong = found.iter().zip(expected.chunks(shape[1])).filter(differs).count();
        Ok(wrong.max(found.len().abs_diff(shape[0])))
    }

    /// Beam search with every length penalty and every rule of stopping that the folder has: all hypotheses, and their
    /// scores.
    async fn check_beams(&self, gpu: &Gpu, rows: &mut Vec<Row>) -> Result<()> {
        let Some(searches) = self.scalars.get("beam").and_then(Value::as_object) else { return Ok(()) };
        let sources = self.sources("generate.")?;
        let mut generator = Generator::new(self.model(gpu)?);
        let config = generator.model.config.clone();
        for (name, search) in searches {
            let number = |key: &str| self.scalar(&["beam", name, key]);
            let num_beams = number("num_beams")? as usize;
            let early_stopping = match &search["early_stopping"] {
                Value::Bool(true) => EarlyStopping::Yes,
                Value::String(text) if text == "never" => EarlyStopping::Never,
                _ => EarlyStopping::No,
            };
            let decoding = Decoding {
                n_best: num_beams,
                length_penalty: LengthPenalty::Power(number("length_penalty")? as f32),
                early_stopping,
                ..Decoding::beam(num_beams).max_new_tokens(number("max_new_tokens")? as usize)
            };
            let found =
                generator.generate(&sources, &decoding, &mut |_, _| ControlFlow::Continue(()), &|| false).await?;
            let found: Vec<Generation> = found.into_iter().flatten().collect();
            // transformers takes a padding id of 0 for none here, and fills up with the end token.
            let fill = if config.pad_token_id == 0 {
                config.eos_token_id.first().copied().unwrap_or(0)
            } else {
                config.pad_token_id
            };
            let ids = padded(&found, config.decoder_start_token_id, fill);
            let wrong = self.wrong_rows(&format!("generate.{name}.sequences"), &ids)?;
            rows.push(Row { what: format!("{name}: hypotheses with a wrong id"), error: wrong as f64, tolerance: 0.0 });
            let expected = self.floats(&format!("generate.{name}.scores"))?;
            let error = |(found, expected): (&Generation, &f64)| {
                found.score.map_or(f64::INFINITY, |score| ((f64::from(score) - expected) / expected).abs())
            };
            let worst = found.iter().zip(&expected).map(error).fold(0.0, f64::max);
            rows.push(Row { what: format!("{name}: scores"), error: worst, tolerance: 1e-4 });
        }
        Ok(())
    }

    /// The float32 noise of the parameter changes: the folder's own figure.
    fn delta_tolerance(&self, run: &str) -> Result<f64> {
        let noise = self.scalars.pointer(&format!("/optimizers/{run}/float32_noise")).and_then(Value::as_object);
        let worst =
            noise.and_then(|n| n.iter().find(|(k, _)| k.contains("worst_tensor")).and_then(|(_, v)| v.as_f64()));
        worst
            .map(|w| NOISE_FACTOR * w)
            .ok_or_else(|| Error::file(self.dir.join("golden.json"), format!("lacks the float32 noise of {run}")))
    }
}

/// One unit in the last place of an f32 near 1.
const F32_ULP: f64 = 1.2e-7;

fn max_abs<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f64)>) -> f64 {
    let mut worst = 0.0f64;
    for (found, reference) in pairs {
        let error = (f64::from(*found) - reference).abs();
        worst = if error.is_finite() { worst.max(error) } else { f64::INFINITY };
    }
    worst
}

fn relative_l2(found: impl Iterator<Item = f64>, reference: &[f64]) -> f64 {
    let difference: f64 = found.zip(reference).map(|(f, r)| (f - r).powi(2)).sum();
    let norm: f64 = reference.iter().map(|r| r * r).sum();
    (difference / norm.max(1e-60)).sqrt()
}
