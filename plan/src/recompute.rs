//! Which activations are not kept but made again when the backward comes (Chen et al. 2016).
use crate::Plan;
use model::{Unit, UnitKind};
use serde::{Deserialize, Serialize};

/// `memory.recompute` of a run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Recompute {
    /// This part of the layers of each stage, the first ones: only a layer's input is kept. 0: everything is kept.
    Layers(f64),
    /// By name.
    Named(Selective),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selective {
    /// What attention saves, in every layer; the MLP is kept (after Korthikanti et al. 2022).
    Selective,
}

impl Recompute {
    pub const NONE: Recompute = Recompute::Layers(0.0);

    pub fn problem(&self) -> Option<String> {
        match *self {
            Recompute::Layers(part) if !(0.0..=1.0).contains(&part) => {
                Some(format!("memory.recompute = {part}: must be a part of the layers from 0 to 1, or \"selective\""))
            }
            Recompute::Layers(_) | Recompute::Named(Selective::Selective) => None,
        }
    }
}

/// What is made again before a unit's backward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    Nothing,
    /// What the unit saved.
    Saved,
    /// That, and its output, which was not kept either.
    SavedAndOutput,
}

impl Plan {
    pub fn again(&self, u: Unit) -> Again {
        let whole_layer = |layer| match self.recompute {
            Recompute::Layers(part) => {
                let layers = self.layers(self.stage_of(u));
                ((layer - layers.start) as f64) < part * layers.len() as f64
            }
            Recompute::Named(Selective::Selective) => false,
        };
        match self.model.kind(u) {
            UnitKind::Attention { layer } if whole_layer(layer) => Again::SavedAndOutput,
            UnitKind::Attention { .. } if self.recompute == Recompute::Named(Selective::Selective) => Again::Saved,
            UnitKind::Mlp { layer } if whole_layer(layer) => Again::Saved,
            UnitKind::Embedding | UnitKind::Attention { .. } | UnitKind::Mlp { .. } | UnitKind::Head => Again::Nothing,
        }
    }
}
