//! The run file: keys, types, sizes, layouts.
use super::*;

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
        ("[model]", "device = \"gpu\"\n[model]", &["line 2: device", "\"gpu\" is no device; try \"auto\", \"cpu\""]),
        (
            "[optimizer]",
            "[precision]\nparams = \"double\"\n[optimizer]",
            &["line 17: precision.params = \"double\"", "there are \"f32\", \"tf32\", \"f64\""],
        ),
        (
            "[optimizer]",
            "reproducible = 4\n[precision]\nparams = \"bf16\"\ngrads = \"bf16\"\n[optimizer]",
            &["train.reproducible = 4 beside precision.grads", "remove one of the two"],
        ),
        (
            "[optimizer]",
            "[precision]\ngrads = \"f16\"\n[optimizer]",
            &["precision.grads = \"f16\" beside params = \"f32\": remove it"],
        ),
        (
            "[optimizer]",
            "[precision.loss_scale]\ninitial = 0.5\nbackoff_factor = 2\nhysteresis = 0\n[optimizer]",
            &[
                "3 problems",
                "line 17: precision.loss_scale.initial = 0.5: must be between",
                "line 18: precision.loss_scale.backoff_factor = 2: must be above 0 and at most 1; try 0.5",
                "line 19: precision.loss_scale.hysteresis = 0: must be at least 1; try 2",
            ],
        ),
        (
            "steps = 4",
            "steps = 4\nramp_up = { start = 0, increment = 1, every = 0 }",
            &["2 problems", "line 16: train.ramp_up.start = 0: must be at least 1", "train.ramp_up.every = 0"],
        ),
        ("steps = 4", "steps = 4\nramp_up = { start = 1 }", &["line 16: train.ramp_up.increment is missing"]),
        (
            "steps = 4",
            "steps = 4\nskip_batches = \"4-2\"",
            &["line 16: train.skip_batches: \"4-2\" is neither a number nor a range; try \"2-4,10\""],
        ),
        ("steps = 4", "steps = 4\nmax_skips = -1", &["line 16: train.max_skips = -1"]),
        (
            "[optimizer]",
            "[loss]\nlabel_smoothing = 1.0\n[optimizer]",
            &["line 17: loss.label_smoothing = 1: must be at least 0 and below 1; try 0"],
        ),
        ("lr = 1e-3", "beta2_c = -1", &["line 17: optimizer.beta2_c = -1: must not be negative"]),
        (
            "[optimizer]",
            "[lr_schedule]\ninit_steps = 9\n[optimizer]",
            &["line 17: lr_schedule.init_steps = 9 is more than train.steps = 4; lower it"],
        ),
        (
            "[optimizer]",
            "[memory]\nrecompute = 1.5\n[optimizer]",
            &["line 17: memory.recompute = 1.5: must be a part of the layers from 0 to 1, or \"selective\""],
        ),
        ("[optimizer]", "[memory]\nrecompute = \"all\"\n[optimizer]", &["line 17: memory.recompute"]),
        (
            "[optimizer]",
            "[metrics]\nspike_factor = 0.5\ntrace_steps = [5]\n[optimizer]",
            &[
                "2 problems",
                "line 17: metrics.spike_factor = 0.5: must be at least 1, or 0 for never",
                "line 18: metrics.trace_steps: there is no step 5 of train.steps = 4; the first is 1",
            ],
        ),
        (
            "\"llama\"",
            "\"gpt5\"",
            &["line 3: model.family = \"gpt5\"", "there are \"llama\", \"internlm\", \"internlm2\""],
        ),
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

