//! A step in the trace event format, which Perfetto and Chrome's about:tracing show.

use serde_json::{Value, json};

use crate::gpu::{Caps, StepTime};

/// The dispatches of one step.
#[derive(Clone, Debug)]
pub struct Trace {
    pub name: String,
    pub steps: Vec<StepTime>,
}

/// One process a trace, one slice a dispatch; times in microseconds. Format: "Trace Event Format", Google 2016.
pub fn chrome_trace(caps: &Caps, traces: &[Trace]) -> Value {
    let mut events = Vec::new();
    for (pid, trace) in traces.iter().enumerate() {
        events.push(json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": trace.name}}));
        for step in &trace.steps {
            events.push(json!({
                "ph": "X",
                "name": format!("{} {}", step.kernel, step.label),
                "cat": step.kernel,
                "pid": pid,
                "tid": 0,
                "ts": 1e6 * step.start,
                "dur": 1e6 * step.seconds,
                "args": {
                    "flops": step.work.flops,
                    "bytes": step.work.bytes,
                    "GF/s": step.work.flops / step.seconds.max(1e-9) / 1e9,
                    "GB/s": step.work.bytes / step.seconds.max(1e-9) / 1e9,
                },
            }));
        }
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"adapter": caps.to_string()}})
}
