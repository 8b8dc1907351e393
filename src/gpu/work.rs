//! The work of a dispatch in operations and bytes: counted from sizes, not measured.

use std::iter::Sum;
use std::ops::Add;

use super::shader::Workgroup;

/// The work of a dispatch, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Work {
    /// Floating-point operations of matrix products and attention, a multiplication and an addition counted as two. What
    /// element-wise kernels compute counts as nothing: memory is what they wait for.
    pub flops: f64,
    /// Bytes read and written if the dispatch moves every operand once, scratch memory included; an operand updated in place
    /// counts twice.
    pub bytes: f64,
}

/// One dispatch of a program with its work.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepWork {
    pub kernel: &'static str,
    pub label: String,
    #[serde(flatten)]
    pub work: Work,
    pub workgroups: u64,
    pub workgroup: Workgroup,
}

impl StepWork {
    /// Invocations of all workgroups.
    pub fn invocations(&self) -> u64 {
        self.workgroups * u64::from(self.workgroup.invocations)
    }
}

impl Work {
    /// Seconds below which nothing can do this work at `flops_rate` operations and `bytes_rate` bytes a second.
    pub fn floor(&self, flops_rate: f64, bytes_rate: f64) -> f64 {
        (self.flops / flops_rate).max(self.bytes / bytes_rate)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(works: I) -> Work {
        works.fold(Work::default(), Add::add)
    }
}
