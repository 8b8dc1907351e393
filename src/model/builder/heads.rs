//! The heads of models that write no text: scores of labels, quantiles of forecasts.

use super::Builder;
use crate::graph::{Add, Dtype, ValueId};
use crate::model::{Labelled, PatchHead};
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

    /// What a Chronos-Bolt forecasts: `[B, quantiles prediction_length]`. Reads the leaves `patches` (`[B S, 2 patch_size]`),
    /// `src_rows` (`[B S]`: which of the B S embedded patches a position has, or B S: the one embedding of a place that sums a
    /// series up), `src_shown` (a bit for each position, see [`crate::ops::Mask::Shown`]), `summary_ids` (`[1]`: that place's id),
    /// what [`Builder::decoder`] reads but for `src_lens`, and `starts` (`[B]`): the row in `[B T]` of each series' first position.
    pub fn quantiles(&mut self, head: &PatchHead) -> ValueId {
        let rows = self.shape.batch * self.shape.src_len;
        let patches = self.graph.leaf("patches", &[rows, 2 * head.patch_size], Dtype::F32);
        self.graph.scope("input_patch_embedding");
        let embedded = self.residual_block("input_patch_embedding", patches, &self.product());
        let summary = self.embed("summary", 1);
        let index = self.graph.leaf("src_rows_index", &[gather_index_len(rows)], Dtype::U32);
        let places = self.graph.leaf("src_rows", &[rows], Dtype::U32);
        let sources = self.graph.push1(Gather { shards: vec![rows, 1] }, &[places, index, embedded, summary]);
        self.gaps = true;
        let encoded = self.encoder_of(sources);
        let states = self.decoder(encoded);
        self.graph.scope("output_patch_embedding");
        let first = self.rows_of(states, "starts", self.shape.batch);
        let few = Matmul { variant: Some(Variant::Few), ..self.product() };
        self.residual_block("output_patch_embedding", first, &few)
    }

    /// act(x W_h^T + b_h) W_o^T + b_o + x W_r^T + b_r.
    fn residual_block(&mut self, name: &str, x: ValueId, op: &Matmul) -> ValueId {
        let function = self.config.feed_forward_proj.function;
        let hidden = self.linear_with_bias(&format!("{name}.hidden_layer"), x, op.clone());
        let hidden = self.graph.push1(Activation { function, gated: false }, &[hidden]);
        let straight = self.linear_with_bias(&format!("{name}.residual_layer"), x, op.clone());
        let bent = self.linear_with_bias(&format!("{name}.output_layer"), hidden, op.clone());
        self.graph.push1(Add, &[bent, straight])
    }

    /// x W^T + b. Every row takes the one row of the bias: reads the leaf `zeros_R` (`[R]`) for R rows of x.
    fn linear_with_bias(&mut self, name: &str, x: ValueId, op: Matmul) -> ValueId {
        let rows = self.graph.shape(x)[0];
        let weight = self.param(&format!("{name}.weight"));
        let columns = self.graph.shape(weight)[0];
        let bias = self.graph.leaf(format!("{name}.bias"), &[1, columns], Dtype::F32);
        let bias = self.rows_of(bias, &format!("zeros_{rows}"), rows);
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
