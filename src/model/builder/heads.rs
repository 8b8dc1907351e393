//! The heads that give labels their scores.

use super::Builder;
use crate::graph::{Dtype, ValueId};
use crate::model::Labelled;
use crate::ops::{Activation, Function, Gather, Matmul, Variant, gather_index_len};

impl Builder<'_> {
    /// The scores of a classifier's labels, before any softmax: `[B, labels]` of texts, `[B S, labels]` of tokens. Reads what
    /// [`Builder::encoder`] reads; of texts also what [`Builder::decoder`] reads, and `ends` (`[B]`): the row in `[B T]` of each
    /// text's end token.
    ///
    /// # Panics
    /// If the model is no classifier.
    pub fn label_scores(&mut self, labelled: Labelled) -> ValueId {
        let encoded = self.encoder();
        if labelled == Labelled::Tokens {
            self.graph.scope("classifier");
            return self.linear_with_bias("classifier", encoded, self.product());
        }
        let states = self.decoder(encoded);
        self.graph.scope("classification_head");
        let last = self.rows_of(states, "ends", self.shape.batch);
        // A kernel whose rows do not depend on each other, however few they are.
        let few = Matmul { variant: Some(Variant::Few), ..self.product() };
        let dense = self.linear_with_bias("classification_head.dense", last, few.clone());
        let hidden = self.graph.push1(Activation { function: Function::Tanh, gated: false }, &[dense]);
        self.linear_with_bias("classification_head.out_proj", hidden, few)
    }

    /// x W^T + b. Reads the leaf `zeros` (one for each row of x): every row takes the one row of the bias.
    fn linear_with_bias(&mut self, name: &str, x: ValueId, op: Matmul) -> ValueId {
        let rows = self.graph.shape(x)[0];
        let weight = self.param(&format!("{name}.weight"));
        let columns = self.graph.shape(weight)[0];
        let bias = self.graph.leaf(format!("{name}.bias"), &[1, columns], Dtype::F32);
        let bias = self.rows_of(bias, "zeros", rows);
        self.graph.push1(op.with_residual(), &[x, weight, bias])
    }

    /// The rows of a matrix that the leaf `ids` (`[count]`) names.
    fn rows_of(&mut self, matrix: ValueId, ids: &str, count: usize) -> ValueId {
        let rows = self.graph.shape(matrix)[0];
        let index = self.graph.leaf(format!("{ids}_index"), &[gather_index_len(count)], Dtype::U32);
        let ids = self.graph.leaf(ids, &[count], Dtype::U32);
        self.graph.push1(Gather { shards: vec![rows] }, &[ids, index, matrix])
    }
}
