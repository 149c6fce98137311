//! The graphs mean attention: evaluated number by number on the host, they give what the CPU's operation gives.
//!
//! The evaluation knows what cuDNN's documentation says about tensors with offsets and nothing of attention. What is not
//! there of a segment is NaN, so a mask or a limit that is missing does not go unseen.
use super::backward::{Sum, backward};
use super::forward::forward;
use super::graph::*;
use super::{Role, Shape};
use backend::{Backend, Cpu, DType, Heads, Op, Region, Scores, View, download, upload};
use cudarc::cudnn::sys::{cudnnPointwiseMode_t as Mode, cudnnReduceTensorOp_t as Reduce};
use std::collections::HashMap;

impl Operation {
    fn reads(&self) -> Vec<Id> {
        match *self {
            Operation::Pointwise { x, b, t, .. } => [Some(x), b, t].into_iter().flatten().collect(),
            Operation::Matmul { a, b, rows, columns, terms, .. } => {
                [Some(a), Some(b), rows, columns, terms].into_iter().flatten().collect()
            }
            Operation::Reduction { x, .. } | Operation::Reshape { x, .. } => vec![x],
        }
    }
    fn writes(&self) -> Id {
        match *self {
            Operation::Pointwise { y, .. } | Operation::Reduction { y, .. } | Operation::Reshape { y, .. } => y,
            Operation::Matmul { c, .. } => c,
        }
    }
}

type Memory = HashMap<Role, Vec<f64>>;

/// All numbers of a tensor, contiguous.
struct Dense {
    dims: Axes,
    numbers: Vec<f64>,
}
impl Dense {
    /// A dimension of one is every index of a longer one, and each of N heads reads that of its group.
    fn at(&self, index: Axes, of: Axes) -> f64 {
        let [b, h, i, j] = std::array::from_fn(|axis| index[axis] * self.dims[axis] / of[axis]);
        let [_, heads, rows, columns] = self.dims;
        self.numbers[(((b * heads + h) * rows + i) * columns + j) as usize]
    }
}

fn indices(dims: Axes) -> impl Iterator<Item = Axes> {
    let [batch, heads, rows, columns] = dims;
    (0..batch * heads * rows * columns)
        .map(move |n| [n / (columns * rows * heads), n / (columns * rows) % heads, n / columns % rows, n % columns])
}

/// Where in its buffer a number is, if its token is there.
fn address(graph: &Graph, memory: &Memory, tensor: &Tensor, index: Axes, shape: &Shape) -> Option<usize> {
    let Some(offsets) = tensor.offsets else { return Some(index[0] as usize) };
    let Place::Given(offsets) = graph.tensors[offsets].place else { panic!("offsets are given") };
    let tokens = (2..4).find(|&axis| tensor.dims[axis] == shape.longest as i64).expect("an axis of tokens");
    let within = (1..4).map(|axis| index[axis] * tensor.strides[axis]).sum::<i64>();
    let there = (index[tokens] as f64) < memory[&Role::Lengths][index[0] as usize];
    there.then(|| memory[&offsets][index[0] as usize] as usize + within as usize)
}

