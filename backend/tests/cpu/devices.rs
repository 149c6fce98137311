//! What holds on every device: none has a line for an operation.
use crate::examples::{Example, Tensor, examples};
use backend::{Backend, Cpu, DType, Meta, Op, Queued, REGIONS, Region, Sizes, Trace, Traced, View};
use backend::{upload, upload_floats};

fn sizes() -> Sizes {
    let mut sizes = [0; REGIONS.len()];
    sizes[Region::Act as usize] = 8 << 20;
    sizes
}

/// The tensors of an example one after another, floats in bf16 and f32 by turns, and the operation on them.
fn lay_out(dev: &mut dyn Backend, example: &Example) -> (Vec<View>, Op) {
    let mut offset = 0;
    let put = |(i, tensor): (usize, &Tensor)| {
        let (dtype, len) = match tensor {
            Tensor::Float(x) => ([DType::BF16, DType::F32][i % 2], x.len()),
            Tensor::Double(x) => (DType::F64, x.len()),
            Tensor::Int(x) => (DType::U32, x.len()),
        };
        let view = View { region: Region::Act, dtype, offset, len };
        offset = (offset + view.bytes()).next_multiple_of(8);
        match tensor {
            Tensor::Float(x) => upload_floats(dev, &x.iter().map(|&x| x as f32).collect::<Vec<_>>(), view),
            Tensor::Double(x) => upload(dev, x, view),
            Tensor::Int(x) => upload(dev, x, view),
        }
        view
    };
    let views: Vec<View> = example.tensors.iter().enumerate().map(put).collect();
    let op = (example.op)(&views);
    (views, op)
}

#[test]
fn behind_a_queue_the_bits_are_the_same() {
    let mut devices: [Box<dyn Backend>; 2] =
        [Box::new(Cpu::new(sizes(), 1)), Box::new(Queued::new(sizes(), 1, Some(1)))];
    for example in examples(33, 12) {
        let [direct, queued] = devices.each_mut().map(|dev| {
            let (views, op) = lay_out(&mut **dev, &example);
            dev.run(op);
            let bytes = |view: View| {
                let mut bytes = vec![0; view.bytes()];
                dev.download(view, &mut bytes);
                bytes
            };
            views.into_iter().map(bytes).collect::<Vec<Vec<u8>>>()
        });
        assert!(direct == queued, "{}", example.name);
    }
}

/// A prediction and a run leave one trace and touch the same memory.
#[test]
fn without_memory_the_trace_is_the_same() {
    let all = examples(33, 12);
    let run = |inner: Box<dyn Backend>| -> (Trace, usize) {
        let mut dev = Traced::new(inner);
        for example in &all {
            let (_, op) = lay_out(&mut dev, example);
            dev.run(op);
        }
        (dev.take_trace(), dev.high_water(Region::Act))
    };
    let (trace, high_water) = run(Box::new(Cpu::new(sizes(), 2)));
    assert!(high_water > 0 && (trace.clone(), high_water) == run(Box::new(Meta::new(sizes()))));

    let ran: Vec<_> = trace.rows.iter().filter(|row| row.name != "upload").collect();
    assert_eq!(ran.len(), all.len());
    for row in ran {
        let free =
            ["fill", "copy", "take_rows", "embedding", "split_heads", "join_heads", "loss_scale"].contains(&row.name);
        assert_eq!(row.flops == 0.0, free, "{row:?}");
        assert!(row.bytes > 0, "{row:?}");
    }
}
