//! A workload on the device, ready to be run any number of times: what sections and suite have in common.

use super::ceilings::Ceilings;
use super::decode::DecodeRun;
use super::encoder::EncoderRun;
use super::gate::WorkloadOutcome;
use super::report::Figure;
use super::spread::{Arm, Spread};
use super::train::TrainRun;
use super::workload::{Workload, WorkloadKind};
use crate::error::Result;
use crate::gpu::{StepTime, StepWork};
use crate::model::Model;
use crate::plan::KernelUse;

/// See the module. Samples take turns with those of others, so all is done behind a shared reference.
pub(super) trait WorkloadRun {
    /// What is timed: the name of each part.
    fn parts(&self) -> Vec<String>;

    /// Seconds that one run of a part took.
    fn sample(&self, part: usize) -> Result<f64>;

    /// The figures that follow from the seconds of the parts, the most important first.
    fn figures(&self, seconds: &[Spread], ceilings: &Ceilings) -> Result<Vec<Figure>>;

    /// What each dispatch has to do: of decoding, those of one step.
    fn work(&self) -> Result<Vec<StepWork>>;

    /// The same dispatches, each with its time on the device.
    fn profile(&self) -> Result<Vec<StepTime>>;

    /// The kernels of a run.
    fn kernels(&self) -> Result<Vec<KernelUse>>;

    /// What the latest sample computed, and a little more. Of training, this changes the weights, and is done last.
    fn outcome(&self) -> Result<WorkloadOutcome>;
}

/// Compiles a workload's plans.
///
/// # Errors
/// `OutOfMemory`, or a kernel does not compile.
pub(super) fn prepare(model: &Model, workload: &Workload) -> Result<Box<dyn WorkloadRun>> {
    Ok(match workload.kind {
        WorkloadKind::Encoder => Box::new(EncoderRun::compile(model, workload)?),
        WorkloadKind::Decode => Box::new(DecodeRun::compile(model, workload)?),
        WorkloadKind::Train => Box::new(TrainRun::compile(model, workload)?),
    })
}

/// One arm for each part.
pub(super) fn arms(run: &dyn WorkloadRun) -> Vec<Arm<'_>> {
    run.parts().into_iter().enumerate().map(|(part, name)| Arm::new(name, move || run.sample(part))).collect()
}
