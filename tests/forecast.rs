//! Forecasts against those of the package chronos-forecasting: tokens, scales, paths and quantiles.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::gpu;
use serde_json::Value;
use t5_wgpu::forecast::{ChronosConfig, Forecast, ForecastOptions, Forecaster, ValueBins};
use t5_wgpu::model::{Model, ModelParts, Storage, T5Config};

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(name)
}

fn folder() -> PathBuf {
    family("chronos-t5")
}

fn golden_of(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(family(name).join("forecasts.json")).unwrap()).unwrap()
}

fn golden() -> Value {
    golden_of("chronos-t5")
}

/// Numbers; `null` is NaN.
fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().map_or(f32::NAN, |v| v as f32)).collect()
}

fn forecaster() -> Forecaster {
    Forecaster::new(Model::load(&gpu(), &folder()).unwrap().0).unwrap()
}

fn bolt(folder: &Path) -> Forecaster {
    let parts = ModelParts::open_any(folder).unwrap();
    Forecaster::new(Model::upload(&gpu(), &parts, Storage::F32, &mut |_, _| ControlFlow::Continue(())).unwrap().0)
        .unwrap()
}

fn paths(forecast: &Forecast) -> &[Vec<f32>] {
    match forecast {
        Forecast::Paths(paths) => paths,
        Forecast::Quantiles { .. } => panic!("quantiles instead of paths"),
    }
}

fn forecast(forecaster: &mut Forecaster, series: &[Vec<f32>], options: &ForecastOptions) -> Vec<Forecast> {
    pollster::block_on(forecaster.forecast(series, options, &|| false)).unwrap()
}

