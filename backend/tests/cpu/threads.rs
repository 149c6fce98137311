//! Bits depend on shapes and inputs: not on the number of threads, not on the run, not on where memory lies.
use crate::device::{Device, draw};
use crate::examples::{Example, examples};
use backend::DType;

/// The outputs are the same bits on every device; `outputs` gives them with their names.
fn same_bits(outputs: impl Fn(&mut Device) -> Vec<(String, Vec<f64>)>) {
    let run = |threads, base| {
        let mut dev = Device::new(DType::F32, threads);
        dev.base = base;
        outputs(&mut dev)
    };
    let expected = run(1, 0);
    for (threads, base) in [(1, 0), (1, 8), (2, 0), (2, 24), (3, 0), (3, 40), (7, 16)] {
        for ((name, a), (_, b)) in run(threads, base).iter().zip(&expected) {
            // Not `assert_eq!`: nobody reads thousands of numbers.
            let same = a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
            assert!(same, "{name}: {threads} threads, memory from {base} on");
        }
    }
}

#[test]
fn every_operation() {
    for (t, d) in [(1, 1), (33, 7), (100, 65), (257, 128)] {
        let all = examples(t, d);
        same_bits(|dev| {
            let tensors =
                |example: &Example| example.run(dev).into_iter().map(|x| (example.name.clone(), x)).collect::<Vec<_>>();
            all.iter().flat_map(tensors).collect()
        });
    }
}

/// Conversions are cut into tiles too.
#[test]
fn stored_in_sixteen_bits() {
    for narrow in [DType::BF16, DType::F16] {
        let all = examples(257, 128);
        same_bits(|dev| {
            let run = |example: &Example| {
                let tensors = example.run_on(dev, &example.tensors, &vec![narrow; example.tensors.len()]);
                tensors.into_iter().map(|x| (example.name.clone(), x)).collect::<Vec<_>>()
            };
            all.iter().flat_map(run).collect()
        });
    }
}

#[test]
fn large_products() {
    let odd = [[1, 7, 5], [1, 300, 700], [65, 129, 300], [600, 33, 257], [2, 1, 1], [1030, 64, 96], [129, 2, 513]];
    for dims in odd {
        let [t, d, f] = dims;
        same_bits(|dev| {
            let (x, w, dy) = (draw(1, t * d), draw(2, f * d), draw(3, t * f));
            let out = [
                dev.linear(&x, &w, dims, None),
                dev.linear(&x, &w, dims, Some(&dy)),
                dev.linear_backward_input(&dy, &w, dims),
                dev.linear_backward_weight(&dy, &x, dims, 0.7, None),
                dev.linear_backward_weight(&dy, &x, dims, 1.0, Some(&w)),
            ];
            out.into_iter().enumerate().map(|(i, x)| (format!("linear {dims:?}, output {i}"), x)).collect()
        });
    }
}
