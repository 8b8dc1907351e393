//! A window in which a T5 answers as you type. The model works on the device and the queue on which the window is drawn.
//!
//! From the repository's root: `cargo run --release --manifest-path examples/window/Cargo.toml -- MODEL_FOLDER`. With
//! `--seconds N` before the folder it types by itself for so long and prints what became of it: see [`check`].

mod check;
mod frames;

use std::error::Error;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use eframe::egui;
use eframe::egui_wgpu::{SurfaceConfig, WgpuSetup, WgpuSetupCreateNew};
use t5_wgpu::T5;
use t5_wgpu::gpu::{Gpu, wgpu};
use t5_wgpu::t5::{AnswerStream, LoadProgress};

use check::Check;
use frames::Frames;

/// An answer begins when nobody has typed for so long.
const PAUSE: Duration = Duration::from_millis(150);

/// What the window shows. (A window of eframe's ends with its device: its renderer panics at the next frame. An application that
/// draws by itself would call [`T5::reopen_on`].)
#[derive(Default)]
struct Chat {
    folder: PathBuf,
    /// The model, once it was loaded.
    t5: Option<T5>,
    /// Ends with the model on the device.
    opening: Option<Pin<Box<dyn Future<Output = t5_wgpu::Result<T5>>>>>,
    /// How far that has come. The engine's threads write it.
    progress: Arc<Mutex<String>>,
    /// Why the model cannot be asked.
    fault: Option<String>,
    source: String,
    /// When a key was last pressed, until the answer to it begins.
    typed: Option<Instant>,
    /// The answer in the making. Dropping it stops the work.
    stream: Option<AnswerStream>,
    answer: String,
    /// The window's device.
    gpu: Option<Gpu>,
    frames: Frames,
    check: Option<Check>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, check) = match arguments.as_slice() {
        [folder] => (folder, None),
        [flag, seconds, folder] if flag == "--seconds" => (folder, Some(Check::new(seconds.parse()?))),
        _ => return Err("the arguments are: [--seconds N] MODEL_FOLDER".into()),
    };
    let mut chat = Chat { folder: folder.into(), check, ..Chat::default() };
    let shown = &mut chat;
    let open = move |window: &eframe::CreationContext<'_>| {
        shown.open_window(window)?;
        Ok(Box::new(shown) as Box<dyn eframe::App + '_>)
    };
    eframe::run_native("T5", window_options(), Box::new(open))?;
    if let Some(check) = chat.check {
        println!("{}", check.report()?);
    }
    Ok(())
}

fn window_options() -> eframe::NativeOptions {
    let device_descriptor = |adapter: &wgpu::Adapter| wgpu::DeviceDescriptor {
        label: Some("window and T5"),
        // Without this a device has the limits that are sure everywhere: too little for large models.
        required_limits: adapter.limits(),
        // Some kernels are faster with subgroups.
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        ..Default::default()
    };
    let setup = WgpuSetupCreateNew {
        device_descriptor: Arc::new(device_descriptor),
        ..WgpuSetupCreateNew::without_display_handle()
    };
    let mut options = eframe::NativeOptions::default();
    options.viewport = options.viewport.with_inner_size([640.0, 360.0]);
    options.wgpu_options.wgpu_setup = WgpuSetup::CreateNew(setup);
    // A frame may be prepared while the one before still waits for the model's work.
    options.wgpu_options.surface = SurfaceConfig::HIGH_THROUGHPUT;
    options
}

impl Chat {
    /// Takes hold of the window's device and loads the model.
    fn open_window(&mut self, window: &eframe::CreationContext<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let state = window.wgpu_render_state.as_ref().ok_or("this window is not drawn by wgpu")?;
        let gpu = Gpu::from_wgpu(state.device.clone(), state.queue.clone())?;
        let progress = self.progress.clone();
        gpu.on_compile(move |now| write(&progress, format!("compiling kernels: {} of {}", now.done, now.total)));

        self.gpu = Some(gpu);
        self.open_model();
        Ok(())
    }

