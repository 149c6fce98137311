//! What a user can get wrong: one message that names the place, the reason and a way out; no panic, nothing half-written.
mod common;
use common::{Desk, golden};
use std::process::Command;

/// Runs each command; it must be refused with all that stands beside it, and leave no checkpoint or part of one.
#[track_caller]
fn refused(desk: &Desk, cases: &[(&str, &[&str])]) {
    for (command, needles) in cases {
        let before = desk.checkpoints();
        desk.run(command).refused(needles);
        assert_eq!(desk.checkpoints(), before, "{command}");
    }
}

/// The same for `train run.toml` with overrides.
#[track_caller]
fn overrides(desk: &Desk, cases: &[(&str, &[&str])]) {
    for (set, needles) in cases {
        refused(desk, &[(&format!("train run.toml {set}"), needles)]);
    }
}

/// The same for `train run.toml` with a line of run.toml changed.
#[track_caller]
fn edits(cases: &[(&str, &str, &[&str])]) {
    for (line, edited, needles) in cases {
        let desk = desk();
        let text = desk.text("run.toml");
        assert!(text.contains(line), "run.toml has `{line}`");
        desk.write("run.toml", text.replacen(line, edited, 1));
        refused(&desk, &[("train run.toml", needles)]);
    }
}

const RUN: &str = r#"name = "run"
[model]
family = "llama"
vocab_size = 32
hidden_size = 16
num_hidden_layers = 4
num_attention_heads = 4
intermediate_size = 32
[data]
kind = "tokens"
path = "ids.bin"
seq_len = 8
micro_batch_size = 2
[train]
steps = 4
[optimizer]
lr = 1e-3
[parallel]
pipeline = { size = 1, schedule = "1f1b" }
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("run.toml", RUN);
    desk.write("ids.bin", ids(400));
    desk
}

fn ids(n: u16) -> Vec<u8> {
    (0..n).flat_map(|i| (i * 7 % 32).to_le_bytes()).collect()
}

// ---- the run file --------------------------------------------------------------------------------------------------

