//! The handle that applications hold: many threads, streams, stopping, unloading, lost devices, devices of applications.

#[path = "common/gpu.rs"]
mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use t5_wgpu::generate::{Decoding, Generator, StoppedAt};
use t5_wgpu::gpu::{Gpu, Readback, wgpu};
use t5_wgpu::model::ModelParts;
use t5_wgpu::t5::{AnswerStream, LoadProgress, ModelSource, Pending};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::{Error, Result, T5};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-model");

fn load() -> T5 {
    let gpu = common::gpu();
    T5::builder(MODEL).gpu(&gpu).load().wait().unwrap()
}

fn sampled(max_new_tokens: usize) -> Decoding {
    Decoding::sample(1.0, 7).max_new_tokens(max_new_tokens)
}

/// Compiles only if executors that move work between threads can run what the library gives.
#[test]
fn handles_and_futures_may_go_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn shared<T: Send + Sync + Clone>() {}
    shared::<T5>();
    shared::<Gpu>();
    is_send(&Gpu::open(&common::gpu_options()));
    let readback = |readback: Readback<f32>| is_send(&readback.finish());
    let pending = |pending: Pending<T5>, stream: AnswerStream| (is_send(&pending), is_send(&stream));
    let generating = |generator: &mut Generator| {
        is_send(&generator.generate(&[], &Decoding::greedy(), &mut |_, _| ControlFlow::Continue(()), &|| false));
    };
    let _ = (readback, pending, generating);
}

#[test]
fn eight_threads_ask_one_handle() {
    let t5 = load();
    let texts: Vec<String> = (0..8).map(|i| format!("text {i} {}", "long ".repeat(i))).collect();
    let options = sampled(12);
    let alone: Vec<String> = texts.iter().map(|text| ask(&t5, text, &options)).collect();
    assert_ne!(alone[0], alone[7]);
    let answers: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = texts.iter().map(|text| scope.spawn(|| ask(&t5.clone(), text, &options))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, alone);
}

fn ask(t5: &T5, text: &str, options: &Decoding) -> String {
    t5.answer(&[text], options).wait().unwrap().remove(0).text
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let t5 = load();
    let options = sampled(40);
    let answer = t5.answer(&["a text"], &options).wait().unwrap().remove(0);
    let pieces: Vec<_> = t5.stream("a text", &options).blocking().collect::<Result<_>>().unwrap();
    assert!(pieces.len() > 3, "it came at once: {pieces:?}");
    assert_eq!(pieces.iter().map(|p| p.text.as_str()).collect::<String>(), answer.text);
    assert_eq!(pieces.iter().flat_map(|p| p.ids.clone()).collect::<Vec<_>>(), answer.generation.ids);
}

/// What a stream hands out ends before a stop string, and no part of one is ever seen.
#[test]
fn a_stream_ends_before_a_stop_string() {
    let t5 = load();
    let options = sampled(40);
    let whole = ask(&t5, "a text", &options);
    let stop: String = whole.chars().skip(12).take(3).collect();
    let before = &whole[..whole.find(&stop).unwrap()];
    let stopping = Decoding { stop_strings: vec![stop.clone()], ..options.clone() };
    let mut shown = String::new();
    for piece in t5.stream("a text", &stopping).blocking() {
        shown += &piece.unwrap().text;
        assert!(before.starts_with(&shown), "{shown:?} of {before:?}");
    }
    assert_eq!(shown, before);
    let answers = t5.answer(&["a text", "another"], &stopping.log_probs(true)).wait().unwrap();
    assert_eq!(answers[0].text, before);
    let generation = &answers[0].generation;
    assert_eq!(generation.stopped_at, Some(StoppedAt::StopString(stop.clone())));
    assert_eq!(generation.log_probs.len(), generation.ids.len());
    assert!(!answers[1].text.contains(&stop));
}

/// The end of a long answer is far away: who stops it does not wait for it.
#[test]
fn work_stops_when_nobody_wants_it() {
    let t5 = load();
    let options = sampled(200_000);
    let begun = Instant::now();
    let mut stream = t5.stream("a", &options);
    pollster::block_on(stream.next()).unwrap().unwrap();
    drop(stream);
    let pending = t5.answer(&["b"], &options);
    let canceller = pending.canceller();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        canceller.cancel();
    });
    assert!(matches!(pending.wait(), Err(Error::Cancelled)));
    drop(t5.answer(&["c"], &options));
    t5.answer(&["d"], &sampled(2)).wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// What a dropped stream held serves the next one, and nothing is left over.
