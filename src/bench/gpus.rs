//! Graphics cards by name, for predictions.

/// What a vendor's sheet says of a card; +-5 %, since clocks vary by maker.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct NamedGpu {
    pub name: &'static str,
    /// Memory bandwidth in GB/s.
    pub bandwidth: f64,
    /// f32 in TFLOP/s that plain multiply-add code can use.
    pub f32_rate: f64,
    /// Microseconds from one dispatch to the next that depends on it: an estimate by vendor, not from any sheet.
    pub launch: f64,
}

const fn gpu(name: &'static str, bandwidth: f64, f32_rate: f64, launch: f64) -> NamedGpu {
    NamedGpu { name, bandwidth, f32_rate, launch }
}

/// 2 to 4 us were seen on NVIDIA's, 3 to 6 on AMD's and Apple's, 5 to 10 on Intel's and mobile ones.
const NVIDIA: f64 = 3.0;
const AMD: f64 = 4.5;
const APPLE: f64 = 4.5;
const MOBILE: f64 = 7.5;

/// Sources: NVIDIA's architecture whitepapers (Turing, Ampere GA102, Ada, Blackwell, Hopper), AMD's and Intel's product
/// pages, Apple's technical specifications. RDNA 3 is listed by AMD at twice this rate, which needs dual-issued
/// instructions. The rates of Apple's M4 Max and of the Adrenos are derived from cores and clock.
pub const GPUS: &[NamedGpu] = &[
    gpu("NVIDIA H100 SXM", 3350.0, 66.9, NVIDIA),
    gpu("NVIDIA RTX 5090", 1792.0, 104.8, NVIDIA),
    gpu("NVIDIA RTX 4090", 1008.0, 82.6, NVIDIA),
    gpu("NVIDIA RTX 3090", 936.0, 35.6, NVIDIA),
    gpu("NVIDIA RTX 3060", 360.0, 12.7, NVIDIA),
    gpu("NVIDIA RTX 2080 Ti", 616.0, 13.4, NVIDIA),
    gpu("AMD RX 7900 XTX", 960.0, 30.7, AMD),
    gpu("AMD RX 6800 XT", 512.0, 20.7, AMD),
    gpu("AMD RX 580", 256.0, 6.2, AMD),
    gpu("AMD Radeon 780M", 100.0, 4.15, AMD),
    gpu("Intel Arc A770", 560.0, 19.7, MOBILE),
    gpu("Intel Arc B580", 456.0, 13.7, MOBILE),
    gpu("Intel UHD 770", 70.0, 0.74, MOBILE),
    gpu("Apple M1", 68.0, 2.6, APPLE),
    gpu("Apple M2 Pro", 200.0, 6.8, APPLE),
    gpu("Apple M4 Max", 546.0, 18.0, APPLE),
    gpu("Qualcomm Adreno X1-85", 135.0, 4.6, MOBILE),
    gpu("Qualcomm Adreno 750", 77.0, 2.8, MOBILE),
];