/// Of what grows faster than the file, the beginning is told.
#[test]
fn large_files() {
    let desk = desk();
    let text = desk.text("run.toml");
    let many: String = (0..20_000).map(|i| format!("k{i}=1\n")).collect();
    desk.write("run.toml", format!("{many}{text}"));
    refused(&desk, &[("train run.toml", &["41 problems", "line 1: k0 is not a key", "and maybe more"])]);
    desk.write("run.toml", format!("{text}\n#{}", "x".repeat(300 << 10)));
    refused(&desk, &[("train run.toml", &["run.toml is not TOML: it is larger than 256 KiB"])]);
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
            ("--set threads=1000000000", &["threads = 1000000000: must be at least 1 and at most"]),
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
                    "parallel.weight.size = 4 with parallel.tensor.mode = \"mtp\": only isp cuts weights over a group of their own",
                    "parallel.expert.size = 0: must be at least 1; 1 means off",
                    "train.micro_batches = 70000 is more than 65536",
                ],
            ),
            (
                "--ranks 6 --set parallel.tensor.size=4 --set parallel.zero.stage=4",
                &[
                    "parallel.tensor.size = 4 does not divide the 6 ranks at a place of the pipeline (6 ranks over 1); try one of 1, 2, 3, 6, or --ranks 8",
                    "parallel.zero.stage = 4: there are stages 0 to 3",
                ],
            ),
            (
                "--ranks 64 --set parallel.tensor.size=8 --set parallel.pipeline.size=8 --set train.reproducible=3",
                &[
                    "3 problems",
                    "parallel.tensor.size = 8 does not divide the 4 attention heads",
                    "parallel.pipeline.size = 8 is more than model.num_hidden_layers = 4; try 4 or less",
                    "train.reproducible = 3 is not a power of two; try 4",
                ],
            ),
            (
                "--ranks 4 --set parallel.pipeline.size=2 --set parallel.pipeline.layers=[3,2]",
                &["parallel.pipeline.layers = [3, 2] sums to 5, but model.num_hidden_layers = 4; try [2, 2]"],
            ),
            (
                "--ranks 4 --set parallel.tensor.mode=isp --set parallel.weight.size=3 --set parallel.zero.stage=2",
                &[
                    "parallel.weight.size = 3 does not divide the 4 ranks at a place of the pipeline; try one of 1, 2, 4",
                    "parallel.zero.stage = 2 with parallel.tensor.mode = \"isp\", where parallel.weight.size already cuts",
                ],
            ),
            (
                "--ranks 2 --set parallel.tensor.size=2 --set parallel.tensor.mode=msp --set data.seq_len=15 --set data.micro_batch_size=1",
                &["parallel.tensor.size = 2 does not divide the 15 tokens of a micro-batch"],
            ),
            (
                "--ranks 2 --set train.reproducible=2 --set train.micro_batches=2 --set parallel.zero.stage=3",
                &["train.reproducible = 2 with gradients added up after every micro-batch", "use 4"],
            ),
            (
                "--ranks 8 --set parallel.pipeline.size=8",
                &["parallel.pipeline.size = 8 is more than model.num_hidden_layers = 4; try 4 or less"],
            ),
            (
                "--ranks 2 --set parallel.pipeline.size=2 --set parallel.pipeline.chunks=2",
                &["parallel.pipeline.chunks = 2: only an interleaved schedule has chunks"],
            ),
            (
                "--ranks 2 --set parallel.pipeline.size=2 --set parallel.pipeline.schedule=interleaved",
                &["\"interleaved\" with size = 2, chunks = 1: both must be at least 2; try chunks = 2, or \"1f1b\""],
            ),
            (
                "--ranks 2 --set parallel.pipeline.size=2 --set parallel.pipeline.schedule=interleaved \
                    --set parallel.pipeline.chunks=3",
                &["size = 2 x chunks = 3 stages are more than model.num_hidden_layers = 4; lower one of them"],
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
                "--ranks 4 --set parallel.zero.size=2 --set parallel.zero.stage=0",
                &[
                    "parallel.zero.size = 2 with parallel.zero.stage = 0, which shards nothing; use stage = 1, or size = -1",
                ],
            ),
            (
                "--ranks 4 --set parallel.zero.size=3",
                &[
                    "parallel.zero.size = 3 does not divide the 4 data-parallel ranks; try one of 1, 2, 4, or -1 for all",
                ],
            ),
        ],
    );
}
