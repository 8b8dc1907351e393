//! Folders of PyPI's peft: what they add is merged into a model that is asked, or lies beside the weights of one that is trained on; and
//! they are written.

use std::ops::ControlFlow;
use std::path::Path;

use super::additions::{IA3_TARGETS, Lora, is_addition, targets_of};
use super::{Learns, Model, ModelParts, Storage};
use crate::checkpoint::{PeftFolder, PeftKind, Weights, write_peft};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// What lies beside a model's weights, instead of being merged into them.
#[derive(Debug)]
pub struct Beside {
    /// What is there, with nothing left out.
    pub learns: Learns,
    /// Its numbers.
    pub folder: PeftFolder,
}

impl ModelParts {
    /// The same with what this folder adds merged into it. Merging makes one matrix of several, which every way of asking a model reads as
    /// it always did, and no slower.
    ///
    /// # Errors
    /// It is no folder of PyPI's peft with a LoRA or an IA3, is damaged, or was made on another model.
    pub fn with_peft(mut self, folder: &Path) -> Result<ModelParts> {
        let adapter = PeftFolder::open(folder)?;
        self.remarks.push(adapter.about());
        self.weights = self.weights.with_peft(adapter)?;
        self.source = None;
        Ok(self)
    }

    /// [`ModelParts::open`] for a training that changes what `learns` says. What PyPI's peft has added to the model, in its own folder or in
    /// `peft`, stays beside the weights if `learns` goes on training that, and is merged into them otherwise.
    ///
    /// # Errors
    /// Also `Setting`: `learns` means something else than what was added.
    pub fn open_to_train(model: &Path, peft: Option<&Path>, learns: &Learns) -> Result<ModelParts> {
        let own = PeftFolder::find(model)?.filter(|_| learns.adds() && peft.is_none());
        let given = peft.filter(|_| learns.adds()).map(PeftFolder::open).transpose()?;
        let mut parts = match &own {
            Some(folder) => {
                let base = folder.base()?;
                ModelParts::of(model, Weights::open(&base)?, Some(base))?.that_write_text(model)?
            }
            None => ModelParts::open(model)?,
        };
        if let (false, Some(folder)) = (learns.adds(), peft) {
            return parts.with_peft(folder);
        }
        if let Some(folder) = own.or(given) {
            let learns = learns.on(&Learns::of_folder(&folder)?)?;
            parts.remarks.push(format!("{}: training goes on with what it adds", folder.dir().display()));
            parts.beside = Some(Beside { learns, folder });
        }
        Ok(parts)
    }
}

impl Learns {
    /// What goes on training what a folder adds, with nothing left out.
    ///
    /// # Errors
    /// It is an IA3 of other projections than those that are trained here.
    pub fn of_folder(folder: &PeftFolder) -> Result<Learns> {
        let targets = targets_of(folder.targets());
        match *folder.kind() {
            PeftKind::Lora { rank, alpha, dropout, rs } => Ok(Learns::Lora(Lora {
                rank: Some(rank),
                alpha: Some(alpha),
                dropout: Some(dropout),
                targets: Some(targets),
                rs: Some(rs),
            })),
            PeftKind::Ia3 if targets == IA3_TARGETS => Ok(Learns::Ia3),
            PeftKind::Ia3 => {
                let what = format!(
                    "its factors are those of {}; trained on can only be those of {}: merge it first (`t5 convert`)",
                    targets.join(", "),
                    IA3_TARGETS.join(", ")
                );
                Err(Error::file(folder.dir(), what))
            }
        }
    }
}

impl Model {
    /// Puts the model of [`ModelParts::open_to_train`] on a device, what does not learn held as `frozen` says. Gives the model, and
    /// remarks worth printing.
    ///
    /// # Errors
    /// Those of [`ModelParts::open_to_train`] and [`Model::upload`].
    pub fn load_to_train(gpu: &Gpu, model: &Path, learns: &Learns, frozen: Storage) -> Result<(Model, Vec<String>)> {
        let parts = ModelParts::open_to_train(model, None, learns)?;
        Model::upload(gpu, &parts, frozen, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Refuses to train an adapter that could not be saved: it names the model that it was made on.
    ///
    /// # Errors
    /// `Setting`.
    pub(crate) fn expect_source(&self) -> Result<()> {
        match self.source.is_some() {
            true => Ok(()),
            false => {
                let what = "an adapter names the model in files that it was made on, and there is none: these weights are random, have \
                            rows for new tokens, or had another adapter merged into them; save the model as a whole first";
                Err(Error::setting("learns", what))
            }
        }
    }

    /// Writes what was added.
    pub(super) fn save_peft(&self, dir: &Path) -> Result<()> {
        let Some(source) = &self.source else { return self.expect_source() };
        let base = std::path::absolute(source).map_err(Error::io("find", source))?;
        let (kind, targets) = match self.layout.learns() {
            Learns::Lora(lora) => {
                let (rank, alpha, dropout, rs) = (lora.rank(), lora.alpha(), lora.dropout(), lora.rs());
                (PeftKind::Lora { rank, alpha, dropout, rs }, lora.targets())
            }
            Learns::Ia3 => (PeftKind::Ia3, IA3_TARGETS.to_vec()),
            _ => return Ok(()),
        };
        let added = self.layout.tensors().iter().filter(|tensor| is_addition(&tensor.name));
        let tensors: Vec<_> = added.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
        write_peft(dir, &base, &kind, &targets, &tensors, |name| pollster::block_on(self.read_tensor(name)))
    }

    /// The same model with what lies beside its weights.
    ///
    /// # Errors
    /// The folder is of another model, or adds to fewer projections than have the names of those that it adds to; it is damaged.
    pub fn with_beside(self, Beside { learns, folder }: &Beside) -> Result<Model> {
        let model = self.learning(learns, 0)?;
        let added: Vec<_> = model.layout.tensors().iter().filter(|tensor| is_addition(&tensor.name)).collect();
        if added.len() != folder.count() {
            let what = format!(
                "it has {} tensors, where {} projections of the model have the names of those that it adds to: only what adds to all of them \
                 can be trained on; merge it first (`t5 convert`)",
                folder.count(),
                added.len()
            );
            return Err(Error::file(folder.dir(), what));
        }
        for tensor in added {
            model.write_tensor(tensor, &folder.read(&tensor.name, &tensor.shape)?)?;
        }
        model.gpu.flush()?;
        Ok(model)
    }
}
