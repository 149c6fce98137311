//! Plans of cuDNN for an H200 that is not there.
//!
//! cuDNN chooses engines and compiles them for a device that is only described. So this needs its libraries, and no card:
//! `INTERNEVO_CUDA_LIBRARIES` names the folders of libcudnn.so.9, libcublasLt.so.13 and libnvrtc.so.13 (those of the
//! packages nvidia-cudnn-cu13, nvidia-cublas and nvidia-cuda-nvrtc), separated by colons. The driver is `stub.c`.
use backend::{DType, Heads};
use cuda::cudnn::{Pass, Plan, Shape, Target};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::path::Path;
use std::process::Command;

const H200: Target = Target::Properties(include_str!("h200.json"));
const MIB: usize = 1 << 20;

/// Loads cuDNN and what it will look for, or says why not. The builtins come first: NVRTC looks only at their name.
fn load() -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "nobody else tells a test where libraries are")]
    let folders = std::env::var_os("INTERNEVO_CUDA_LIBRARIES").ok_or("INTERNEVO_CUDA_LIBRARIES is not set")?;
    let folders: Vec<_> = std::env::split_paths(&folders).collect();
    let into = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
    let driver = into.path().join("libcuda.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cudnn/stub.c");
    let options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wl,-soname,libcuda.so.1", "-o"];
    let compiled = Command::new("cc").args(options).arg(&driver).arg(source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        return Err("the stub of the driver could not be compiled by `cc`".into());
    }
    let names = ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13", "libcublasLt.so.13", "libcudnn.so.9"];
    let find = |name| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    let paths = names.map(|name| find(name).ok_or(format!("{name} is in none of {folders:?}")));
    for path in [Ok(driver)].into_iter().chain(paths) {
        // SAFETY: what these libraries do when they are loaded is theirs; the driver is ours.
        let library = unsafe { Library::open(Some(path?), RTLD_NOW | RTLD_GLOBAL) };
        // They stay until the process ends.
        std::mem::forget(library.map_err(|e| e.to_string())?);
    }
    Ok(())
}

fn shape(heads: (usize, usize, usize), tokens: usize, segments: usize) -> Shape {
    let (n, kv, dim) = heads;
    let scale_bits = (dim as f64).sqrt().recip().to_bits();
    let (heads, dtype) = (Heads { n, kv, dim }, DType::BF16);
    Shape { heads, tokens, segments, longest: tokens, dtype, scale_bits, window: None, deterministic: false }
}

/// Bytes that the workspace of a backward has in any case: dq in f32, dk and dv of every query head if there are fewer
/// of those, and one number for each row.
fn floor(shape: Shape) -> usize {
    let Heads { n, kv, dim } = shape.heads;
    let copies = if n == kv { 1 } else { 3 };
    4 * shape.tokens * n * (copies * dim + 1)
}

fn workspace(pass: Pass, shape: Shape) -> usize {
    let plan = match pass {
        Pass::Forward => Plan::forward(&H200, shape, usize::MAX),
        Pass::Backward => Plan::backward(&H200, shape, usize::MAX),
    };
    plan.unwrap_or_else(|why| panic!("{why}")).workspace
}

#[test]
fn plans_of_cudnn() {
    if let Err(why) = load() {
        println!("skipped: {why}");
        return;
    }
    every_shape_has_plans_whose_workspace_is_linear();
    a_deterministic_backward_is_linear_or_refused();
    a_plan_is_written_and_read();
    what_cannot_be_done_is_said();
}

fn every_shape_has_plans_whose_workspace_is_linear() {
    let mut shapes = vec![];
    for heads in [(32, 8, 128), (28, 4, 128), (32, 32, 64), (32, 8, 96), (16, 4, 256)] {
        shapes.extend([(4096, 1), (4096, 64), (32768, 64)].map(|(tokens, segments)| shape(heads, tokens, segments)));
        let packed = shape(heads, 8192, 16);
        shapes.extend([Shape { dtype: DType::F16, ..packed }, Shape { window: Some(1024), ..packed }]);
    }
    for shape in shapes {
        let (forward, backward) = (workspace(Pass::Forward, shape), workspace(Pass::Backward, shape));
        println!("{forward} and {backward} bytes of workspace: {shape:?}");
        assert!(forward < MIB && backward < floor(shape) + MIB, "{shape:?} wants {forward} and {backward} bytes");
    }
}

fn a_deterministic_backward_is_linear_or_refused() {
    let limit = 2 << 30;
    let one = Shape { deterministic: true, ..shape((32, 8, 128), 4096, 1) };
    Plan::backward(&H200, one, limit).unwrap_or_else(|why| panic!("one segment: {why}"));
    for heads in [(32, 8, 128), (28, 4, 128), (32, 32, 64), (32, 8, 96), (16, 4, 256)] {
        let packed = Shape { deterministic: true, ..shape(heads, 4096, 64) };
        assert!(workspace(Pass::Forward, packed) < MIB);
        match Plan::backward(&H200, packed, limit) {
            Ok(plan) => {
                println!("{} bytes of workspace: {packed:?}", plan.workspace);
                assert!(plan.workspace < floor(packed) + 16 * MIB, "{packed:?} wants {} bytes", plan.workspace);
            }
            Err(why) => assert!(why.contains("bytes of workspace"), "{why}"),
        }
    }
}

fn a_plan_is_written_and_read() {
    let shape = shape((32, 8, 128), 4096, 8);
    for pass in [Pass::Forward, Pass::Backward] {
        let plan = match pass {
            Pass::Forward => Plan::forward(&H200, shape, usize::MAX),
            Pass::Backward => Plan::backward(&H200, shape, usize::MAX),
        };
        let plan = plan.unwrap_or_else(|why| panic!("{why}"));
        let json = plan.json().unwrap();
        let restored = Plan::restored(&H200, pass, shape, &json).unwrap();
        assert_eq!(restored.workspace, plan.workspace);
        assert!(restored.json().unwrap() == json, "{pass:?}: a plan that was read is another");
        assert!(Plan::restored(&H200, pass, shape, &json[..json.len() / 2]).is_err());
    }
}

fn what_cannot_be_done_is_said() {
    let good = shape((8, 8, 64), 512, 1);
    let refused = |shape| Plan::forward(&H200, shape, usize::MAX).err().expect("a refusal");
    assert!(refused(Shape { dtype: DType::F32, ..good }).contains("bf16 and f16"));
    assert!(refused(shape((8, 8, 72), 512, 1)).contains("multiples of 16"));
    assert!(refused(shape((8, 8, 512), 512, 1)).contains("up to 256"));
    let ampere = include_str!("h200.json").replace("900", "800");
    let why = Plan::backward(&Target::Properties(&ampere), good, usize::MAX).err().expect("a refusal");
    assert!(why.contains("no backward"), "{why}");
}
