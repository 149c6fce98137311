//! What the run file names: weights, data, and the run's folder.
use super::*;
use std::process::Command;

#[test]
fn weights() {
    let desk = Desk::golden("llama_mha");
    desk.model("llama_mha", "model");
    let (config, weights) = (desk.text("model/config.json"), desk.read("model/model.safetensors"));
    let train = "train run.toml --set model.init_from=model";
    let with_config = |from: &str, to: &str, needles: &[&str]| {
        assert!(config.contains(from));
        desk.write("model/config.json", config.replace(from, to));
        refused(&desk, &[(train, needles), ("plan run.toml --set model.init_from=model", needles)]);
        desk.write("model/config.json", &config);
    };
    with_config("\"silu\"", "\"relu\"", &["model/config.json", "hidden_act = \"relu\""]);
    with_config(
        "\"rope_scaling\": null",
        "\"rope_scaling\": {\"rope_type\": \"longrope\"}",
        &["rope_type \"longrope\" is not supported; supported: default, linear, dynamic, llama3, yarn"],
    );
    with_config(
        "\"use_cache\"",
        "\"sliding_window\": 4096, \"use_cache\"",
        &["sliding_window = 4096 is not known here and may change the maths"],
    );
    with_config(
        "\"llama\"",
        "\"mamba\"",
        &["model_type = \"mamba\" is not supported; supported: llama, internlm, internlm2, mistral, "],
    );
    with_config(
        "\"num_hidden_layers\": 3",
        "\"num_hidden_layers\": 4",
        &["model.safetensors", "model.layers.3.", "is missing"],
    );
    with_config("\"hidden_size\": 24", "\"hidden_size\": 48", &["model.safetensors", "has shape"]);
    with_config("}", "", &["model/config.json", "EOF", "repair the file"]);

    let with_weights = |bytes: &[u8], needles: &[&str]| {
        desk.write("model/model.safetensors", bytes);
        refused(&desk, &[(train, needles), ("generate model --prompt-tokens 1", needles)]);
    };
    with_weights(
        &weights[..weights.len() - 100],
        &["model/model.safetensors: holds", "100 are missing; copy the file again"],
    );
    with_weights(b"<!DOCTYPE html>", &["model/model.safetensors", "copy the file again"]);
    with_weights(&weights[..5], &["model/model.safetensors: holds 5 bytes of at least 8"]);
    std::fs::remove_file(desk.path("model/model.safetensors")).unwrap();
    refused(
        &desk,
        &[
            (train, &["model: no model.safetensors or model.safetensors.index.json here"]),
            ("train run.toml --set model.init_from=nowhere", &["cannot open nowhere", "No such file"]),
        ],
    );

    // The last element of the last tensor.
    let mut nan = weights;
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    desk.write("model/model.safetensors", nan);
    let not_finite =
        ["step 1: the gradient is not finite", "lower optimizer.lr, or look at the data and at the weights"];
    refused(&desk, &[(train, &not_finite), (&format!("{train} --ranks 2"), &not_finite)]);
}

#[test]
fn tokens() {
    let desk = desk();
    let mut outside = ids(400);
    outside[2 * 123..2 * 124].copy_from_slice(&40u16.to_le_bytes());
    desk.write("outside.bin", outside);
    desk.write("odd.bin", [1, 2, 3]);
    desk.write("empty.bin", []);
    desk.write("short.bin", ids(8));
    desk.write("bad.npy", b"hello");
    overrides(
        &desk,
        &[
            (
                "--set data.path=outside.bin",
                &[
                    "outside.bin: ids[123] = 40 is outside the vocabulary of 32; check data.dtype, or raise model.vocab_size",
                ],
            ),
            ("--set data.path=nowhere.bin", &["cannot open nowhere.bin: No such file"]),
            ("--set data.path=odd.bin", &["odd.bin: 3 bytes are not whole 2-byte ids"]),
            ("--set data.path=empty.bin", &["empty.bin: the training split holds 0 tokens and a row needs 9"]),
            (
                "--set data.path=short.bin",
                &[
                    "short.bin: the training split holds 8 tokens and a row needs 9; lower data.seq_len or give more data",
                ],
            ),
            ("--set data.path=bad.npy", &["bad.npy: not a .npy file; write it again with numpy.save"]),
            ("--set data.path=.", &["cannot map .: is a directory"]),
            ("--set data.valid.fraction=1", &["data.valid.fraction = 1: must be at least 0 and below 1; try 0.02"]),
            ("--set data.valid.fraction=-0.1", &["data.valid.fraction = -0.1: must be at least 0"]),
            (
                "--set data.valid.frac=0.1",
                &[
                    "data.valid.frac is not a key; there are fraction, path, sets, random",
                    "data.valid needs one of fraction, path, sets",
                ],
            ),
            (
                "--set data.valid.fraction=0.1 --set data.valid.path=ids.bin",
                &["data.valid needs one of fraction, path, sets"],
            ),
            ("--set data.valid.path=short.bin", &["short.bin: the validation split holds 8 tokens and a row needs 9"]),
            ("--set data.valid.path=outside.bin", &["outside.bin: ids[123] = 40"]),
            ("--set data.extensions=[\"txt\"]", &["data.extensions is for kind = \"text\", not \"tokens\"; remove it"]),
            ("--set data.kind=text", &["tokenizer.vocab_size = 32: a byte-level vocabulary needs 257"]),
        ],
    );
}

