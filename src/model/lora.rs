//! LoRA in folders of PyPI's peft: read into a model that is trained on, merged into one that is asked, and written.

use std::path::Path;

use super::layout::TensorSpan;
use super::learns::{Lora, is_addition, pair_of};
use super::{Model, ModelParts};
use crate::checkpoint::{LoraConfig, LoraFolder, write_lora};
use crate::error::{Error, Result};

impl ModelParts {
    /// The same with the LoRA of this folder merged into it. Merging makes one matrix of three, which every way of asking a model reads as
    /// it always did, and no slower.
    ///
    /// # Errors
    /// It is no folder of PyPI's peft with a LoRA, is damaged, or was made on another model.
    pub fn with_lora(mut self, folder: &Path) -> Result<ModelParts> {
        let lora = LoraFolder::open(folder)?;
        let count = lora.targets().count();
        self.remarks.push(format!("{}: merged into {count} projections, scale {}", folder.display(), lora.scale()));
        self.weights = self.weights.with_lora(lora)?;
        self.source = None;
        Ok(self)
    }
}

impl Model {
    /// Refuses to train an adapter that could not be saved: it names the model that it was made on.
    ///
    /// # Errors
    /// `Setting`.
    pub(crate) fn expect_source(&self) -> Result<()> {
        match self.source.is_some() {
            true => Ok(()),
            false => {
                let what = "an adapter names the model in files that it was made on, and there is none: these weights are random, have \
                            rows for new tokens, or are an adapter themselves; save the model as a whole first";
                Err(Error::setting("learns", what))
            }
        }
    }

    /// Writes what LoRA adds.
    pub(super) fn save_lora(&self, lora: &Lora, dir: &Path) -> Result<()> {
        let Some(source) = &self.source else { return self.expect_source() };
        let base = std::path::absolute(source).map_err(Error::io("find", source))?;
        let config = LoraConfig::new(&base, lora.rank, lora.alpha, &lora.targets, lora.rs);
        let added = self.layout.tensors().iter().filter(|tensor| is_addition(&tensor.name));
        let tensors: Vec<_> = added.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
        write_lora(dir, &config, &tensors, |name| pollster::block_on(self.read_tensor(name)))
    }

    /// Fills what LoRA adds to this model with the numbers of a folder.
    ///
    /// # Errors
    /// The folder is of another model or of another LoRA; it is damaged.
    pub fn read_lora(&self, folder: &LoraFolder) -> Result<()> {
        let mut read = 0;
        for tensor in self.layout.tensors() {
            let (Some(names), [out, input]) = (pair_of(&tensor.name), &tensor.shape[..]) else { continue };
            let [Some(a), Some(b)] = names.map(|name| self.layout.tensor(&name)) else { continue };
            let values = folder.pair(&tensor.name, [*out, *input])?;
            let write = |span: &TensorSpan, values: &[f32]| self.write_tensor(span, values);
            write(a, &values[0])?;
            write(b, &values[1])?;
            read += 1;
        }
        match folder.targets().count() == read {
            true => Ok(()),
            false => Err(Error::Input(format!(
                "the adapter adds to {} projections, the settings name {read} of them",
                folder.targets().count()
            ))),
        }
    }
}