#[test]
fn keys_and_types() {
    edits(&[
        (
            "hidden_size",
            "hiden_size",
            &["run.toml: line 5: model.hiden_size is not a key; did you mean model.hidden_size?"],
        ),
        ("[optimizer]", "[optimiser]", &["run.toml: line 16: optimiser is not a key; did you mean optimizer?"]),
        ("lr = 1e-3", "colour = 3", &["line 17: optimizer.colour is not a key; there are lr, beta1"]),
        (
            "size = 1,",
            "sise = 1,",
            &["line 19: parallel.pipeline.sise is not a key; did you mean parallel.pipeline.size?"],
        ),
        ("\"1f1b\"", "\"1f1p\"", &["line 19: parallel.pipeline.schedule = \"1f1p\"", "did you mean \"1f1b\"?"]),
        (
            "\"1f1b\"",
            "\"zigzag\"",
            &["line 19: parallel.pipeline.schedule = \"zigzag\"", "there are \"gpipe\", \"1f1b\""],
        ),
        ("[model]", "device = \"cuda\"\n[model]", &["line 2: device = \"cuda\" is not supported; there are \"cpu\""]),
        (
            "[optimizer]",
            "[precision]\nparams = \"bf16\"\n[optimizer]",
            &["line 17: precision.params = \"bf16\" is not supported"],
        ),
        ("\"llama\"", "\"gpt5\"", &["line 3: model.family = \"gpt5\"", "there are \"llama\", \"internlm2\""]),
        ("\"tokens\"", "\"token\"", &["line 10: data.kind = \"token\"", "did you mean \"tokens\"?"]),
        ("steps = 4", "steps = \"ten\"", &["line 15: train.steps = \"ten\": must be a whole number, not negative"]),
        ("steps = 4", "steps = -4", &["line 15: train.steps = -4: must be a whole number, not negative"]),
        ("steps = 4", "steps = 1.5", &["line 15: train.steps = 1.5: must be a whole number"]),
        ("seq_len = 8", "seq_len = -8", &["line 12: data.seq_len = -8: must be a whole number, not negative"]),
        ("lr = 1e-3", "lr = \"fast\"", &["line 17: optimizer.lr = \"fast\": must be a number"]),
        ("lr = 1e-3", "lr = nan", &["line 17: optimizer.lr = NaN: must be positive; try 3e-4"]),
        ("seq_len = 8", "seq_len = 8\nshuffle = 1", &["line 13: data.shuffle = 1: must be true or false"]),
        ("name = \"run\"", "name = 7", &["line 1: name = 7: must be a string in quotes"]),
        ("name = \"run\"", "name = \"a/b\"", &["line 1: name = \"a/b\": must be the name of a folder"]),
        (
            "pipeline = {",
            "tensor = 2\npipeline = {",
            &["line 19: parallel.tensor = 2: must be a section, as in [parallel.tensor]"],
        ),
        ("name = \"run\"", "", &["name is missing; write name = \"demo\" at the top"]),
        ("steps = 4", "", &["line 14: train.steps is missing; write steps = 100 under [train]"]),
        ("hidden_size = 16", "", &["line 2: model.hidden_size is missing; give it, or model.init_from"]),
        ("steps = 4", "steps = ", &["run.toml is not TOML", "line 15"]),
        ("steps = 4", "steps = 4\nsteps = 5", &["run.toml is not TOML", "line 16", "duplicate"]),
        (
            "[train]\nsteps = 4\n[optimizer]\nlr = 1e-3",
            "[train]\nstep = 4\nclip_grad_norm = true\n[optimizer]\nlr = 0\nbeta3 = 1",
            &[
                "run.toml: 4 problems\n",
                "line 15: train.step is not a key; did you mean train.steps?",
                "line 16: train.clip_grad_norm = true: must be a number",
                "line 19: optimizer.beta3 is not a key; did you mean",
                "train.steps is missing",
            ],
        ),
    ]);
    let desk = desk();
    desk.write("latin1.toml", b"name = \"\xe9\"");
    refused(
        &desk,
        &[
            ("train nowhere.toml", &["cannot read nowhere.toml: No such file"]),
            ("plan latin1.toml", &["cannot read latin1.toml", "UTF-8"]),
            ("schedule run.toml --rank 3", &["--rank 3: there are 1 ranks, numbered from 0"]),
            ("train run.toml --ranks 0", &["--ranks", "0 is not in 1.."]),
            ("train run.toml --resume --fresh", &["--resume", "--fresh"]),
            ("train", &["<CONFIG>"]),
        ],
    );
}

#[test]
fn assignments() {
    overrides(
        &desk(),
        &[
            ("--set train.steps", &["--set train.steps: expected key.path=value, as in --set train.steps=10"]),
            ("--set =5", &["--set =5: expected key.path=value"]),
            ("--set train..steps=5", &["expected key.path=value"]),
            ("--set name.x=1", &["--set name.x=1: name is a key, not a section"]),
            ("--set train.stepz=5", &["run.toml: --set: train.stepz is not a key; did you mean train.steps?"]),
            ("--set train.steps=many", &["--set: train.steps = \"many\": must be a whole number"]),
            ("--set train.steps=", &["--set: train.steps = \"\": must be a whole number"]),
        ],
    );
}

