//! Turns the errors that wgpu reports into [`Error`]s.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};

/// What wgpu says when a driver that has no memory left takes the device along.
const OUT_OF_MEMORY: &str = "Out of memory";

/// Why a device is lost of which nobody told us more.
pub(super) const NO_ANSWER: &str = "it no longer answers";

/// What a device reported outside of any call of ours, until [`Faults::check`] hands it out.
#[derive(Default)]
pub(super) struct Faults(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// The first fault since the last check.
    first: Option<Error>,
    /// Why the device was lost. It does not come back, so this stays.
    lost: Option<String>,
}

impl Faults {
    /// Listens to a device.
    pub fn watch(device: &wgpu::Device) -> Arc<Faults> {
        let faults = Arc::new(Faults::default());
        let to = faults.clone();
        device.on_uncaptured_error(Arc::new(move |e| to.report(e)));
        let to = faults.clone();
        device.set_device_lost_callback(move |_, why| to.lose(why));
        faults
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn report(&self, error: wgpu::Error) {
        let mut found = self.found();
        // What is made on a lost device is invalid, without a word; only its use is refused. That may come before the news of
        // the loss, which for an application's device goes elsewhere.
        let refused =
            matches!(&error, wgpu::Error::Validation { description, .. } if description.contains("is invalid"));
        if refused && found.first.is_none() {
            found.lost.get_or_insert_with(|| NO_ANSWER.into());
        }
        // Once the device is gone, every call fails, and says less than that.
        if found.lost.is_none() {
            found.first.get_or_insert_with(|| translated(error, None));
        }
    }

    pub fn lose(&self, why: String) {
        let mut found = self.found();
        if why == OUT_OF_MEMORY {
            found.first.get_or_insert_with(|| out_of_memory("the driver's own need"));
        }
        found.lost = Some(if why.is_empty() { "it was destroyed".into() } else { why });
    }

    /// The first fault since the last check; `DeviceLost` from then on if the device is gone.
    pub fn check(&self) -> Result<()> {
        let mut found = self.found();
        match (found.first.take(), &found.lost) {
            (Some(first), _) => Err(first),
            (None, Some(why)) => Err(Error::DeviceLost(why.clone())),
            (None, None) => Ok(()),
        }
    }
}

/// Runs `call` on the device and hands out what wgpu reports of it on this thread, which [`Faults`] then does not see.
pub(super) fn caught<T>(device: &wgpu::Device, call: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    // A browser answers later, when the call is long done: there `Faults` has to do.
    if cfg!(target_arch = "wasm32") {
        return (call(), None);
    }
    // The scope that is popped first matters most: what is made of a failed object fails validation, too.
    let scopes = [Validation, Internal, OutOfMemory].map(|filter| device.push_error_scope(filter));
    let made = call();
    let pop = |first: Option<_>, scope: wgpu::ErrorScopeGuard| first.or(pollster::block_on(scope.pop()));
    (made, scopes.into_iter().rev().fold(None, pop))
}

/// Turns an error of wgpu into ours. `pipeline`: the kernel that was being compiled, if any; wgpu has no kind for a shader that is
/// refused, and calls it a validation error or an internal one, depending on who refuses.
pub(super) fn translated(error: wgpu::Error, pipeline: Option<&str>) -> Error {
    match (error, pipeline) {
        (wgpu::Error::OutOfMemory { source }, _) => out_of_memory(&source.to_string()),
        (wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. }, pipeline) => {
            let words = description.split_once("Caused by:").map_or(&*description, |(_, causes)| causes).trim();
            match pipeline {
                Some(pipeline) => Error::Shader(format!("{pipeline} was refused:\n  {words}")),
                None => Error::Driver(words.into()),
            }
        }
    }
}

fn out_of_memory(place: &str) -> Error {
    Error::OutOfMemory(format!("the device gave none ({place}); use a smaller batch or shorter sequences"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(kind: fn(wgpu::ErrorSource, String) -> wgpu::Error, words: &str) -> wgpu::Error {
        kind(words.into(), format!("Validation Error\n\nCaused by:\n  {words}\n"))
    }

    fn validation(source: wgpu::ErrorSource, description: String) -> wgpu::Error {
        wgpu::Error::Validation { source, description }
    }

    fn internal(source: wgpu::ErrorSource, description: String) -> wgpu::Error {
        wgpu::Error::Internal { source, description }
    }

    #[test]
    fn each_kind_of_wgpu_becomes_what_it_means() {
        let memory = || wgpu::Error::OutOfMemory { source: "In Device::create_buffer, label = 'logits'".into() };
        for pipeline in [None, Some("kernel `sample`")] {
            let error = translated(memory(), pipeline);
            assert!(matches!(&error, Error::OutOfMemory(what) if what.contains("'logits'")), "{error}");
        }
        for kind in [validation, internal] {
            let error = translated(described(kind, "FXC error X3511: loop"), Some("kernel `sample` (FXC)"));
            assert!(matches!(error, Error::Shader(_)));
            assert_eq!(error.to_string(), "kernel `sample` (FXC) was refused:\n  FXC error X3511: loop");
            let error = translated(described(kind, "buffer too small"), None);
            assert!(matches!(&error, Error::Driver(what) if what == "buffer too small"), "{error}");
        }
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let faults = Faults::default();
        faults.report(described(validation, "before"));
        faults.lose("gone".into());
        faults.report(described(validation, "after"));
        assert!(matches!(faults.check(), Err(Error::Driver(what)) if what == "before"));
        for _ in 0..3 {
            assert!(matches!(faults.check(), Err(Error::DeviceLost(why)) if why == "gone"));
        }
    }

    #[test]
    fn a_device_lost_for_want_of_memory_says_so_first() {
        let faults = Faults::default();
        faults.lose(wgpu::hal::DeviceError::OutOfMemory.to_string());
        assert!(matches!(faults.check(), Err(Error::OutOfMemory(_))));
        assert!(matches!(faults.check(), Err(Error::DeviceLost(_))));
    }
}
