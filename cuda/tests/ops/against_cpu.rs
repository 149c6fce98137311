//! Every example of every operation on a card and on the CPU.
use crate::device::{Device, error};
use crate::examples::{Tensor, examples};
use backend::DType;

/// All examples, floats in the types of `types` by turns: the card's results beside those of the CPU in f64 on the same
/// numbers, or of the CPU on the same types.
fn compare(shapes: &[(usize, usize)], types: &[DType], limit: f64) {
    let (mut card, mut cpu) =
        (card(types[0]), Device::on(Box::new(Cpu::new(sizes(), 2)) as Box<dyn Backend>, DType::F64));
    let mut worst: Vec<String> = vec![];
    for (t, d) in shapes {
        for example in examples(*t, *d) {
            let floats: Vec<DType> = (0..example.tensors.len()).map(|i| types[i % types.len()]).collect();
            let rounded: Vec<Tensor> =
                example.tensors.iter().zip(&floats).map(|(tensor, float)| round(tensor, *float)).collect();
            let wide = vec![DType::F64; floats.len()];
            let got = example.run_on(&mut card, &rounded, &floats);
            let want = example.run_on(&mut cpu, &rounded, &wide);
            let off = got.iter().zip(&want).map(|(got, want)| error(got, want)).fold(0.0, f64::max);
            if off.is_nan() || off > limit {
                worst.push(format!("{} in {types:?}: {off:e}", example.name));
            }
        }
    }
    assert!(worst.is_empty(), "{} are off by more than {limit}:\n{}", worst.len(), worst.join("\n"));
}

/// A tensor whose numbers a type has.
fn round(tensor: &Tensor, float: DType) -> Tensor {
    match tensor {
        Tensor::Float(x) => Tensor::Float(x.iter().map(|x| rounded(*x, float)).collect()),
        Tensor::Double(x) => Tensor::Double(x.clone()),
        Tensor::Int(x) => Tensor::Int(x.clone()),
    }
}

fn rounded(x: f64, float: DType) -> f64 {
    match float {
        DType::BF16 => half::bf16::from_f64(x).to_f64(),
        DType::F16 => half::f16::from_f64(x).to_f64(),
        _ => x,
    }
}

const SHAPES: [(usize, usize); 3] = [(3, 12), (33, 24), (70, 96)];

#[test]
fn in_f32_all_are_within_1e_5() {
    compare(&SHAPES, &[DType::F32], 1e-5);
}

#[test]
fn in_f64_all_are_within_1e_12() {
    compare(&SHAPES, &[DType::F64], 1e-12);
}

#[test]
fn in_bf16_all_are_within_2e_2() {
    compare(&SHAPES, &[DType::BF16], 2e-2);
}

#[test]
fn in_f16_all_are_within_3e_3() {
    compare(&SHAPES, &[DType::F16], 3e-3);
}

/// As a step has it: activations in bf16 beside weights, gradients and statistics in f32.
#[test]
fn types_may_be_mixed() {
    compare(&SHAPES[1..2], &[DType::BF16, DType::F32], 2e-2);
    compare(&SHAPES[1..2], &[DType::F32, DType::BF16, DType::F32], 2e-2);
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