#[test]
fn sizes() {
    let all = "--set data.seq_len=0 --set data.micro_batch_size=0 --set train.steps=0 --set train.micro_batches=0 \
        --set optimizer.lr=0 --set optimizer.beta1=1 --set checkpoint.keep_last=0 --set threads=0 \
        --set model.num_key_value_heads=3 --set lr_schedule.warmup_ratio=2 --set memory.limit=lots";
    overrides(
        &desk(),
        &[
            (
                all,
                &[
                    "11 problems",
                    "--set: data.seq_len = 0: must be at least 1; try 512",
                    "--set: data.micro_batch_size = 0: must be at least 1; try 1",
                    "--set: train.steps = 0: must be at least 1; try 100",
                    "--set: train.micro_batches = 0: must be at least 1; try 1",
                    "--set: optimizer.lr = 0: must be positive; try 3e-4",
                    "--set: optimizer.beta1 = 1: must be in 0 .. 1; try 0.9",
                    "--set: checkpoint.keep_last = 0 would delete every checkpoint; try 2",
                    "--set: threads = 0: must be at least 1",
                    "--set: model.num_key_value_heads = 3 does not divide model.num_attention_heads = 4; try one of 1, 2, 4",
                    "--set: lr_schedule.warmup_ratio = 2: must be in 0 to 1",
                    "--set: memory.limit = \"lots\" is not a size; try \"80GiB\"",
                ],
            ),
            (
                "--set model.hidden_size=18",
                &["model.hidden_size = 18 is not a multiple of model.num_attention_heads = 4"],
            ),
            ("--set model.head_dim=3", &["model.head_dim = 3 is odd", "try 4"]),
            ("--set model.num_hidden_layers=0", &["model.num_hidden_layers = 0: must be at least 1"]),
            ("--set model.vocab_size=0", &["model.vocab_size = 0: must be at least 1"]),
            ("--set model.num_hidden_layers=1000000000000", &["model.num_hidden_layers = 1000000000000", "too large"]),
            ("--set model.hidden_size=4000000000000000000", &["model.hidden_size = 4000000000000000000", "too large"]),
            ("--set train.micro_batches=4000000000000000000", &["train.micro_batches = 4000000000000000000"]),
            (
                "--set train.global_batch_size=7 --set data.micro_batch_size=2",
                &["train.global_batch_size = 7 is not a multiple of 2", "try 8"],
            ),
            (
                "--set train.micro_batches=1 --set train.global_batch_size=2",
                &["train.micro_batches and train.global_batch_size are both set; keep one"],
            ),
            ("--set lr_schedule.warmup_steps=9", &["lr_schedule.warmup_steps = 9 is more than train.steps = 4"]),
            ("--set lr_schedule.min_lr=1", &["lr_schedule.min_lr = 1: must be between 0 and optimizer.lr = 0.001"]),
            ("--set train.clip_grad_norm=-1", &["train.clip_grad_norm = -1: must not be negative; 0 means never"]),
            ("--set model.init_from=.", &["model.hidden_size cannot be given beside model.init_from", "remove it"]),
            (
                "--set memory.limit=50MB",
                &[
                    "a rank needs",
                    "and has 47.7 MiB (memory.limit)",
                    "parameters",
                    "optimizer",
                    "gradients",
                    "activations",
                    "workspace",
                    "lower data.micro_batch_size",
                ],
            ),
        ],
    );
}

#[test]
fn layouts() {
    let all = "--ranks 3 --set parallel.pipeline.size=2 --set parallel.tensor.size=2 --set parallel.weight.size=4 \
        --set parallel.expert.size=0 --set parallel.zero.stage=3 --set train.micro_batches=70000";
    overrides(
        &desk(),
        &[
            (
                all,
                &[
                    "parallel.pipeline.size = 2 does not divide the 3 ranks; try one of 1, 3, or --ranks 4",
                    "parallel.tensor.size = 2: tensor parallelism is not supported yet; use 1",
                    "parallel.weight.size = 4: weight parallelism is not supported yet; use 1",
                    "parallel.expert.size = 0: must be at least 1; 1 means off",
                    "parallel.zero.stage = 3: not supported yet; use 0 or 1",
                    "train.micro_batches = 70000 is more than 65536",
                ],
            ),
            (
                "--ranks 8 --set parallel.pipeline.size=8",
                &["parallel.pipeline.size = 8 is more than model.num_hidden_layers = 4; try 4 or less"],
            ),
            (
                "--ranks 2 --set parallel.pipeline.size=2 --set model.tie_word_embeddings=true",
                &["tied embeddings is not supported yet; use data parallelism"],
            ),
            ("--set train.reproducible=3", &["train.reproducible = 3 is not a power of two; try 4"]),
            (
                "--set train.reproducible=4 --set train.micro_batches=2",
                &["train.reproducible = 4 does not divide the 2 micro-batches of a step"],
            ),
            (
                "--ranks 4 --set train.reproducible=2",
                &["train.reproducible = 2 is not a multiple of the data-parallel size 4; try 4"],
            ),
            (
                "--ranks 2 --set parallel.zero.size=1",
                &[
                    "parallel.zero.size = 1: sharding over a part of the 2 data-parallel ranks is not supported yet; use -1",
                ],
            ),
        ],
    );
}

