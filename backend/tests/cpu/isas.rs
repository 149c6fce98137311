//! Bits do not depend on the instructions that a machine has, except those of products.
use crate::device::Device;
use crate::examples::{Example, examples};
use backend::{DType, Isa};

#[test]
fn every_operation_without_products() {
    let without = |e: &Example| !["linear", "attention"].iter().any(|products| e.name.starts_with(products));
    for (t, d) in [(1, 1), (33, 7), (67, 65), (100, 128)] {
        let mut all = examples(t, d);
        all.retain(without);
        for (float, stored) in [(DType::F32, DType::F32), (DType::F32, DType::BF16), (DType::F64, DType::F64)] {
            let run = |isa: Isa| {
                let dev = &mut Device::with_isa(float, 2, isa);
                let run = |e: &Example| e.run_on(dev, &e.tensors, &vec![stored; e.tensors.len()]);
                all.iter().map(run).collect::<Vec<_>>()
            };
            let best = run(Isa::best());
            for isa in Isa::all() {
                for ((example, a), b) in all.iter().zip(run(isa)).zip(&best) {
                    let bits = |x: &[Vec<f64>]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<u64>>();
                    assert!(bits(&a) == bits(b), "{} in {stored:?}: {isa:?}", example.name);
                }
            }
        }
    }
}
