//! What the environment asks for, as options of the library, which itself reads no environment. The variables that stand for
//! a flag, `T5_ADAPTER` and `T5_TUNE`, are read by clap with the flag.

use std::env::{consts, var, var_os};
use std::path::PathBuf;

use t5_wgpu::gpu::GpuOptions;
use t5_wgpu::hub::HubOptions;

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

/// Which hub is asked for models, and how: the variables of huggingface_hub, `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` (else the
/// file that its login writes), `HF_HUB_OFFLINE`; and those for proxies.
pub fn hub_options() -> HubOptions {
    let given = |name: &str| var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let first = |names: &[&str]| names.iter().find_map(|name| given(name));
    let defaults = HubOptions::default();
    let usual = || given("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("huggingface"));
    let home = given("HF_HOME").map(PathBuf::from).or_else(usual);
    let token_file = given("HF_TOKEN_PATH").map(PathBuf::from);
    let token_file = token_file.or_else(|| Some(home.as_deref().or(defaults.cache.parent())?.join("token")));
    let login = || Some(std::fs::read_to_string(token_file?).ok()?.trim().to_owned()).filter(|token| !token.is_empty());
    HubOptions {
        endpoint: given("HF_ENDPOINT").unwrap_or(defaults.endpoint),
        token: given("HF_TOKEN").or_else(login),
        offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
            .is_some_and(|text| ["1", "ON", "YES", "TRUE"].contains(&text.to_uppercase().as_str())),
        proxy: first(&["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]),
        no_proxy: first(&["NO_PROXY", "no_proxy"]).unwrap_or_default(),
        cache: given("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join("hub")))
            .unwrap_or(defaults.cache),
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