// ---- weights, data and what comes of them --------------------------------------------------------------------------

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
    with_config(
        "\"silu\"",
        "\"gelu\"",
        &["model/config.json", "hidden_act = \"gelu\" changes the maths and is not supported"],
    );
    with_config(
        "\"rope_scaling\": null",
        "\"rope_scaling\": {\"rope_type\": \"yarn\"}",
        &["rope_type \"yarn\" is not supported; supported: default, linear, llama3"],
    );
    with_config(
        "\"use_cache\"",
        "\"sliding_window\": 4096, \"use_cache\"",
        &["sliding_window = 4096 is not known here and may change the maths"],
    );
    with_config("\"llama\"", "\"mamba\"", &["model_type = \"mamba\" is not supported; supported: llama, internlm2"]);
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
            ("train run.toml --set model.init_from=nowhere", &["nowhere/config.json", "No such file"]),
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
                    "data.valid.frac is not a key; there are fraction, path",
                    "data.valid needs one of fraction and path",
                ],
            ),
            (
                "--set data.valid.fraction=0.1 --set data.valid.path=ids.bin",
                &["data.valid needs one of fraction and path"],
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
            (&format!("{more} --resume --set precision.params=f64"), &["precision.params = \"f64\" cannot be resumed"]),
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
    desk.run(train).refused(&["cannot reserve", "step_4.tmp", "No space left", "free space on its disk"]);
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

// ---- programs ------------------------------------------------------------------------------------------------------

#[test]
fn programs() {
    let desk = desk();
    let run = "run.toml --ranks 2 --set train.micro_batches=2";
    let printed = desk.ok(&format!("schedule {run}"));
    let lines: Vec<&str> = printed.lines().collect();
    let at = |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("{line} in\n{printed}"));
    let remove = |lines: &mut Vec<&str>, i: usize| lines.splice(i..=i, []).for_each(drop);
    let edited = |edit: &dyn Fn(&mut Vec<&str>), needles: &[&str]| {
        let mut lines = lines.clone();
        edit(&mut lines);
        desk.write("edited", lines.join("\n"));
        refused(&desk, &[(&format!("train {run} --program edited"), needles)]);
    };
    edited(
        &|l| remove(l, at("forward mlp.1 0")),
        &["edited: rank 0, action", "(`forward attn.2 0`): `forward mlp.1 0` is missing before it"],
    );
    edited(&|l| remove(l, at("gather attn.0")), &["edited: rank 0", "`gather attn.0` is missing"]);
    edited(
        &|l| l.insert(at("step head"), "step head"),
        &["edited: rank 0, action", "(`step head`): a second time in one step"],
    );
    edited(
        &|l| l.swap(at("grad_norm"), at("grad_norm") - 1),
        &["edited: rank 0, action", "(`grad_norm`)", "is missing before it"],
    );
    let later = |l: &mut Vec<&str>| {
        remove(l, at("reduce mlp.0"));
        l.insert(at("reduce attn.0"), "reduce mlp.0"); // by now the line after it
    };
    edited(&later, &["edited: order", "`reduce attn.0`", "`reduce mlp.0`"]);
    edited(&|l| l[at("begin")] = "beginn", &[&format!("edited: line {}: `beginn` is not an action", at("begin") + 1)]);
    edited(&|l| l[at("load 1")] = "load 7", &["edited: rank 0", "(`load 7`): there is no micro-batch 7"]);
    edited(
        &|l| l[at("step mlp.3")] = "step mlp.9",
        &["`mlp.9` is not a unit of this model; units: embed, attn.N, mlp.N (N below 4), head"],
    );
    edited(&|l| l.truncate(at("rank 1")), &["edited: the file has programs for 1 ranks, the run has 2"]);
    edited(&|l| l.clear(), &["edited: the file has programs for 0 ranks, the run has 2"]);
    refused(&desk, &[(&format!("train {run} --program nowhere"), &["cannot read nowhere"])]);
}

