//! placeholder
use backend::{DType, Heads};
use cuda::cudnn::*;
fn preload() -> bool {
    let Some(folders) = std::env::var_os("INTERNEVO_CUDA_LIBRARIES") else { return false };
    let stub = std::env::temp_dir().join("libcuda.so.1");
    assert!(
        std::process::Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wl,-soname,libcuda.so.1", "-o"])
            .arg(&stub)
            .arg("tests/stub/cuda.c")
            .status()
            .unwrap()
            .success()
    );
    let mut libs = vec![stub];
    for name in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13", "libcublasLt.so.13", "libcudnn.so.9"] {
        for f in std::env::split_paths(&folders) {
            if f.join(name).exists() {
                libs.push(f.join(name));
                break;
            }
        }
    }
    for l in libs {
        use libloading::os::unix::*;
        let t = std::time::Instant::now();
        match unsafe { Library::open(Some(&l), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(x) => std::mem::forget(x),
            Err(e) => {
                println!("{e}");
                return false;
            }
        }
        println!("{l:?} {:?}", t.elapsed());
    }
    true
}
#[test]
fn plans() {
    if !preload() {
        return;
    }
    let json = std::fs::read_to_string("/work/shared/prototypes/cudnn_deviceprop_h200.json").unwrap();
    let on = Target::Properties(&json);
    for det in [false, true] {
        for (n, kv, dim) in [(32, 8, 128), (32, 32, 64)] {
            for (tokens, segments) in [(4096, 1), (4096, 64), (32768, 64)] {
                let shape = Shape {
                    heads: Heads { n, kv, dim },
                    tokens,
                    segments,
                    longest: tokens,
                    dtype: DType::BF16,
                    scale_bits: 0.088f64.to_bits(),
                    window: None,
                    deterministic: det,
                };
                for pass in [Pass::Forward, Pass::Backward] {
                    let t = std::time::Instant::now();
                    let r = match pass {
                        Pass::Forward => Plan::forward(&on, shape, usize::MAX),
                        Pass::Backward => Plan::backward(&on, shape, usize::MAX),
                    };
                    match r {
                        Ok(p) => println!(
                            "{pass:?} {n}/{kv} {dim} T{tokens} S{segments} det {det}: ws {} in {:?}",
                            p.workspace,
                            t.elapsed()
                        ),
                        Err(e) => println!("{pass:?} {n}/{kv} {dim} T{tokens} S{segments} det {det}: {e}"),
                    }
                }
            }
        }
    }
}