#[test]
fn dropped_streams_leave_no_memory_behind() {
    let t5 = load();
    let held = || {
        // Answers that are asked for later come later: by now the worker has left the stream behind.
        ask(&t5, "short", &sampled(2));
        t5.memory()
    };
    let mut last = None;
    for _ in 0..10 {
        let mut stream = t5.stream("a text", &sampled(3000));
        pollster::block_on(stream.next()).unwrap().unwrap();
        drop(stream);
        let now = held();
        assert!(last.is_none_or(|last| now == last), "{last:?} {now:?}");
        last = Some(now);
    }
}

/// All handles gone, all memory is: a second model takes no more than the first did.
#[test]
fn a_dropped_model_is_freed() {
    let gpu = common::gpu();
    // A device keeps a few small buffers for reading. Once it has them all, it holds neither more nor less.
    let data = gpu.buffer("data", 4096).unwrap();
    let reads: Vec<_> = (0..16).map(|_| gpu.start_read::<u32>(&data, 0..4096).unwrap()).collect();
    reads.into_iter().for_each(|read| drop(pollster::block_on(read.finish()).unwrap()));
    drop(data);
    gpu.flush().unwrap();
    let Some(before) = gpu.allocated() else { return };
    let mut most = Vec::new();
    for _ in 0..3 {
        let t5 = T5::builder(MODEL).gpu(&gpu).load().wait().unwrap();
        ask(&t5, "text", &sampled(10));
        most.push(gpu.allocated().unwrap());
        drop(t5);
        let begun = Instant::now();
        // The worker sees a little later that its last handle is gone.
        while gpu.allocated().unwrap() > before {
            gpu.flush().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?} bytes are still held", gpu.allocated());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // The same but for what the allocator adds to align them.
    let model = most[0] - before;
    assert!(model > 0 && most.iter().all(|&bytes| bytes <= most[0] + model / 100), "{before} {most:?}");
}

#[test]
fn loading_tells_how_far_it_is_and_can_be_stopped() {
    let gpu = common::gpu();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let on_progress = move |progress: LoadProgress| hear.lock().unwrap().push(progress);
    let t5 = T5::builder(MODEL).gpu(&gpu).progress(on_progress).load().wait().unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard.len() > 10 && heard.is_sorted_by_key(|progress| progress.done));
    let LoadProgress { done, total, .. } = heard[heard.len() - 1];
    assert_eq!(done, total);
    // Parameters lie at aligned places.
    assert!((4 * done..5 * done).contains(&t5.memory().weights));

    let pending = T5::builder(MODEL).gpu(&gpu).load();
    pending.canceller().cancel();
    assert!(matches!(pending.wait(), Err(Error::Cancelled)));
    let missing = T5::load("no such folder").wait().unwrap_err();
    assert!(missing.to_string().contains("no such folder"), "{missing}");
}

#[test]
fn an_unloaded_model_holds_nothing_and_answers_again() {
    let t5 = load();
    let before = ask(&t5, "text", &sampled(10));
    let held = t5.memory();
    assert!(held.weights > 0 && held.working > 0, "{held:?}");
    t5.unload().wait().unwrap();
    assert_eq!((t5.memory().weights, t5.memory().working), (0, 0));
    assert!(matches!(t5.generate("text").wait(), Err(Error::Unloaded)));
    t5.reopen().wait().unwrap();
    assert_eq!(t5.memory().weights, held.weights);
    assert_eq!(ask(&t5, "text", &sampled(10)), before);
}

#[test]
fn a_model_may_come_from_memory() {
    let bytes = std::fs::read(format!("{MODEL}/model.safetensors")).unwrap();
    let folder = ModelParts::open(MODEL.as_ref()).unwrap();
    let weights = t5_wgpu::checkpoint::Weights::from_bytes("tiny", bytes.clone()).unwrap();
    let parts = Arc::new(ModelParts { weights, ..folder });
    let source = ModelSource::Parts { parts, tokenizer: Tokenizer::from_dir(MODEL.as_ref()).unwrap() };
    let gpu = common::gpu();
    let t5 = T5::builder(source).gpu(&gpu).load().wait().unwrap();
    assert_eq!(ask(&t5, "text", &sampled(10)), ask(&load(), "text", &sampled(10)));
    let cut = t5_wgpu::checkpoint::Weights::from_bytes("tiny", bytes[..1000].to_vec()).unwrap_err();
    assert!(cut.to_string().starts_with("tiny: not a complete"), "{cut}");
}

