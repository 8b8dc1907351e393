//! What the environment asks for, as options of the library, which itself reads no environment. The variables that stand for
//! a flag, `T5_ADAPTER` and `T5_TUNE`, are read by clap with the flag.

use std::env::{consts, var, var_os};
use std::path::PathBuf;

use t5_wgpu::gpu::GpuOptions;

/// `T5_CHECKED`, `T5_DEBUG`, `WGPU_DX12_COMPILER`, and the folder for compiled kernels.
pub fn gpu_options() -> GpuOptions {
    GpuOptions {
        checked: var("T5_CHECKED").is_ok_and(|v| !v.is_empty() && v != "0"),
        check_numbers: var("T5_DEBUG").is_ok_and(|v| v == "1"),
        dx12_compiler: var("WGPU_DX12_COMPILER").ok().filter(|v| !v.is_empty()),
        cache_folder: cache_folder(),
        ..GpuOptions::default()
    }
}

/// The user's folder for what was measured or compiled: `T5_CACHE_DIR`, else `t5-wgpu` in `XDG_CACHE_HOME` or where the system
/// keeps such files. `None` if there is no home.
pub fn cache_folder() -> Option<PathBuf> {
    let from = |name: &str| var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = || {
        from("XDG_CACHE_HOME").or_else(|| match consts::OS {
            "windows" => from("LOCALAPPDATA"),
            "macos" => from("HOME").map(|home| home.join("Library/Caches")),
            _ => from("HOME").map(|home| home.join(".cache")),
        })
    };
    from("T5_CACHE_DIR").or_else(|| Some(base()?.join("t5-wgpu")))
}
