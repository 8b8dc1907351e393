//! What a measurement was made on: the adapter with its driver, and the machine around it.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::gpu::Caps;

/// The machine that a result was measured on. What the system does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    pub adapter: AdapterFacts,
    /// "linux", "windows", "macos" ...
    pub os: String,
    /// The system's name and version.
    pub os_version: Option<String>,
    /// "x86_64", "aarch64" ...
    pub arch: String,
    pub cpu: Option<String>,
    /// Threads of the processor that this program may use.
    pub threads: usize,
    pub memory_bytes: Option<u64>,
    /// "mains" or "battery".
    pub power: Option<String>,
}

/// An adapter and what compiles for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterFacts {
    /// Lower case, as in the folder's name: see [`vendor_name`].
    pub vendor: String,
    pub name: String,
    /// As [`Caps::kind`]: "discrete GPU", "CPU" ...
    pub kind: String,
    pub backend: String,
    pub driver: String,
    pub driver_info: String,
    pub compiler: String,
    /// Smallest and largest subgroup.
    pub subgroup: Option<(u32, u32)>,
    pub max_binding_bytes: u64,
    pub max_buffer_bytes: u64,
}

impl MachineFacts {
    /// Of this machine, as far as its system tells.
    pub fn of(caps: &Caps) -> MachineFacts {
        MachineFacts {
            adapter: AdapterFacts::of(caps),
            os: std::env::consts::OS.into(),
            os_version: os_version(),
            arch: std::env::consts::ARCH.into(),
            cpu: cpu(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory("MemTotal:").or_else(|| said("sysctl", &["-n", "hw.memsize"])?.parse().ok()),
            power: power(),
        }
    }

    /// Whether shaders run on the processor.
    pub fn is_software(&self) -> bool {
        self.adapter.kind == "CPU"
    }

    /// What the figures are those of: a card's name, or the processor's where that runs the shaders.
    pub fn chip(&self) -> String {
        match &self.cpu {
            Some(cpu) if self.is_software() => format!("{cpu}, {} threads", self.threads),
            _ => self.adapter.name.clone(),
        }
    }
}

impl AdapterFacts {
    fn of(caps: &Caps) -> AdapterFacts {
        AdapterFacts {
            vendor: vendor_name(caps.vendor, &caps.name).into(),
            name: caps.name.clone(),
            kind: caps.kind.into(),
            backend: caps.backend.clone(),
            driver: caps.driver.clone(),
            driver_info: caps.driver_info.clone(),
            compiler: caps.compiler.into(),
            subgroup: caps.subgroup,
            max_binding_bytes: caps.max_binding,
            max_buffer_bytes: caps.max_buffer,
        }
    }
}

/// A maker by its number in PCI's list (or Khronos's, for those beyond 65,535), or where there is none by the adapter's name.
pub fn vendor_name(number: u32, adapter: &str) -> &'static str {
    const NUMBERS: [(u32, &str); 12] = [
        (0x10DE, "nvidia"),
        (0x1002, "amd"),
        (0x1022, "amd"),
        (0x8086, "intel"),
        (0x106B, "apple"),
        (0x5143, "qualcomm"),
        (0x13B5, "arm"),
        (0x1010, "imagination"),
        (0x1AE0, "google"),
        (0x1414, "microsoft"),
        (0x19E5, "huawei"),
        (0x10005, "mesa"),
    ];
    const NAMES: [(&str, &str); 7] = [
        ("nvidia", "nvidia"),
        ("amd", "amd"),
        ("radeon", "amd"),
        ("intel", "intel"),
        ("apple", "apple"),
        ("adreno", "qualcomm"),
        ("mali", "arm"),
    ];
    let adapter = adapter.to_lowercase();
    let by_number = NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    let by_name = || NAMES.iter().find(|(part, _)| adapter.contains(part)).map(|(_, name)| *name);
    by_number.or_else(by_name).unwrap_or("other")
}

/// Bytes that a line of Linux's /proc/meminfo names.
pub(super) fn memory(line: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|found| found.strip_prefix(line))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn cpu() -> Option<String> {
    match std::env::consts::OS {
        "linux" => {
            let text = fs::read_to_string("/proc/cpuinfo").ok()?;
            let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Hardware"))?;
            line.split_once(':').map(|(_, name)| name.trim().to_owned())
        }
        "macos" => said("sysctl", &["-n", "machdep.cpu.brand_string"]),
        "windows" => std::env::var("PROCESSOR_IDENTIFIER").ok(),
        _ => None,
    }
    .filter(|name| !name.is_empty())
}

fn os_version() -> Option<String> {
    match std::env::consts::OS {
        "linux" => {
            let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
            let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
            let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
            let parts: Vec<String> =
                [name.map(|name| name.trim_matches('"').to_owned()), kernel.map(|k| k.trim().to_owned())]
                    .into_iter()
                    .flatten()
                    .collect();
            (!parts.is_empty()).then(|| parts.join(", "))
        }
        "macos" => said("sw_vers", &["-productVersion"]),
        "windows" => said("cmd", &["/C", "ver"]),
        _ => None,
    }
}

/// What a command of the system prints.
fn said(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Only Linux says it in a file.
fn power() -> Option<String> {
    let supplies = fs::read_dir("/sys/class/power_supply").ok()?;
    let read = |entry: &fs::DirEntry, name: &str| {
        fs::read_to_string(entry.path().join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let supplies: Vec<[String; 3]> =
        supplies.flatten().map(|entry| ["type", "online", "status"].map(|name| read(&entry, name))).collect();
    power_of(&supplies).map(str::to_owned)
}

/// Type, "online" and status of every supply, as the kernel's sysfs-class-power has them.
fn power_of(supplies: &[[String; 3]]) -> Option<&'static str> {
    let plugged = |[kind, online, _]: &[String; 3]| kind != "Battery" && online == "1";
    let drained = |[kind, _, status]: &[String; 3]| kind == "Battery" && status == "Discharging";
    if supplies.iter().any(plugged) {
        Some("mains")
    } else if supplies.iter().any(drained) {
        Some("battery")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_have_names() {
        assert_eq!(vendor_name(0x10DE, ""), "nvidia");
        assert_eq!(vendor_name(0, "Apple M2 Pro"), "apple");
        assert_eq!(vendor_name(0x10005, "llvmpipe (LLVM 15)"), "mesa");
        assert_eq!(vendor_name(1, "Voodoo"), "other");
    }

    #[test]
    fn a_supply_that_gives_power_goes_first() {
        let supply = |kind: &str, online: &str, status: &str| [kind.into(), online.into(), status.into()];
        let battery = supply("Battery", "", "Discharging");
        assert_eq!(power_of(&[battery.clone(), supply("Mains", "0", "")]), Some("battery"));
        assert_eq!(power_of(&[battery, supply("USB", "1", "")]), Some("mains"));
        assert_eq!(power_of(&[]), None);
    }
}