/// An application's device: opened without the engine.
fn application() -> (wgpu::Device, wgpu::Queue) {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends: wgpu::Backends::PRIMARY, ..descriptor });
    let wanted = wgpu::RequestAdapterOptions::default();
    let adapter = pollster::block_on(instance.request_adapter(&wanted)).expect("an adapter");
    let required_features = adapter.features() & wgpu::Features::SUBGROUP;
    let descriptor =
        wgpu::DeviceDescriptor { required_features, required_limits: adapter.limits(), ..Default::default() };
    pollster::block_on(adapter.request_device(&descriptor)).unwrap()
}

#[track_caller]
fn lost(result: Result<()>) {
    assert!(matches!(result, Err(Error::DeviceLost(_))), "{result:?}");
}

/// The device is lost in the middle of each kind of call: the call says so, and the model answers on another device as before.
#[test]
fn a_lost_device_is_said_and_outlived() {
    let answer = ask(&load(), "text", &sampled(10));
    for own in [true, false] {
        let open = || {
            if own {
                return common::gpu();
            }
            let (device, queue) = application();
            Gpu::from_wgpu(device, queue).unwrap()
        };
        // While weights are on their way.
        let gpu = open();
        let at_once = gpu.clone();
        let load = T5::builder(MODEL).gpu(&gpu).progress(move |_| at_once.destroy()).load();
        lost(load.wait().map(drop));

        // In the middle of an answer, with a stream and others in the queue.
        let gpu = open();
        let t5 = T5::builder(MODEL).gpu(&gpu).load().wait().unwrap();
        assert_eq!(ask(&t5, "text", &sampled(10)), answer);
        let mut stream = t5.stream("a", &sampled(100_000));
        pollster::block_on(stream.next()).unwrap().unwrap();
        let waiting = t5.answer(&["text"], &sampled(10));
        gpu.destroy();
        lost(stream.blocking().find(Result::is_err).expect("an endless stream ends by an error").map(drop));
        lost(waiting.wait().map(drop));
        lost(t5.generate("text").wait().map(drop));

        if own {
            t5.reopen().wait().unwrap();
        } else {
            lost(t5.reopen().wait());
            t5.reopen_on(open()).wait().unwrap();
        }
        assert_eq!(ask(&t5, "text", &sampled(10)), answer);
    }
}

/// The engine works on the queue on which an application draws its frames; neither sees anything of the other.
#[test]
fn an_application_draws_on_the_same_device() {
    let answer = ask(&load(), "text", &sampled(30));
    let (device, queue) = application();
    let strayed = Arc::new(AtomicBool::new(false));
    let seen = strayed.clone();
    device.on_uncaptured_error(Arc::new(move |_| seen.store(true, Ordering::Relaxed)));
    let t5 = T5::builder(MODEL).gpu(&Gpu::from_wgpu(device.clone(), queue.clone()).unwrap()).load().wait().unwrap();
    let (stop, frames) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let usage = wgpu::TextureUsages::RENDER_ATTACHMENT;
            let size = wgpu::Extent3d { width: 64, height: 64, depth_or_array_layers: 1 };
            let target = device.create_texture(&wgpu::TextureDescriptor {
                label: None,
                size,
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: wgpu::TextureFormat::Rgba8Unorm,
                usage,
                view_formats: &[],
            });
            let view = target.create_view(&Default::default());
            while !stop.load(Ordering::Relaxed) {
                let mut encoder = device.create_command_encoder(&Default::default());
                let attachment = wgpu::RenderPassColorAttachment {
                    view: &view,
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::GREEN),
                        store: wgpu::StoreOp::Store,
                    },
                };
                drop(encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                    color_attachments: &[Some(attachment)],
                    ..Default::default()
                }));
                queue.submit([encoder.finish()]);
                device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
                frames.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Also where an assertion fails: the frames must end for the test to end.
        let _stop = StopOnDrop(&stop);
        for _ in 0..5 {
            assert_eq!(ask(&t5, "text", &sampled(30)), answer);
        }
        // Two gigabytes too many: the engine's error, and not the application's.
        let error = t5.gpu().buffer("huge", t5.gpu().caps().max_buffer + 1).map(drop).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    });
    assert!(frames.load(Ordering::Relaxed) > 5, "{frames:?} frames");
    assert!(!strayed.load(Ordering::Relaxed), "an error of the engine reached the application's handler");
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