fn evaluate(graph: &Graph, memory: &mut Memory, shape: &Shape) {
    let mut values: Vec<Option<Dense>> = graph.tensors.iter().map(|_| None).collect();
    for (id, tensor) in graph.tensors.iter().enumerate() {
        let numbers: Vec<f64> = match tensor.place {
            Place::Constant(value) => vec![value as f64],
            Place::Given(role) => {
                let read =
                    |index| address(graph, memory, tensor, index, shape).map_or(f64::NAN, |at| memory[&role][at]);
                indices(tensor.dims).map(read).collect()
            }
            Place::Virtual | Place::Scratch(_) => continue,
        };
        values[id] = Some(Dense { dims: tensor.dims, numbers });
    }
    for operation in &graph.operations {
        let value = |id: Id| values[id].as_ref().expect("a tensor is written before it is read");
        let y = operation.writes();
        let dims = graph.tensors[y].dims;
        let limit = |lengths: Option<Id>, b: i64, all: i64| match lengths {
            Some(id) => value(id).numbers[b as usize] as i64,
            None => all,
        };
        let numbers: Vec<f64> = match *operation {
            Operation::Pointwise { mode, axis, x, b, t, .. } => {
                let pointwise = |index: Axes| {
                    let of = |id: Option<Id>| value(id.expect("an operand")).at(index, dims);
                    let (x, truth) = (of(Some(x)), |truth| if truth { 1. } else { 0. });
                    match mode {
                        Mode::CUDNN_POINTWISE_GEN_INDEX => index[axis.expect("an axis") as usize] as f64,
                        Mode::CUDNN_POINTWISE_BINARY_SELECT => {
                            if of(t) == 1. {
                                x
                            } else {
                                of(b)
                            }
                        }
                        Mode::CUDNN_POINTWISE_LOGICAL_AND => truth(x == 1. && of(b) == 1.),
                        Mode::CUDNN_POINTWISE_CMP_LT => truth(x < of(b)),
                        Mode::CUDNN_POINTWISE_CMP_GE => truth(x >= of(b)),
                        Mode::CUDNN_POINTWISE_CMP_GT => truth(x > of(b)),
                        Mode::CUDNN_POINTWISE_IDENTITY => x,
                        Mode::CUDNN_POINTWISE_EXP => x.exp(),
                        Mode::CUDNN_POINTWISE_LOG => x.ln(),
                        Mode::CUDNN_POINTWISE_ADD => x + of(b),
                        Mode::CUDNN_POINTWISE_SUB => x - of(b),
                        Mode::CUDNN_POINTWISE_MUL => x * of(b),
                        Mode::CUDNN_POINTWISE_DIV => x / of(b),
                        other => panic!("{other:?} is in no graph"),
                    }
                };
                indices(dims).map(pointwise).collect()
            }
            Operation::Matmul { a, b, rows, columns, terms, .. } => {
                let (a, b) = (value(a), value(b));
                let product = |[n, h, i, j]: Axes| {
                    if i >= limit(rows, n, dims[2]) || j >= limit(columns, n, dims[3]) {
                        return f64::NAN;
                    }
                    let all = a.dims[3];
                    let term = |k| {
                        let b = b.at([n, h, k, j], [dims[0], dims[1], all, dims[3]]);
                        a.at([n, h, i, k], [dims[0], dims[1], dims[2], all]) * b
                    };
                    (0..limit(terms, n, all)).map(term).sum()
                };
                indices(dims).map(product).collect()
            }
            Operation::Reduction { by, x, .. } => {
                let x = value(x);
                let count = dims.iter().product::<i64>();
                let first = if by == Reduce::CUDNN_REDUCE_TENSOR_MAX { f64::NEG_INFINITY } else { 0. };
                let mut sums = vec![first; count as usize];
                let places = Dense { dims, numbers: (0..count).map(|n| n as f64).collect() };
                for index in indices(x.dims) {
                    let (sum, x) = (&mut sums[places.at(index, x.dims) as usize], x.at(index, x.dims));
                    *sum = match by {
                        Reduce::CUDNN_REDUCE_TENSOR_MAX => sum.max(x),
                        _ => *sum + x,
                    };
                }
                sums
            }
            Operation::Reshape { x, .. } => {
                let x = value(x);
                indices(dims).map(|[n, h, i, j]| x.at([n, h, j, i], [dims[0], dims[1], dims[3], dims[2]])).collect()
            }
        };
        if let Place::Given(role) = graph.tensors[y].place {
            for (index, &number) in indices(dims).zip(&numbers) {
                if let Some(at) = address(graph, memory, &graph.tensors[y], index, shape) {
                    memory.get_mut(&role).expect("a buffer of every role")[at] = number;
                }
            }
        }
        values[y] = Some(Dense { dims, numbers });
    }
}

/// Numbers of both signs that have no pattern.
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|n| (((n + seed) * 7919 + 13) % 1009) as f64 / 504. - 1.).collect()
}

/// o, lse as (N, T) and dqkv as the CPU computes them.
fn reference(shape: &Shape, cu_seqlens: &[u32], qkv: &[f64], d_o: &[f64]) -> [Vec<f64>; 3] {
    let (t, heads) = (shape.tokens, shape.heads);
    let mut sizes = [0; 6];
    sizes[Region::Act as usize] = 1 << 20;
    let dev = &mut Cpu::new(sizes, 1);
    let floats = View { region: Region::Act, dtype: DType::F64, offset: 0, len: 1 << 16 };
    let lens = [t * heads.qkv(), t * heads.out(), t * heads.n, t * heads.out(), t * heads.qkv()];
    let [qkv_view, o, lse, d_o_view, dqkv] = floats.split(lens);
    let cu = View { region: Region::Act, dtype: DType::U32, offset: floats.bytes(), len: cu_seqlens.len() };
    upload(dev, qkv, qkv_view);
    upload(dev, d_o, d_o_view);
    upload(dev, cu_seqlens, cu);
    let scores = Scores { scale: f64::from_bits(shape.scale_bits), cap: None, window: shape.window, alibi: None };
    let (qkv, cu_seqlens, rotation, d_o) = (qkv_view, cu, None, d_o_view);
    dev.run(Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores });
    dev.run(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores });
    [o, lse, dqkv].map(|view| download(dev, view))
}

#[track_caller]
fn assert_close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 1e-9, "{what}[{at}] is {got}, and the CPU has {want}");
    }
}

