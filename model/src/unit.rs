//! Units, phases, and the inputs of a micro-batch.
use crate::Decoder;
use backend::{DType, View};

/// Index of a unit: 0 is the embedding, then attention and MLP of each layer, then the head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unit(pub usize);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitKind {
    Embedding,
    Attention { layer: usize },
    Mlp { layer: usize },
    Head,
}

impl UnitKind {
    /// As schedules print it.
    pub fn name(self) -> String {
        match self {
            UnitKind::Embedding => "embed".into(),
            UnitKind::Attention { layer } => format!("attn.{layer}"),
            UnitKind::Mlp { layer } => format!("mlp.{layer}"),
            UnitKind::Head => "head".into(),
        }
    }
}

impl Decoder {
    pub fn unit_named(&self, name: &str) -> Option<Unit> {
        self.unit_range().find(|u| self.kind(*u).name() == name)
    }
}

/// What a forward is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// Keeps what backward needs.
    Train,
    /// The loss alone.
    Eval,
    /// A chunk of a prompt enters the cache; logits of its last token.
    Prefill,
    /// One token enters the cache; its logits.
    Decode,
}

impl Phase {
    /// Attends to a cache instead of packed segments.
    pub fn is_cached(self) -> bool {
        match self {
            Phase::Train | Phase::Eval => false,
            Phase::Prefill | Phase::Decode => true,
        }
    }
}

/// The u32 inputs of a micro-batch of T tokens, in one slab.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// (T)
    pub ids: View,
    /// (T), positions inside the segment.
    pub positions: View,
    /// (T), next token or `u32::MAX`. Packed phases only.
    pub labels: View,
    /// (T), the kind of data a token is of. Packed phases only.
    pub types: View,
    /// (T + 1), filled up with T. Packed phases only.
    pub cu_seqlens: View,
    /// (2), [start, n] of `Op::AttentionCached`. Cached phases only.
    pub span: View,
    /// (1), the row whose logits are wanted. Cached phases only.
    pub row: View,
}

impl Inputs {
    /// Elements of the slab.
    pub fn slab(t: usize, phase: Phase) -> usize {
        if phase.is_cached() { 2 * t + 3 } else { 5 * t + 1 }
    }

    pub fn of(slab: View, t: usize, phase: Phase) -> Inputs {
        assert_eq!((slab.dtype, slab.len), (DType::U32, Inputs::slab(t, phase)));
        let nothing = slab.sub(0, 0);
        if phase.is_cached() {
            let [ids, positions, span, row] = slab.split([t, t, 2, 1]);
            Inputs { ids, positions, span, row, labels: nothing, types: nothing, cu_seqlens: nothing }
        } else {
            let [ids, positions, labels, types, cu_seqlens] = slab.split([t, t, t, t, t + 1]);
            Inputs { ids, positions, labels, types, cu_seqlens, span: nothing, row: nothing }
        }
    }

    /// How many segments a packed slab has, rounded up to 1, 8, 64, ... or T.
    pub fn segments(slab: &[u32], t: usize) -> usize {
        let cu_seqlens = &slab[slab.len() - t - 1..];
        let some = cu_seqlens[1..].iter().position(|end| *end == t as u32).map_or(t, |last| last + 1);
        std::iter::successors(Some(1), |n| Some(n * 8)).find(|n| *n >= some).expect("the numbers grow").min(t)
    }

    /// With a bound on the segments, which the length of `cu_seqlens` tells: who starts work for each of them starts less.
    pub fn bounded(self, segments: usize) -> Inputs {
        Inputs { cu_seqlens: self.cu_seqlens.sub(0, segments + 1), ..self }
    }

    /// The slab of a packed micro-batch.
    pub fn packed(ids: &[u32], positions: &[u32], labels: &[u32], cu_seqlens: &[u32], types: &[u32]) -> Vec<u32> {
        let t = ids.len();
        assert!(positions.len() == t && labels.len() == t && types.len() == t && cu_seqlens.len() <= t + 1);
        let fill = std::iter::repeat_n(t as u32, t + 1 - cu_seqlens.len());
        [ids, positions, labels, types, cu_seqlens].concat().into_iter().chain(fill).collect()
    }

    /// The slab of tokens that enter the cache at `start`; `t` is the size the program was made for.
    pub fn cached(ids: &[u32], start: usize, t: usize) -> Vec<u32> {
        let n = ids.len();
        assert!(0 < n && n <= t);
        let padded = ids.iter().copied().chain(std::iter::repeat_n(0, t - n));
        // Rows beyond n are computed for nothing; a position inside the table is all they need.
        let positions = (0..t).map(|i| (start + i.min(n - 1)) as u32);
        padded.chain(positions).chain([start as u32, n as u32, n as u32 - 1]).collect()
    }
}
