//! A computation as cuDNN is told it: tensors and operations on them, as data.
//!
//! cuDNN does not run these operations one by one. It recognises the whole graph and answers with one fused engine, so
//! the graph says what is computed, and a virtual tensor is never in memory. Nothing here needs the library; `plan`
//! turns a graph into descriptors.
use super::Role;
use cudarc::cudnn::sys::{cudnnPointwiseMode_t as Pointwise, cudnnReduceTensorOp_t as Reduce};

/// The type of a tensor's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    F32,
    BF16,
    F16,
    I32,
    I64,
    Bool,
}
impl Type {
    pub fn bytes(self) -> usize {
        match self {
            Type::I64 => 8,
            Type::F32 | Type::I32 => 4,
            Type::BF16 | Type::F16 => 2,
            Type::Bool => 1,
        }
    }
}

/// A tensor, by its number in the graph.
pub type Id = usize;

/// Where a tensor's numbers are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Place {
    /// Nowhere: a name for what one operation hands to the next.
    Virtual,
    /// Memory that the caller names.
    Given(Role),
    /// So many bytes of the workspace, which hold nothing between two executions.
    Scratch(usize),
    /// One number, on the host.
    Constant(f32),
}

/// [batch, head, row, column], with the strides in elements.
pub type Axes = [i64; 4];

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tensor {
    pub dtype: Type,
    pub dims: Axes,
    pub strides: Axes,
    pub place: Place,
    /// Where each member of the batch begins, in elements: (batch + 1) i64. The stride of the batch is not used then.
    pub offsets: Option<Id>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operation {
    /// y = mode(x, b), or mode(x, b) where t and x elsewhere.
    Pointwise { mode: Pointwise, axis: Option<i64>, math: Type, x: Id, b: Option<Id>, t: Option<Id>, y: Id },
    /// c = a b. Of each member of the batch only so many rows of a, columns of b and terms of a sum are there.
    Matmul { a: Id, b: Id, c: Id, rows: Option<Id>, columns: Option<Id>, terms: Option<Id> },
    /// y = x reduced along the axes where y is shorter.
    Reduction { by: Reduce, x: Id, y: Id },
    /// y = x, read with other strides.
    Reshape { x: Id, y: Id },
}
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    pub tensors: Vec<Tensor>,
    /// In an order in which they could be done.
    pub operations: Vec<Operation>,
}

impl Graph {
    pub fn tensor(&mut self, tensor: Tensor) -> Id {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }
    pub fn constant(&mut self, value: f32) -> Id {
        let place = Place::Constant(value);
        self.tensor(Tensor { dtype: Type::F32, dims: [1; 4], strides: [1; 4], place, offsets: None })
    }
    /// A tensor that is never in memory, of rows of a batch of heads, one behind the other.
    pub fn virtual_like(&mut self, dtype: Type, dims: Axes) -> Id {
        self.tensor(Tensor { dtype, dims, strides: contiguous(dims), place: Place::Virtual, offsets: None })
    }

    /// mode(x, b) as a new virtual tensor of x's shape, in f32.
    pub fn pointwise(&mut self, mode: Pointwise, x: Id, b: Option<Id>) -> Id {
        let y = self.virtual_like(Type::F32, self.tensors[x].dims);
        self.pointwise_into(mode, x, b, y);
        y
    }
    pub fn pointwise_into(&mut self, mode: Pointwise, x: Id, b: Option<Id>, y: Id) {
        self.operations.push(Operation::Pointwise { mode, axis: None, math: Type::F32, x, b, t: None, y });
    }
    /// The number of each element along an axis, as i32.
    pub fn index(&mut self, of: Id, axis: i64, math: Type) -> Id {
        let y = self.virtual_like(Type::I32, self.tensors[of].dims);
        let mode = Pointwise::CUDNN_POINTWISE_GEN_INDEX;
        self.operations.push(Operation::Pointwise { mode, axis: Some(axis), math, x: of, b: None, t: None, y });
        y
    }
    /// A comparison or a logical operation, as a new virtual tensor of x's shape.
    pub fn truth(&mut self, mode: Pointwise, x: Id, b: Id) -> Id {
        let y = self.virtual_like(Type::Bool, self.tensors[x].dims);
        self.operations.push(Operation::Pointwise { mode, axis: None, math: Type::Bool, x, b: Some(b), t: None, y });
        y
    }
    /// x where `keep`, `instead` elsewhere.
    pub fn select(&mut self, x: Id, instead: Id, keep: Id) -> Id {
        let y = self.virtual_like(Type::F32, self.tensors[x].dims);
        let (mode, math) = (Pointwise::CUDNN_POINTWISE_BINARY_SELECT, Type::F32);
        self.operations.push(Operation::Pointwise { mode, axis: None, math, x, b: Some(instead), t: Some(keep), y });
        y
    }
    /// One number for each row.
    pub fn reduce_rows(&mut self, by: Reduce, x: Id) -> Id {
        let [batch, heads, rows, _] = self.tensors[x].dims;
        let y = self.virtual_like(Type::F32, [batch, heads, rows, 1]);
        self.operations.push(Operation::Reduction { by, x, y });
        y
    }
    pub fn sum_into(&mut self, x: Id, y: Id) {
        self.operations.push(Operation::Reduction { by: Reduce::CUDNN_REDUCE_TENSOR_ADD, x, y });
    }
    /// xᵀ of each head, as a new virtual tensor.
    pub fn transposed(&mut self, x: Id, dtype: Type) -> Id {
        let mut y = Tensor { dtype, place: Place::Virtual, ..self.tensors[x] };
        y.dims.swap(2, 3);
        y.strides.swap(2, 3);
        let y = self.tensor(y);
        self.operations.push(Operation::Reshape { x, y });
        y
    }

    /// Bytes of all scratch, each piece at a multiple of `ALIGNMENT`.
    pub fn scratch(&self) -> usize {
        let pieces = self.tensors.iter().map(|tensor| match tensor.place {
            Place::Scratch(bytes) => bytes.next_multiple_of(ALIGNMENT),
            _ => 0,
        });
        pieces.sum()
    }
}

/// Of every piece of a workspace.
pub const ALIGNMENT: usize = 256;

pub fn contiguous(dims: Axes) -> Axes {
    [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1]
}
