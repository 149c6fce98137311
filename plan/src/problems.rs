//! Why a run cannot be laid out as asked, each with its way out. Keys are those of the run's config.
use crate::{Plan, StepShape, split};
use model::TensorMode;

impl Plan {
    /// A model, or numbers of a step, that the mesh does not fit.
    pub fn problems(&self, shape: StepShape) -> Vec<String> {
        let split = self.split.as_ref().map(|split| split::check(split, self.model.layers, self.mesh.stages()));
        [
            self.too_many_stages(),
            split.and_then(Result::err).into_iter().collect(),
            self.tokens_do_not_divide(shape.t),
            self.leaves_do_not_fit(shape.micros),
        ]
        .concat()
    }

    fn too_many_stages(&self) -> Vec<String> {
        let (stages, layers) = (self.mesh.stages(), self.model.layers);
        let (size, chunks) = (self.mesh.pipeline, self.mesh.chunks);
        match chunks {
            _ if stages <= layers => vec![],
            1 => vec![format!(
                "parallel.pipeline.size = {size} is more than model.num_hidden_layers = {layers}; try {layers} or less"
            )],
            _ => vec![format!(
                "parallel.pipeline.size = {size} x chunks = {chunks} stages are more than model.num_hidden_layers = {layers}; lower one of them"
            )],
        }
    }

    fn tokens_do_not_divide(&self, t: usize) -> Vec<String> {
        let size = self.mesh.tensor.size;
        if self.mesh.tensor.mode == TensorMode::Mtp || t.is_multiple_of(size) {
            return vec![];
        }
        vec![format!(
            "parallel.tensor.size = {size} does not divide the {t} tokens of a micro-batch (data.seq_len x data.micro_batch_size), which its ranks share; change one of them, or use mode = \"mtp\""
        )]
    }

    fn leaves_do_not_fit(&self, micro_batches: usize) -> Vec<String> {
        let (n, data, at_once) = (self.leaves, self.mesh.data, self.mesh.replicas_at_once());
        let global = micro_batches * data;
        let problem = if n == 0 {
            return vec![];
        } else if !n.is_power_of_two() {
            format!("train.reproducible = {n} is not a power of two; try {}", n.next_power_of_two())
        } else if !global.is_multiple_of(n) {
            format!(
                "train.reproducible = {n} does not divide the {global} micro-batches of a step (train.micro_batches = {micro_batches} x {data} data-parallel ranks)"
            )
        } else if !n.is_multiple_of(data) {
            format!(
                "train.reproducible = {n} is not a multiple of the data-parallel size {data}; try {}",
                data.next_power_of_two()
            )
        } else if self.tied_in_a_v() && at_once == 1 {
            format!(
                "train.reproducible = {n} with tied embeddings and schedule = \"zbv\", whose first rank adds gradients of both ends as they come; use another schedule"
            )
        } else if at_once > 1 && self.mesh.sums_over_plane() {
            format!(
                "train.reproducible = {n} with weight groups of several replicas (parallel.weight.size = {} in isp): blocks are added up after every micro-batch, embedding and head once a step; use parallel.zero.stage = 3 instead, or 0",
                self.mesh.weight
            )
        } else if at_once > 1 && n != global {
            format!(
                "train.reproducible = {n} with gradients added up after every micro-batch (parallel.zero.stage = 2 or 3): one micro-batch is then a leaf; use {global}, the micro-batches of a step, or parallel.zero.stage = 1"
            )
        } else {
            return vec![];
        };
        vec![problem]
    }
}
