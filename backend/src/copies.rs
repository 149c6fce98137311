//! An operation on copies of its tensors, for whoever measures it: with enough of them, no cache holds what the next one
//! reads.
use crate::{Backend, Op, REGIONS, Region, Rotation, Sizes, View, upload_floats};

/// The tensors of an operation, packed into a memory of their own.
pub struct Copies {
    op: Op,
    /// What of the first memory is named, without gaps between views that overlap or touch.
    stretches: Vec<Stretch>,
    /// Of one copy.
    bytes: usize,
    /// How many there are.
    pub number: usize,
}

struct Stretch {
    region: Region,
    /// First byte and the one behind the last.
    from: usize,
    to: usize,
    /// Where it begins in a copy.
    at: usize,
}

/// What memory of devices is aligned to. A copy is aligned as the original.
const ALIGN: usize = 256;

impl Copies {
    /// As many as there have to be so that all of them together have so many bytes, and no more than 64 of them.
    pub fn new(op: Op, all: usize) -> Copies {
        let mut copies = Copies { op, stretches: vec![], bytes: 0, number: 1 };
        let mut views: Vec<View> = copies.views();
        views.sort_unstable_by_key(|view| (view.region, view.offset));
        for view in views {
            let (from, to) = (view.offset, view.offset + view.bytes());
            match copies.stretches.last_mut() {
                Some(last) if last.region == view.region && from <= last.to => last.to = last.to.max(to),
                _ => copies.stretches.push(Stretch { region: view.region, from, to, at: 0 }),
            }
        }
        for stretch in &mut copies.stretches {
            stretch.at = copies.bytes + stretch.from % ALIGN;
            copies.bytes = (stretch.at + stretch.to - stretch.from).next_multiple_of(ALIGN);
        }
        let moved: Vec<View> = copies.views().into_iter().map(|view| copies.place(0, view)).collect();
        let (reads, writes) = copies.op(0).views();
        assert_eq!([reads, writes].concat(), moved, "{op:?}: every tensor is moved");
        copies.number = all.div_ceil(copies.bytes.max(1)).clamp(1, 64);
        copies
    }

    /// Of one copy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of a device that holds them.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = [0; REGIONS.len()];
        sizes[Region::Act as usize] = self.bytes * self.number;
        sizes
    }

    /// Every tensor of the operation, where it was.
    pub fn views(&self) -> Vec<View> {
        let (reads, writes) = self.op.views();
        reads.into_iter().chain(writes).collect()
    }

    /// Where a tensor is in a copy.
    pub fn place(&self, copy: usize, view: View) -> View {
        let holds = |s: &&Stretch| s.region == view.region && (s.from..=s.to).contains(&view.offset);
        let stretch = self.stretches.iter().rev().find(holds).expect("a tensor of the operation");
        let offset = copy * self.bytes + stretch.at + view.offset - stretch.from;
        View { region: Region::Act, offset, ..view }
    }

    /// The operation on a copy; behind the last comes the first.
    pub fn op(&self, copy: usize) -> Op {
        let copy = copy % self.number;
        self.op.moved(&|view| self.place(copy, view))
    }
}

/// Numbers of about unit variance, the same ones again after a million.
pub fn draw(dev: &mut dyn Backend, view: View) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let mut one = || (uniform() + uniform() + uniform() - 1.5) * 2.0;
    let numbers: Vec<f32> = (0..view.len.min(1 << 20)).map(|_| one()).collect();
    let mut done = 0;
    while done < view.len {
        let len = (view.len - done).min(numbers.len());
        let piece = View { offset: view.offset + done * view.dtype.bytes(), len, ..view };
        upload_floats(dev, &numbers[..len], piece);
        done += len;
    }
}

/// A tensor that is somewhere else, or a pair of them, or none.
trait Move {
    fn to(&mut self, place: &dyn Fn(View) -> View);
}
impl Move for View {
    fn to(&mut self, place: &dyn Fn(View) -> View) {
        *self = place(*self);
    }
}
impl Move for Rotation {
    fn to(&mut self, place: &dyn Fn(View) -> View) {
        self.positions.to(place);
        self.table.to(place);
    }
}
impl<M: Move> Move for Option<M> {
    fn to(&mut self, place: &dyn Fn(View) -> View) {
        self.iter_mut().for_each(|tensor| tensor.to(place));
    }
}

impl Op {
    /// The same on tensors that are elsewhere.
    fn moved(self, place: &dyn Fn(View) -> View) -> Op {
        let mut op = self;
        macro_rules! tensors {
            ($($name:ident: $($tensor:ident)*;)*) => {
                match &mut op { $(Op::$name { $($tensor,)* .. } => { $($tensor.to(place);)* })* }
            };
        }
        tensors! {
            Fill: y; Copy: x y; Add: x y; TakeRows: rows x y;
            Embedding: ids w y; EmbeddingBackward: ids dy dw;
            Linear: x w add y; LinearBackwardInput: dy w dx; LinearBackwardWeight: dy x dw;
            AddBias: b y; BiasBackward: dy db;
            RmsNorm: x w y rstd; RmsNormBackward: x w rstd dy dx dw;
            LayerNorm: x w b y stats; LayerNormBackward: x w stats dy dx dw db;
            HeadNorm: x w y rstd; HeadNormBackward: x w rstd dqkv dw;
            UnitRows: w y norms; UnitRowsBackward: y norms dy dw;
            Attention: qkv cu_seqlens rotation o lse;
            AttentionBackward: qkv cu_seqlens rotation o lse d_o dqkv;
            AttentionCached: qkv span rotation cache o;
            SplitHeads: x y; JoinHeads: x y;
            Gated: h s; GatedBackward: h ds; Activation: h s; ActivationBackward: h ds;
            CountLabels: labels count;
            CrossEntropy: labels types count scale logits stats;
            CrossEntropyLoss: labels types logits stats;
            LogitParts: labels logits parts; LossOfParts: labels types parts stats;
            LogitGradient: labels count scale parts logits;
            SoftCap: z; SumSquares: x sums; GradNorm: sums count scale norm; LossScale: norm scale;
            AdamW: g norm hyper p m v copy;
        }
        op
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn copies_lie_apart_and_are_aligned_as_the_original() {
        let view = |region, dtype, offset, len| View { region, dtype, offset, len };
        let x = view(Region::Param, DType::BF16, 1032, 50);
        // Within x, and somewhere else.
        let part = view(Region::Param, DType::BF16, 1040, 10);
        let y = view(Region::Grad, DType::F32, 8, 100);
        let copies = Copies::new(Op::RmsNorm { x, w: part, y, rstd: y, eps: 0.0, offset: 0.0 }, 5000);
        assert_eq!(copies.number, 5000_usize.div_ceil(copies.bytes()));
        let mut taken: Vec<(usize, usize)> = vec![];
        for copy in 0..copies.number {
            let [x1, part1, y1] = [x, part, y].map(|view| copies.place(copy, view));
            assert_eq!(part1.offset - x1.offset, part.offset - x.offset);
            assert_eq!([x1.offset % 256, y1.offset % 256], [x.offset % 256, y.offset % 256]);
            assert_eq!([x1.len, part1.len, y1.len], [50, 10, 100]);
            taken.extend([x1, y1].map(|view| (view.offset, view.offset + view.bytes())));
            let Op::RmsNorm { x: x2, rstd, .. } = copies.op(copy) else { unreachable!() };
            assert_eq!((x2, rstd), (x1, y1));
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{taken:?}");
        assert!(taken.last().unwrap().1 <= copies.sizes()[Region::Act as usize]);
        assert_eq!(copies.op(copies.number), copies.op(0));
    }
}
