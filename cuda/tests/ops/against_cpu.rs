//! Every example of every operation on a card and on the CPU.
use crate::device::{Device, error};
use crate::examples::{Example, Tensor, examples};
use backend::DType;

/// Examples, floats in the types of `types` by turns: the card's results beside those of the CPU in f64 on the same
/// numbers.
pub fn compare(all: impl IntoIterator<Item = Example>, types: &[DType], limit: f64) {
    let (mut card, mut cpu) = (Device::new(types[0], 1), Device::on_cpu(DType::F64));
    let mut off: Vec<String> = vec![];
    for example in all {
        let floats: Vec<DType> = (0..example.tensors.len()).map(|i| types[i % types.len()]).collect();
        let both = example.tensors.iter().zip(&floats);
        let tensors: Vec<Tensor> = both.map(|(tensor, float)| rounded(tensor, *float)).collect();
        let got = example.run_on(&mut card, &tensors, &floats);
        let want = example.run_on(&mut cpu, &tensors, &vec![DType::F64; floats.len()]);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = error(got, want);
            if error.is_nan() || error > limit {
                off.push(format!("{}, tensor {i} in {:?}: {error:e}", example.name, floats[i]));
            }
        }
    }
    assert!(off.is_empty(), "in {types:?} {} are off by more than {limit}:\n{}", off.len(), off.join("\n"));
}

/// A tensor whose numbers a type has.
fn rounded(tensor: &Tensor, float: DType) -> Tensor {
    let round = |x: f64| match float {
        DType::BF16 => half::bf16::from_f64(x).to_f64(),
        DType::F16 => half::f16::from_f64(x).to_f64(),
        DType::F32 | DType::F64 | DType::U32 => x,
    };
    match tensor {
        Tensor::Float(x) => Tensor::Float(x.iter().map(|x| round(*x)).collect()),
        Tensor::Double(x) => Tensor::Double(x.clone()),
        Tensor::Int(x) => Tensor::Int(x.clone()),
    }
}

fn of_shapes(shapes: &[(usize, usize)]) -> impl Iterator<Item = Example> {
    shapes.iter().flat_map(|(t, d)| examples(*t, *d))
}

/// Packs of all widths, and heads that tensor cores know. Of types whose kernels are those of others one is enough: each has to be
/// compiled.
const SHAPES: [(usize, usize); 3] = [(3, 12), (33, 24), (70, 96)];

#[test]
fn in_f32_all_are_within_1e_5() {
    compare(of_shapes(&SHAPES), &[DType::F32], 1e-5);
}

#[test]
fn in_f64_all_are_within_1e_12() {
    compare(of_shapes(&SHAPES[1..2]), &[DType::F64], 1e-12);
}

#[test]
fn in_bf16_all_are_within_2e_2() {
    compare(of_shapes(&SHAPES), &[DType::BF16], 2e-2);
}

#[test]
fn in_f16_all_are_within_3e_3() {
    compare(of_shapes(&SHAPES[2..]), &[DType::F16], 3e-3);
}

/// As a step has it: activations in bf16 beside weights, gradients and statistics in f32.
#[test]
fn types_may_be_mixed() {
    compare(of_shapes(&SHAPES[1..2]), &[DType::BF16, DType::F32], 2e-2);
    compare(of_shapes(&SHAPES[1..2]), &[DType::F32, DType::BF16, DType::F32], 2e-2);
}

/// The same operation on the same tensors leaves the same bits.
#[test]
fn runs_have_the_same_bits() {
    let mut dev = Device::new(DType::BF16, 1);
    for example in examples(70, 96) {
        let [first, again] = [(); 2].map(|()| example.run(&mut dev));
        let bits = |all: Vec<Vec<f64>>| all.into_iter().flatten().map(f64::to_bits).collect::<Vec<u64>>();
        assert_eq!(bits(first), bits(again), "{}", example.name);
    }
}