    /// Puts the model on the window's device.
    fn open_model(&mut self) {
        let Some(gpu) = self.gpu.clone() else { return };
        let (t5, folder, progress) = (self.t5.clone(), self.folder.clone(), self.progress.clone());
        write(&progress, "loading".into());
        self.fault = None;
        self.opening = Some(Box::pin(async move {
            let on_progress = move |LoadProgress { done, total, .. }| {
                write(&progress, format!("loading: {} %", 100 * done / total.max(1)));
            };
            let t5 = match t5 {
                Some(t5) => t5.reopen_on(gpu).await.map(|()| t5)?,
                None => T5::builder(&folder).gpu(&gpu).progress(on_progress).load().await?,
            };
            // The first answer compiles the kernels: before the first key is pressed.
            t5.generate("").await?;
            Ok(t5)
        }));
    }

    /// Takes what the model has made since the last frame. Nothing here waits.
    fn proceed(&mut self) {
        if let Some(opened) = self.opening.as_mut().and_then(|opening| poll(opening.as_mut())) {
            self.opening = None;
            self.typed = Some(Instant::now());
            match opened {
                Ok(t5) => self.t5 = Some(t5),
                Err(error) => self.fault = Some(error.to_string()),
            }
        }
        if let (Some(t5), true) = (&self.t5, self.is_ready())
            && self.typed.is_some_and(|typed| typed.elapsed() >= PAUSE)
        {
            self.typed = None;
            self.answer.clear();
            self.stream = (!self.source.trim().is_empty()).then(|| t5.stream(&self.source, &t5.decoding()));
        }
        while let Some(item) = self.stream.as_mut().and_then(|stream| poll(pin!(stream.next()))) {
            match item {
                Some(Ok(piece)) => self.answer += &piece.text,
                Some(Err(error)) => self.fault = Some(error.to_string()),
                None => self.stream = None,
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.t5.is_some() && self.opening.is_none() && self.fault.is_none()
    }

    /// Whether something is under way that the window will show.
    fn is_busy(&self) -> bool {
        self.opening.is_some() || self.stream.is_some() || (self.typed.is_some() && self.is_ready())
    }

    fn state(&self) -> String {
        match &self.fault {
            Some(fault) => fault.clone(),
            None if self.opening.is_some() => self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None if self.stream.is_some() => "answering".into(),
            None => "ready".into(),
        }
    }
}

impl eframe::App for &mut Chat {
    /// Comes before each frame.
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        self.proceed();
        // Frames follow each other while there is something to see; else the next one comes with the next key.
        let goes_on = self.is_busy() || self.check.is_some();
        let frame = self.frames.tick(goes_on);
        if let Some(mut check) = self.check.take() {
            check.proceed(self, ctx, frame);
            self.check = Some(check);
        }
        if goes_on {
            ctx.request_repaint();
        }
    }

    fn raw_input_hook(&mut self, _: &egui::Context, input: &mut egui::RawInput) {
        if let Some(check) = &mut self.check {
            check.press_keys(input);
        }
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        egui::Panel::bottom("state").show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.label(self.state());
                if self.fault.is_some() && ui.button("reopen").clicked() {
                    self.open_model();
                }
                if let Some(t5) = &self.t5 {
                    let (memory, mb) = (t5.memory(), |bytes: u64| bytes as f64 / 1e6);
                    ui.separator();
                    ui.label(format!("{:.1} MB weights, {:.1} MB working", mb(memory.weights), mb(memory.working)));
                }
                ui.separator();
                ui.label(self.frames.to_string());
            });
        });
        egui::CentralPanel::default().show(ui, |ui| {
            let field = egui::TextEdit::multiline(&mut self.source).hint_text("Type a text").desired_rows(3);
            let field = ui.add(field.desired_width(f32::INFINITY));
            if field.changed() {
                // Nobody wants the old answer any more.
                self.stream = None;
                self.typed = Some(Instant::now());
            }
            if ui.memory(|memory| memory.focused().is_none()) {
                field.request_focus();
            }
            ui.add_space(8.0);
            egui::ScrollArea::vertical().show(ui, |ui| ui.label(&self.answer));
        });
    }
}

/// What a future gives, if it is there. Nobody needs waking: each frame asks again.
fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn write(progress: &Mutex<String>, text: String) {
    *progress.lock().unwrap_or_else(PoisonError::into_inner) = text;
}