#[test]
fn tokens_and_scales_are_those_of_chronos() {
    let config = T5Config::from_dir(&folder()).unwrap();
    let bins = ValueBins::new(ChronosConfig::of(&config).unwrap(), config.vocab_size).unwrap();
    for series in golden()["series"].as_array().unwrap() {
        let (ids, scale) = bins.tokens(&floats(&series["values"])).unwrap();
        let expected: Vec<u32> = floats(&series["ids"]).into_iter().map(|id| id as u32).collect();
        assert_eq!(ids, expected);
        assert!((f64::from(scale) / series["scale"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    }
    assert!(bins.tokens(&[]).unwrap_err().contains("no value"));
    assert!(bins.tokens(&[f32::NAN; 3]).unwrap_err().contains("no value"));
    let error = bins.tokens(&[f32::NAN, 1.0, f32::NAN, 2.0]).unwrap_err();
    assert!(error.contains("value 3") && error.contains("fill gaps first"), "{error}");
}

/// Where one token is drawn among one, there is but one path; it goes on from the median beyond what the model forecasts at once.
#[test]
fn the_likeliest_path_is_that_of_chronos() {
    let (golden, mut forecaster) = (golden(), forecaster());
    let rows = golden["series"].as_array().unwrap();
    let series: Vec<Vec<f32>> = rows.iter().map(|row| floats(&row["values"])).collect();
    let length = golden["prediction_length"].as_u64().map(|n| n as usize);
    let options = ForecastOptions { length, paths: Some(3), top_k: Some(1), ..ForecastOptions::default() };
    for (found, row) in forecast(&mut forecaster, &series, &options).iter().zip(rows) {
        let expected = floats(&row["path"]);
        assert_eq!(paths(found).len(), 3);
        for path in paths(found) {
            assert_eq!(path.len(), expected.len());
            for (a, b) in path.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{path:?} {expected:?}");
            }
        }
    }
}

#[test]
fn quantiles_and_means_are_those_of_pytorch() {
    let golden = golden();
    let paths: Vec<Vec<f32>> = golden["samples"].as_array().unwrap().iter().map(floats).collect();
    let forecast = Forecast::Paths(paths.clone());
    let levels = floats(&golden["quantiles"]["levels"]);
    for (level, expected) in levels.into_iter().zip(golden["quantiles"]["values"].as_array().unwrap()) {
        for (a, b) in forecast.quantile(f64::from(level)).iter().zip(floats(expected)) {
            assert!((a - b).abs() < 1e-5);
        }
    }
    let mean: Vec<f32> = (0..4).map(|s| paths.iter().map(|path| path[s]).sum::<f32>() / 5.0).collect();
    assert_eq!(forecast.mean(), mean);
}

/// Paths follow from the seed and the series' place alone; lengths and numbers of paths are those asked for, or the model's.
#[test]
fn draws_depend_on_the_seed_and_the_place() {
    let mut forecaster = forecaster();
    let series = vec![vec![1.0, 4.0, 2.0, 8.0], vec![3.0, 3.5, 4.0, 4.5, 5.0]];
    let options = ForecastOptions { seed: 5, ..ForecastOptions::default() };
    let both = forecast(&mut forecaster, &series, &options);
    assert!(both.iter().all(|f| paths(f).len() == 4 && paths(f).iter().all(|path| path.len() == 6)));
    assert!(paths(&both[0]).windows(2).any(|pair| pair[0] != pair[1]));
    let second = ForecastOptions { first_series: 1, ..options.clone() };
    assert_eq!(forecast(&mut forecaster, &series[1..], &second)[0], both[1]);
    assert_ne!(forecast(&mut forecaster, &series, &ForecastOptions { seed: 6, ..options }), both);
}

#[test]
fn what_is_no_chronos_t5_is_refused_with_its_name() {
    let flan = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/flan");
    let error = Forecaster::new(Model::load(&gpu(), &flan).unwrap().0).err().unwrap().to_string();
    assert!(error.contains("no chronos_config"), "{error}");
    let mut config = T5Config::from_dir(&folder()).unwrap();
    config.extra["chronos_config"] = serde_json::json!({"model_type": "causal"});
    assert!(ChronosConfig::of(&config).unwrap_err().to_string().contains("not that of a Chronos-T5"));
    let mut forecaster = forecaster();
    let gap = vec![vec![1.0, f32::NAN, 2.0]];
    let refused = pollster::block_on(forecaster.forecast(&gap, &ForecastOptions::default(), &|| false));
    assert!(refused.unwrap_err().to_string().contains("series 0: value 2"));
    // What a file asks for is bounded, too.
    let (mut many, _) = Model::load(&gpu(), &folder()).unwrap();
    many.config.extra["chronos_config"]["num_samples"] = u64::MAX.into();
    let refused =
        pollster::block_on(
            Forecaster::new(many).unwrap().forecast(&[vec![1.0]], &ForecastOptions::default(), &|| false),
        );
    assert!(refused.unwrap_err().to_string().contains("at most"));
    let none = ForecastOptions { paths: Some(0), ..ForecastOptions::default() };
    assert!(pollster::block_on(forecaster.forecast(&[vec![1.0]], &none, &|| false)).is_err());
}

/// Gaps, constant series, series longer than what the model sees, forecasts longer than what it gives at once.
#[test]
fn quantiles_are_those_of_chronos_bolt() {
    for name in ["chronos-bolt", "chronos-bolt-overlapping"] {
        let (golden, mut forecaster) = (golden_of(name), bolt(&family(name)));
        let rows = golden["series"].as_array().unwrap();
        let series: Vec<Vec<f32>> = rows.iter().map(|row| floats(&row["values"])).collect();
        let first = forecast(&mut forecaster, &series, &ForecastOptions::default());
        for (i, row) in rows.iter().enumerate() {
            let noise = row["float32_noise"].as_f64().unwrap();
            let expect = |found: &[f32], expected: &Value| {
                let expected = floats(expected);
                assert_eq!(found.len(), expected.len());
                for (a, b) in found.iter().zip(&expected) {
                    // Where all values are alike PyTorch's float32 and float64 are, too, once they are rounded.
                    let most = 4.0 * noise + 1e-6 * f64::from(b.abs());
                    assert!(f64::from((a - b).abs()) <= most, "{name}, series {i}: {found:?} {expected:?}");
                }
            };
            let expected = row["quantiles"].as_array().unwrap();
            let options = ForecastOptions { length: Some(floats(&expected[0]).len()), ..ForecastOptions::default() };
            let all = forecast(&mut forecaster, &series, &options);
            let Forecast::Quantiles { levels, values } = &all[i] else { panic!("paths instead of quantiles") };
            assert_eq!((levels.len(), values.len()), (expected.len(), expected.len()));
            values.iter().zip(expected).for_each(|(found, expected)| expect(found, expected));
            assert_eq!(all[i].mean(), all[i].quantile(0.5));
            for (level, expected) in floats(&golden["between"]).into_iter().zip(row["between"].as_array().unwrap()) {
                expect(&first[i].quantile((f64::from(level) * 100.0).round() / 100.0), expected);
            }
            // Nothing depends on what is asked beside.
            let alone = forecast(&mut forecaster, &series[i..=i], &ForecastOptions::default());
            assert_eq!(alone[0], first[i]);
        }
        let refuses = |series: &[Vec<f32>], options: &ForecastOptions| {
            let mut forecaster = bolt(&family(name));
            pollster::block_on(forecaster.forecast(series, options, &|| false)).unwrap_err().to_string()
        };
        let draws = ForecastOptions { top_k: Some(3), ..ForecastOptions::default() };
        assert!(refuses(&[vec![1.0]], &draws).contains("draws no paths"));
        let none = ForecastOptions::default();
        assert!(refuses(&[vec![1.0], vec![f32::NAN; 3]], &none).contains("series 1: it has no value"));
        assert!(refuses(&[vec![1.0, f32::INFINITY]], &none).contains("value 2"));
    }
}

#[test]
fn settings_of_other_kinds_are_refused() {
    let text = std::fs::read_to_string(family("chronos-bolt").join("config.json")).unwrap();
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["chronos_config"][key] = value;
        T5Config::from_json(&config.to_string(), "test").map(|_| ()).unwrap_err().to_string()
    };
    assert!(with("output_patch_size", 16.into()).contains("a Chronos-2's"));
    assert!(with("quantiles", serde_json::json!([0.5, 0.1])).contains("rise from 0 to 1"));
    assert!(with("input_patch_stride", 5.into()).contains("a stride is at most a patch"));
    assert!(with("context_length", Value::Null).contains("not that of a Chronos-Bolt"));
    assert!(with("prediction_length", u64::MAX.into()).contains("impossible"));
    // It writes no text, and says so wherever text is asked for.
    let opened = ModelParts::open(&family("chronos-bolt")).map(|_| ()).unwrap_err().to_string();
    assert!(opened.contains("a Chronos-Bolt") && opened.contains("config.json"), "{opened}");
}