fn compare(heads: Heads, cu_seqlens: &[u32], window: Option<usize>, sum: Sum) {
    let tokens = *cu_seqlens.last().expect("an end") as usize;
    let segments = cu_seqlens.len() - 1;
    let scale_bits = 0.25f64.to_bits();
    let dtype = DType::BF16;
    let shape = Shape { heads, tokens, segments, longest: 11, dtype, scale_bits, window, deterministic: false };
    let (qkv, d_o) = (numbers(tokens * heads.qkv(), 1), numbers(tokens * heads.out(), 5));
    let [o, lse, dqkv] = reference(&shape, cu_seqlens, &qkv, &d_o);

    let (width, kv) = (heads.out(), heads.kv * heads.dim);
    let mut memory = Memory::from([
        (Role::Q, qkv.clone()),
        (Role::K, qkv[width..].to_vec()),
        (Role::V, qkv[width + kv..].to_vec()),
        (Role::DO, d_o),
        (Role::Lengths, cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect()),
    ]);
    for role in [Role::O, Role::DQ, Role::DK, Role::DV, Role::Lse] {
        memory.insert(role, vec![f64::NAN; tokens * shape.row(role)]);
    }
    for (role, factor) in shape.auxiliary() {
        memory.insert(role, cu_seqlens.iter().map(|&token| (token as usize * factor) as f64).collect());
    }

    evaluate(&forward(&shape), &mut memory, &shape);
    assert_close("o", &memory[&Role::O], &o);
    let tokens_first = &memory[&Role::Lse];
    let heads_first: Vec<f64> =
        (0..heads.n).flat_map(|h| (0..tokens).map(move |t| tokens_first[t * heads.n + h])).collect();
    assert_close("lse", &heads_first, &lse);

    evaluate(&backward(&shape, sum), &mut memory, &shape);
    let parts = [(Role::DQ, width), (Role::DK, kv), (Role::DV, kv)];
    let row = |t: usize| parts.into_iter().map(move |(role, row)| (role, t * row..(t + 1) * row));
    let joined: Vec<f64> = (0..tokens).flat_map(row).flat_map(|(role, row)| &memory[&role][row]).copied().collect();
    assert_close("dqkv", &joined, &dqkv);
}

#[test]
fn a_graph_gives_what_the_cpu_gives() {
    let (grouped, plain) = (Heads { n: 4, kv: 2, dim: 16 }, Heads { n: 2, kv: 2, dim: 16 });
    // One whole segment; several, of which one has a token and one the longest length; some that are not there.
    for cu_seqlens in [&[0, 11][..], &[0, 4, 5, 16], &[0, 7, 7, 9, 9, 9]] {
        for heads in [grouped, plain] {
            for window in [None, Some(3)] {
                compare(heads, cu_seqlens, window, Sum::Added);
            }
        }
        compare(grouped, cu_seqlens, None, Sum::Kept);
    }
}

#[test]
fn every_tensor_has_its_place() {
    let heads = Heads { n: 8, kv: 2, dim: 64 };
    let (dtype, scale_bits) = (DType::F16, 0.125f64.to_bits());
    let window = Some(100);
    let shape =
        Shape { heads, tokens: 512, segments: 3, longest: 512, dtype, scale_bits, window, deterministic: false };
    for graph in [forward(&shape), backward(&shape, Sum::Added), backward(&shape, Sum::Kept)] {
        let given = graph.tensors.iter().filter_map(|tensor| match tensor.place {
            Place::Given(role) => Some(role),
            _ => None,
        });
        let given: Vec<Role> = given.collect();
        assert!(given.iter().enumerate().all(|(n, role)| !given[..n].contains(role)), "given twice: {given:?}");
        for (id, tensor) in graph.tensors.iter().enumerate() {
            let writes = graph.operations.iter().filter(|one| one.writes() == id).count();
            let reads = graph.operations.iter().filter(|one| one.reads().contains(&id)).count();
            match tensor.place {
                Place::Virtual | Place::Scratch(_) => assert!(writes == 1 && reads > 0, "{tensor:?}"),
                Place::Constant(_) => assert!(writes == 0 && reads > 0, "{tensor:?}"),
                Place::Given(Role::DQ | Role::DK | Role::DV) => assert_eq!((writes, reads), (1, 0), "{tensor:?}"),
                Place::Given(Role::O | Role::Lse) => assert_eq!(writes + reads, 1, "{tensor:?}"),
                Place::Given(_) => assert_eq!(writes, 0, "{tensor:?}"),
            }
            // A row of a packed tensor is found by offsets that were made for rows as long as its own. In the workspace
            // they may be longer by a whole factor, with which cuDNN multiplies the offsets.
            let Some(Place::Given(offsets)) = tensor.offsets.map(|id| graph.tensors[id].place) else { continue };
            let row = tensor.strides[if tensor.dims[2] == 512 { 2 } else { 3 }] as usize;
            match tensor.place {
                Place::Scratch(bytes) => {
                    assert!(row.is_multiple_of(shape.row(offsets)), "{tensor:?} has the offsets {offsets:?}");
                    assert!(shape.tokens * row * tensor.dtype.bytes() <= bytes, "{tensor:?}");
                }
                _ => assert_eq!(row, shape.row(offsets), "{tensor:?} has the offsets {offsets:?}"),
            }
        }
    }
}
