//! What goes to the device in order: writes between programs, submits cut at a budget, dispatches cut in pieces.

mod common;

use std::time::Duration;

use common::{gpu, gpu_options};
use t5_wgpu::Error;
use t5_wgpu::gpu::{Buffer, Dispatch, Gpu, GpuOptions, Program, ProgramBuilder, Sequence, Shader};

/// Appends a digit to each number, so that the order of runs shows; a workgroup for each, none twice.
const APPEND: &str = "
struct Params { grid_x: u32, first_group: u32, n: u32 }
@group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
@group(0) @binding(1) var<storage, read> digits: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    let i = p.first_group + group.y * p.grid_x + group.x;
    if i < p.n { numbers[i] = numbers[i] * 10u + digits[i % 4u]; }
}";

static SHADER: Shader = Shader { name: "append", source: APPEND, shared: &[], defaults: &[] };

struct Numbers {
    numbers: Buffer,
    digits: Buffer,
    append: Program,
}

fn numbers(gpu: &Gpu, n: usize) -> Numbers {
    let numbers = gpu.buffer("numbers", 4 * n as u64).unwrap();
    let digits = gpu.buffer("digits", 16).unwrap();
    let mut program = ProgramBuilder::new(gpu);
    program.push(Dispatch {
        label: "append".into(),
        shader: &SHADER,
        header: Default::default(),
        bindings: vec![("numbers", numbers.all()), ("digits", digits.all())],
        params: vec![("n", n.into())],
        workgroups: n as u64,
    });
    Numbers { numbers, digits, append: program.finish().unwrap() }
}

#[test]
fn writes_and_programs_keep_their_order() {
    let gpu = gpu();
    let Numbers { numbers, digits, append } = numbers(&gpu, 4);
    // Zero: every dispatch is a submit of its own.
    for budget in [Duration::from_millis(100), Duration::ZERO] {
        gpu.set_submit_budget(budget);
        gpu.write(&numbers, 0, &[7u32; 4]);
        let mut sequence = Sequence::new(&gpu);
        sequence.clear(&numbers.slice(0, 8));
        for digit in 1..=5u32 {
            sequence.write(&digits.all(), &[digit, digit + 1, digit + 2, digit + 3]);
            sequence.run(&append);
        }
        // In the place of one digit only.
        sequence.write(&digits.slice(4, 4), &[9u32]);
        sequence.run(&append);
        let read = sequence.submit_reading::<u32>(&[numbers.slice(8, 8), numbers.slice(0, 8)]).unwrap();
        assert_eq!(pollster::block_on(read.finish()).unwrap(), [7345677, 7456788, 123455, 234569]);
        // It is empty now.
        sequence.submit().unwrap();
        let read = pollster::block_on(gpu.read::<u32>(&numbers, 0..4)).unwrap();
        assert_eq!(read, [123455]);
    }
}

#[test]
fn a_sequence_that_is_stopped_forgets_the_rest() {
    let gpu = gpu();
    gpu.set_submit_budget(Duration::ZERO);
    let Numbers { numbers, digits, append } = numbers(&gpu, 4);
    gpu.write(&digits, 0, &[1u32; 4]);
    let mut sequence = Sequence::new(&gpu);
    (0..6).for_each(|_| sequence.run(&append));
    let asked = std::sync::atomic::AtomicU32::new(0);
    let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3;
    let stopped = pollster::block_on(sequence.submit_until(&stop));
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    sequence.submit().unwrap();
    assert_eq!(pollster::block_on(gpu.read::<u32>(&numbers, 0..4)).unwrap(), [111]);
}

#[test]
fn pieces_of_a_dispatch_do_everything_once() {
    for pieces in [0, 2, 3, 7] {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions { pieces, ..gpu_options() })).unwrap();
        for n in [70_001, 5, 1] {
            let Numbers { numbers, digits, append } = numbers(&gpu, n);
            gpu.write(&digits, 0, &[1u32, 2, 3, 4]);
            append.run(2).unwrap();
            let found = pollster::block_on(gpu.read::<u32>(&numbers, 0..4 * n as u64)).unwrap();
            let wrong = found.iter().enumerate().find(|(i, number)| **number != 11 * (*i as u32 % 4 + 1));
            assert_eq!(wrong, None, "{n} numbers in {pieces} pieces");
            let each = n.div_ceil(pieces.max(1) as usize);
            assert_eq!(append.len(), n.div_ceil(each), "{n} numbers in {pieces} pieces");
        }
    }
}

/// What takes long is cut without being told to.
#[test]
fn long_dispatches_are_cut() {
    let gpu = gpu();
    let Numbers { numbers, digits, .. } = numbers(&gpu, 70_001);
    let bindings = vec![("numbers", numbers.all()), ("digits", digits.all())];
    let (label, header) = ("append".into(), Default::default());
    let params = vec![("n", 70_001usize.into())];
    let dispatch = Dispatch { label, shader: &SHADER, header, bindings, params, workgroups: 70_001 };
    let mut program = ProgramBuilder::new(&gpu);
    program.push_counted(dispatch, t5_wgpu::gpu::Work { flops: 149e9, bytes: 0.0 });
    let program = program.finish().unwrap();
    assert!(program.len() >= 3, "{} dispatches", program.len());
    let total: f64 = program.work().iter().map(|step| step.work.flops).sum();
    assert!((total - 149e9).abs() < 1.0, "{total}");
}
