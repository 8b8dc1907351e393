//! Where the time from the start of the program to its first token went: `t5 generate --timings`.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use t5_wgpu::model::LoadTimes;

/// When the program began, as soon as it looks at this.
pub static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a call gives, and how long it took.
pub fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (call(), start.elapsed())
}

/// The parts of a start, in their order but for the tokenizer, which is read beside the device and the weights.
#[derive(Default)]
pub struct Timings {
    pub device: Duration,
    pub tokenizer: Duration,
    pub load: LoadTimes,
    pub first: Option<FirstToken>,
}

/// How a first answer began.
#[derive(Clone, Copy)]
pub struct FirstToken {
    /// Since the program began.
    pub after_start: Duration,
    /// Since the source was handed to the model.
    pub seconds: f64,
    /// Of these, for compiling kernels or taking them from the driver's cache.
    pub compiling: f64,
    /// The tokens that came first.
    pub tokens: usize,
}

impl Timings {
    /// Names and seconds: the whole, its parts, and what is left over.
    fn parts(&self, first: &FirstToken) -> [(&'static str, f64); 8] {
        let seconds = |time: Duration| time.as_secs_f64();
        let whole = seconds(first.after_start);
        let LoadTimes { reading, uploading } = self.load;
        let rest = whole - seconds(self.device + reading + uploading) - first.seconds;
        [
            ("first_token", whole),
            ("device", seconds(self.device)),
            ("tokenizer", seconds(self.tokenizer)),
            ("reading_weights", seconds(reading)),
            ("uploading_weights", seconds(uploading)),
            ("kernels", first.compiling),
            ("encode_and_first_token", first.seconds - first.compiling),
            ("rest", rest.max(0.0)),
        ]
    }

    /// One object, in seconds; `each`: of a token after the first ones.
    pub fn json(&self, each: Option<f64>) -> Value {
        let parts = self.first.iter().flat_map(|first| self.parts(first)).map(|(name, s)| (name.to_owned(), json!(s)));
        let mut object: serde_json::Map<String, Value> = parts.collect();
        object.extend(each.map(|seconds| ("each_token".to_owned(), json!(seconds))));
        json!({ "timings": object })
    }

    /// A sentence.
    pub fn text(&self, each: Option<f64>) -> String {
        let Some(first) = &self.first else { return "timings: there was no token".into() };
        let [(_, whole), parts @ ..] = self.parts(first);
        let parts = parts.map(|(name, s)| format!("{} {:.0}", name.replace('_', " "), 1e3 * s)).join(", ");
        let each = each.map_or(String::new(), |seconds| format!("; then {:.1} ms/token", 1e3 * seconds));
        format!("timings in ms: first token {:.0} after the start: {parts}{each}", 1e3 * whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_the_whole() {
        let ms = Duration::from_millis;
        let first = FirstToken { after_start: ms(1000), seconds: 0.3, compiling: 0.2, tokens: 2 };
        let load = LoadTimes { reading: ms(100), uploading: ms(150) };
        let timings = Timings { device: ms(50), tokenizer: ms(80), load, first: Some(first) };
        let object = &timings.json(Some(0.01))["timings"];
        let of = |name: &str| object[name].as_f64().unwrap();
        let parts = ["device", "reading_weights", "uploading_weights", "kernels", "encode_and_first_token", "rest"];
        assert!((parts.iter().map(|name| of(name)).sum::<f64>() - of("first_token")).abs() < 1e-9, "{object}");
        assert!((of("rest") - 0.4).abs() < 1e-9 && (of("tokenizer") - 0.08).abs() < 1e-9, "{object}");
        assert_eq!(of("each_token"), 0.01);
        assert!(timings.text(None).starts_with("timings in ms: first token 1000 after the start: device 50, "));
    }
}
