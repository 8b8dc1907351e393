//! What the device refuses or takes long over, and how it is said.

mod common;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use common::gpu;
use t5_wgpu::Error;
use t5_wgpu::gpu::{Buffer, Constant, Dispatch, Gpu, Header, ProgramBuilder, Shader};

/// Counts down from the workgroup's size.
const COUNTDOWN: &str = "
struct Params { grid_x: u32, first_group: u32 }
@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<uniform> p: Params;
var<workgroup> scratch: array<u32, WIDTH>;
@compute @workgroup_size(WIDTH)
fn main(@builtin(local_invocation_index) i: u32) {
    scratch[i] = i;
    workgroupBarrier();
    out[i] = scratch[WIDTH - 1u - i] * p.grid_x;
}";

static PLANTED: Shader =
    Shader { name: "planted", source: COUNTDOWN, shared: &[], defaults: &[("WIDTH", Constant::U32(4))] };

static BROKEN: Shader =
    Shader { name: "broken", source: "fn main() { let x: u32 = 1.5; }", shared: &[], defaults: &[] };

fn planted(shader: &'static Shader, header: Header, out: &Buffer) -> Dispatch {
    let (bindings, params) = (vec![("out", out.all())], Vec::new());
    Dispatch { label: "planted".into(), shader, header, bindings, params, workgroups: 1 }
}

/// What the kernel computes with this many invocations a workgroup.
fn run(gpu: &Gpu, shader: &'static Shader, header: Header) -> t5_wgpu::Result<Vec<u32>> {
    let out = gpu.buffer("out", 16)?;
    let mut program = ProgramBuilder::new(gpu);
    program.push(planted(shader, header, &out));
    program.finish()?.run(1)?;
    pollster::block_on(gpu.read(&out, 0..16))
}

/// The pipeline's fault is the kernel's, not that of whoever asks the device next; and the device lives on.
#[test]
fn a_refused_pipeline_names_kernel_device_and_compiler() {
    let gpu = gpu();
    let too_wide = Header::new().u32("WIDTH", 2 * gpu.caps().max_invocations);
    let error = run(&gpu, &PLANTED, too_wide).unwrap_err();
    assert!(matches!(error, Error::Shader(_)), "{error:?}");
    let text = error.to_string();
    let width = format!("[WIDTH={}]", 2 * gpu.caps().max_invocations);
    for part in ["kernel `planted`", &width, &gpu.caps().name, gpu.caps().compiler, "was refused", "workgroup"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    gpu.check().unwrap();
    assert_eq!(run(&gpu, &PLANTED, Header::new()).unwrap(), [3, 2, 1, 0]);

    let error = run(&gpu, &BROKEN, Header::new()).unwrap_err();
    assert!(matches!(&error, Error::Shader(text) if text.contains("broken.wgsl") && text.contains("1.5")), "{error}");
    gpu.check().unwrap();
}

/// Of several kernels that are compiled at a time, one is bad: its name is what is said.
#[test]
fn one_refused_kernel_among_several_is_named() {
    let gpu = gpu();
    let mut program = ProgramBuilder::new(&gpu);
    let out = gpu.buffer("out", 4096).unwrap();
    let widths = [1, 2, 3, 2 * gpu.caps().max_invocations, 4, 5, 6];
    for width in widths {
        program.push(planted(&PLANTED, Header::new().u32("WIDTH", width), &out));
    }
    let error = program.finish().map(drop).unwrap_err();
    assert!(matches!(&error, Error::Shader(text) if text.contains(&format!("WIDTH={}", widths[3]))), "{error}");
    gpu.check().unwrap();
    assert_eq!(run(&gpu, &PLANTED, Header::new()).unwrap(), [3, 2, 1, 0]);
}

/// A kernel that no cache has seen and that takes a while on lavapipe: the observer hears of it before it is done, and the
/// stopwatch stands still meanwhile.
#[test]
fn slow_compiling_is_told_of_and_not_counted() {
    let gpu = gpu();
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    gpu.on_compile(move |at| sink.lock().unwrap().push((at.done, at.total)));
    let nonce = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let body: String = (0..100).map(|i| format!("x = x * 5u + out[(x ^ {i}u) & 3u];\n")).collect();
    let source = format!(
        "struct Params {{ grid_x: u32, first_group: u32 }}
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @group(0) @binding(1) var<uniform> p: Params;
        @compute @workgroup_size(4)
        fn main(@builtin(local_invocation_index) i: u32) {{
            var x = i * p.grid_x + {nonce}u;
            {body}
            out[i] = x;
        }}"
    );
    let shader: &'static Shader =
        Box::leak(Box::new(Shader { name: "slow", source: source.leak(), shared: &[], defaults: &[] }));
    let (stopwatch, start) = (gpu.stopwatch(), Instant::now());
    run(&gpu, shader, Header::new()).unwrap();
    let (counted, took) = (stopwatch.elapsed(), start.elapsed());
    assert!(counted < took / 2 || took < Duration::from_millis(500), "{counted:?} of {took:?} were counted");
    let told = told.lock().unwrap();
    if took > Duration::from_secs(3) {
        assert!(told.len() >= 2, "told {told:?} in {took:?}");
        assert_eq!((told[0], *told.last().unwrap()), ((0, 1), (1, 1)));
    }
}

#[test]
fn a_buffer_beyond_the_limit_is_out_of_memory() {
    let gpu = gpu();
    let error = gpu.buffer("logits", gpu.caps().max_buffer + 1).map(drop).unwrap_err();
    assert!(matches!(&error, Error::OutOfMemory(text) if text.contains("logits")), "{error}");
    gpu.check().unwrap();
}

/// In a process that may have 6 GiB, so that the driver's own allocation fails.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_the_driver_does_not_get_is_out_of_memory() {
    const STARVED: &str = "T5_TEST_STARVED";
    if std::env::var_os(STARVED).is_none() {
        let name = "memory_that_the_driver_does_not_get_is_out_of_memory";
        let limited = "ulimit -v 6291456 && exec \"$0\" \"$@\"";
        let this = std::env::current_exe().unwrap();
        let child =
            Command::new("sh").args(["-c", limited]).arg(this).args(["--exact", name]).env(STARVED, "1").output();
        let child = child.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let gpu = gpu();
    if !gpu.caps().is_cpu() {
        return; // a card's memory is not the process's
    }
    let bytes = gpu.caps().max_buffer.min(1 << 30);
    let mut held = Vec::new();
    let error = loop {
        match gpu.buffer("hoard", bytes) {
            Ok(buffer) if held.len() < 16 => held.push(buffer),
            Ok(_) => return, // Mesa 25's lavapipe hands out memory that it has not got
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, Error::OutOfMemory(text) if text.contains("hoard")), "{error:?}");
    // That costs the one buffer and nothing else.
    drop(held);
    gpu.flush().unwrap();
    assert_eq!(run(&gpu, &PLANTED, Header::new()).unwrap(), [3, 2, 1, 0]);
}
