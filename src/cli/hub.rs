//! Models by their names on the hub: what is shown while one is fetched.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use t5_wgpu::Result;
use t5_wgpu::hub::{DownloadProgress, Hub, HubModel, ModelName};

use super::console::{can_draw, doing, duration, end_progress, note, show_progress, waiting_for};
use super::environment;

/// The folder of a model of the hub in the cache, whose files are fetched if they are not there.
pub fn fetch(name: &ModelName, quiet: bool) -> Result<PathBuf> {
    let hub = Hub::new(environment::hub_options())?;
    let (start, mut announced) = (Instant::now(), false);
    if !quiet {
        doing(&format!("looking for {name} on the hub"));
    }
    let mut show = |progress: DownloadProgress<'_>| {
        if !quiet {
            if progress.received > 0 && !announced {
                announced = true;
                note!("fetching {name}");
            }
            match progress.waiting {
                Some(why) => waiting_for(Some(format!("{}: waiting to try again: {why}", progress.file))),
                None if progress.total > 0 => show_bytes(&progress, start.elapsed().as_secs_f64()),
                None => waiting_for(None),
            }
        }
        ControlFlow::Continue(())
    };
    let found = hub.fetch(name, &mut show);
    if !quiet {
        end_progress();
    }
    let HubModel { folder, received, licence, page, remark, .. } = found?;
    if !quiet {
        if let Some(remark) = remark {
            note!("{remark}");
        }
        if received > 0 {
            let licence = licence.map_or("names no licence".to_owned(), |licence| format!("its licence is {licence}"));
            let seconds = duration(start.elapsed().as_secs_f64());
            note!(
                "fetched {:.1} MB in {seconds} into {}; {licence}, see {page}",
                megabytes(received),
                folder.display()
            );
        }
    }
    Ok(folder)
}

/// Of what is still to come, the time left is told from the rate so far.
fn show_bytes(progress: &DownloadProgress<'_>, seconds: f64) {
    let DownloadProgress { file, done, total, received, .. } = *progress;
    let rate = received as f64 / seconds.max(0.001);
    let left = match received {
        0 => String::new(),
        _ => format!(", {} left", duration(total.saturating_sub(done) as f64 / rate)),
    };
    let [done_mb, total_mb, rate_mb] = [megabytes(done), megabytes(total), rate / 1e6];
    let text = format!("{file}: {done_mb:.1} of {total_mb:.1} MB, {rate_mb:.1} MB/s{left}");
    if can_draw(&io::stderr()) {
        waiting_for(None);
        show_progress(0, 0, &text);
    } else {
        waiting_for(Some(text));
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
