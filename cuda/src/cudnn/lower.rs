//! A graph becomes descriptors.
use super::descriptor::{Descriptor, Raw};
use super::graph::{Graph, Operation, Place, Tensor, Type};
use cudarc::cudnn::sys::{self, cudnnDataType_t as DataType};
use cudarc::cudnn::sys::{cudnnBackendAttributeName_t::*, cudnnBackendDescriptorType_t::*};

/// The graph, for a card that is there or for none. cuDNN counts references: tensors and operations need not be kept.
pub(super) fn operations(handle: Option<sys::cudnnHandle_t>, graph: &Graph) -> Result<Descriptor, String> {
    let mut tensors: Vec<Descriptor> = vec![];
    for tensor in &graph.tensors {
        let offsets = tensor.offsets.map(|id| tensors[id].raw());
        tensors.push(descriptor(tensor, tensors.len() as i64 + 1, offsets)?);
    }
    let operations = graph.operations.iter().map(|one| operation(one, &tensors)).collect::<Result<Vec<_>, _>>()?;
    let mut graph = Descriptor::new(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    if let Some(handle) = handle {
        graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
    }
    let raws: Vec<Raw> = operations.iter().map(Descriptor::raw).collect();
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, &raws)?;
    graph.finalised()
}

fn descriptor(tensor: &Tensor, name: i64, offsets: Option<Raw>) -> Result<Descriptor, String> {
    let mut d = Descriptor::new(CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, &[name])?;
    d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, &[data_type(tensor.dtype)])?;
    d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16i64])?;
    d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, &tensor.dims)?;
    d.set(CUDNN_ATTR_TENSOR_STRIDES, &tensor.strides)?;
    match tensor.place {
        Place::Virtual => d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[true])?,
        Place::Constant(_) => d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, &[true])?,
        Place::Given(_) | Place::Scratch(_) => {}
    }
    if let Some(offsets) = offsets {
        d.set(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, &[offsets])?;
    }
    d.finalised()
}

fn operation(operation: &Operation, tensors: &[Descriptor]) -> Result<Descriptor, String> {
    let of = |id: usize| [tensors[id].raw()];
    match *operation {
        Operation::Pointwise { mode, axis, math, x, b, t, y } => {
            let mut how = Descriptor::new(CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
            how.set(CUDNN_ATTR_POINTWISE_MODE, &[mode])?;
            how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, &[data_type(math)])?;
            if let Some(axis) = axis {
                how.set(CUDNN_ATTR_POINTWISE_AXIS, &[axis])?;
            }
            let how = how.finalised()?;
            let mut d = Descriptor::new(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
            d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[how.raw()])?;
            d.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &of(x))?;
            if let Some(b) = b {
                d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &of(b))?;
            }
            if let Some(t) = t {
                d.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, &of(t))?;
            }
            d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &of(y))?;
            d.finalised()
        }
        Operation::Matmul { a, b, c, rows, columns, terms } => {
            let mut how = Descriptor::new(CUDNN_BACKEND_MATMUL_DESCRIPTOR)?;
            how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, &[DataType::CUDNN_DATA_FLOAT])?;
            let how = how.finalised()?;
            let mut d = Descriptor::new(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)?;
            d.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, &[how.raw()])?;
            d.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, &of(a))?;
            d.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, &of(b))?;
            d.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, &of(c))?;
            let limits = [
                (CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, rows),
                (CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, columns),
                (CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, terms),
            ];
            for (name, limit) in limits {
                if let Some(limit) = limit {
                    d.set(name, &of(limit))?;
                }
            }
            d.finalised()
        }
        Operation::Reduction { by, x, y } => {
            let mut how = Descriptor::new(CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?;
            how.set(CUDNN_ATTR_REDUCTION_OPERATOR, &[by])?;
            how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, &[DataType::CUDNN_DATA_FLOAT])?;
            let how = how.finalised()?;
            let mut d = Descriptor::new(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)?;
            d.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, &[how.raw()])?;
            d.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, &of(x))?;
            d.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, &of(y))?;
            d.finalised()
        }
        Operation::Reshape { x, y } => {
            let mut d = Descriptor::new(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR)?;
            d.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, &of(x))?;
            d.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, &of(y))?;
            d.finalised()
        }
    }
}

fn data_type(of: Type) -> DataType {
    match of {
        Type::F32 => DataType::CUDNN_DATA_FLOAT,
        Type::BF16 => DataType::CUDNN_DATA_BFLOAT16,
        Type::F16 => DataType::CUDNN_DATA_HALF,
        Type::I32 => DataType::CUDNN_DATA_INT32,
        Type::I64 => DataType::CUDNN_DATA_INT64,
        Type::Bool => DataType::CUDNN_DATA_BOOLEAN,
    }
}