// ---- generate and eval ---------------------------------------------------------------------------------------------

#[test]
fn questions_to_a_model() {
    let desk = desk();
    let model = golden("llama_mha").display().to_string();
    desk.model("llama_mha", "model");
    desk.write("one.bin", [5, 0]);
    desk.write("outside.bin", [5, 0, 200, 0]);
    desk.write("a.txt", "hello");
    let long = vec!["5"; 129].join(",");
    for (command, needles) in [
        ("generate MODEL", &["--prompt"][..]),
        (
            "generate MODEL --prompt hello",
            &["a prompt of text needs a tokenizer; or give --prompt-tokens", "tokenizer.json"],
        ),
        ("generate MODEL --prompt-tokens=", &["--prompt-tokens"]),
        ("generate MODEL --prompt-tokens 1,x", &["--prompt-tokens", "x"]),
        ("generate MODEL --prompt-tokens 5,97", &["token 97 of the prompt is outside the vocabulary of 97"]),
        (&format!("generate MODEL --prompt-tokens {long}"), &["129 tokens do not fit the context of 128"]),
        (
            "generate MODEL --prompt-tokens 1 --temperature -1",
            &["--temperature -1: must not be negative; 0 takes the most likely token"],
        ),
        ("generate MODEL --prompt-tokens 1 --top-p 0", &["--top-p 0: must be above 0 and at most 1"]),
        ("generate MODEL --prompt-tokens 1 --threads 0", &["--threads"]),
        ("generate nowhere --prompt-tokens 1", &["nowhere/config.json", "No such file"]),
        ("eval nowhere --tokens one.bin", &["nowhere/config.json", "No such file"]),
        ("eval MODEL", &["--text"]),
        ("eval MODEL --tokens one.bin", &["1 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --tokens outside.bin", &["outside.bin: ids[1] = 200 is outside the vocabulary of 97"]),
        ("eval MODEL --tokens nowhere.bin", &["cannot open nowhere.bin"]),
        ("eval MODEL --text nowhere.txt", &["cannot read nowhere.txt"]),
        ("eval MODEL --text a.txt", &["tokenizer.json"]),
        ("eval MODEL --tokens ids.bin --seq-len 0", &["--seq-len"]),
        ("eval MODEL --tokens ids.bin --threads 0", &["--threads"]),
    ] {
        refused(&desk, &[(&command.replace("MODEL", &model), needles)]);
    }

    desk.write("stories/a.txt", "a little text, a little more text, and a little more of the same.");
    let text = RUN.replace("\"tokens\"", "\"text\"").replace("vocab_size = 32\n", "").replace("ids.bin", "stories");
    desk.write("run.toml", text + "[tokenizer]\nvocab_size = 270\n");
    desk.ok("train run.toml");
    let model = "runs/run/checkpoints/step_4";
    desk.write("one.txt", "a");
    desk.write("empty.txt", "");
    desk.write("latin1.txt", b"caf\xe9");
    for (command, needles) in [
        ("generate MODEL --prompt=", &["the prompt is empty; give at least one token"]),
        ("eval MODEL --text one.txt", &["1 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --text empty.txt", &["0 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --text latin1.txt", &["latin1.txt is not UTF-8 at byte 3"]),
    ] {
        refused(&desk, &[(&command.replace("MODEL", model), needles)]);
    }
}