#[test]
fn texts() {
    let desk = desk();
    let text = RUN.replace("\"tokens\"", "\"text\"").replace("vocab_size = 32\n", "");
    desk.write("run.toml", &text);
    let overrides = |cases: &[(&str, &[&str])]| overrides(&desk, cases);
    overrides(&[("", &["there is no tokenizer; give tokenizer.path, or tokenizer.vocab_size to train one"])]);

    desk.write("run.toml", text + "[tokenizer]\nvocab_size = 300\n");
    desk.write("latin1.txt", b"caf\xe9 au lait");
    desk.write("empty/a.txt", "");
    desk.write("pictures/a.png", "");
    desk.write("one/a.txt", "the only document, which is not long");
    desk.write("broken.jsonl", "{\"text\": \"good\"}\n{\"text\": \n");
    desk.write("other.jsonl", "{\"content\": \"good\"}\n");
    overrides(&[
        ("--set data.path=latin1.txt", &["latin1.txt: byte 3 is not UTF-8; convert the file"]),
        ("--set data.path=nowhere", &["cannot read nowhere: No such file"]),
        ("--set data.path=empty", &["empty: no text here, every file is empty"]),
        ("--set data.path=pictures", &["pictures: no files ending in"]),
        (
            "--set data.path=one --set data.valid.fraction=0.5",
            &["one: too few documents (1) to hold some out; set data.valid.path instead"],
        ),
        (
            "--set data.path=one --set data.seq_len=4096",
            &["one: the training split holds", "a row needs 4096; lower data.seq_len"],
        ),
        ("--set data.kind=jsonl --set data.path=broken.jsonl", &["broken.jsonl:2:"]),
        ("--set data.kind=jsonl --set data.path=other.jsonl", &["other.jsonl:1:", "text"]),
        (
            "--set data.path=one --set tokenizer.vocab_size=100",
            &["tokenizer.vocab_size = 100: a byte-level vocabulary needs 257"],
        ),
        ("--set data.path=one --set tokenizer.path=tok", &["tokenizer.path and tokenizer.vocab_size are both set"]),
        (
            "--set data.path=one --set model.vocab_size=200",
            &["the tokenizer has", "and the model 200; set model.vocab_size ="],
        ),
    ]);
}

// ---- the run's folder ----------------------------------------------------------------------------------------------

#[test]
fn folders() {
    let desk = desk();
    let mut first = desk.start("train run.toml --set train.steps=1000000 --set checkpoint.every=5");
    first.until_rows(&desk, "run", 8);
    let pid = format!("runs/run is in use by process {}; wait for it, or give this run another name", first.child.id());
    for how in ["", "--resume", "--fresh"] {
        desk.run(&format!("train run.toml {how}")).refused(&[&pid]);
    }
    first.signal("TERM");
    let (code, said) = first.end();
    assert_eq!(code, Some(0), "{said}");

    let rows = desk.metrics("run").len();
    let unfinished =
        format!("runs/run has a checkpoint of step {rows} of 2000000; --resume goes on from it, --fresh starts again");
    let more = "--set train.steps=2000000";
    overrides(
        &desk,
        &[
            (more, &[&unfinished]),
            ("", &["runs/run is finished", "of 4); --fresh starts again, or raise train.steps and --resume"]),
            (
                &format!("{more} --resume --set model.hidden_size=32"),
                &["is a checkpoint of another model", "hidden_size: 16 in the checkpoint, 32 in the run"],
            ),
            (
                &format!("{more} --resume --set seed=7"),
                &["seed = 7 differs from the 1024 of the checkpoint", "use --fresh"],
            ),
            (
                &format!("{more} --resume --set data.seq_len=4"),
                &["data.seq_len = 4 differs from the 8 of the checkpoint"],
            ),
            (&format!("{more} --resume --ranks 2"), &["differs from the 1 of the checkpoint"]),
            (&format!("{more} --resume --set precision.params=f64"), &["precision.params = \"f64\" cannot go on"]),
            // What is there stays until all is known to be right.
            ("--fresh --set data.path=nowhere.bin", &["cannot open nowhere.bin"]),
            ("--fresh --set memory.limit=1MB", &["a rank needs"]),
            ("--fresh --ranks 3 --set parallel.pipeline.size=2", &["does not divide the 3 ranks"]),
            ("--set output=run.toml", &["cannot create run.toml/run"]),
        ],
    );
    assert_eq!(desk.metrics("run").len(), rows, "refusals leave the metrics alone");
    desk.ok(&format!("train run.toml --resume --set train.steps={}", rows + 1));
}

/// A disk that is full while a checkpoint is saved.
#[test]
fn full_disk() {
    let desk = desk();
    desk.write("runs/here", "");
    let Some(disk) = Disk::mount(&desk, "runs", "1400k") else { return };
    // A checkpoint takes about 450 kB.
    desk.write("runs/ballast", vec![1; 800_000]);

    let train = "train run.toml --set model.intermediate_size=160 --set checkpoint.every=2";
    desk.run(train).refused(&["cannot reserve", "step_4", "bytes are free there", "free space on its disk"]);
    assert_eq!(desk.checkpoints(), ["run/checkpoints/step_2"]);
    let eval = "eval runs/run/checkpoints/step_2 --tokens ids.bin --seq-len 8";
    desk.ok(eval);
    std::fs::remove_file(desk.path("runs/ballast")).unwrap();
    desk.ok(&format!("{train} --resume"));
    assert_eq!(desk.checkpoints(), ["run/checkpoints/step_2", "run/checkpoints/step_4"]);
    desk.ok(&eval.replace("step_2", "step_4"));
    drop(disk);
}

struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(desk: &Desk, at: &str, size: &str) -> Option<Disk> {
        let path = desk.path(at);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).output();
        match mount {
            Ok(out) if out.status.success() => Some(Disk(path)),
            Ok(out) => {
                println!("skipped: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                println!("skipped: mount: {e}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(unmounted.is_ok_and(|s| s.success()), "cannot unmount {}", self.0.display());
        }
    }
}
