//! One row for each key, value and default that is not the obvious one.
mod common;

use common::{SMALL, at, convert, converted, with};

/// Section, what is added to it, key of the run file, its value as TOML or "-" for none.
type Row<'a> = (&'a str, &'a str, &'a str, &'a str);

#[track_caller]
fn check(rows: &[Row]) {
    for (section, more, key, expected) in rows {
        let text = with(section, more);
        let value = at(&converted(&text), key);
        let expected =
            (*expected != "-").then(|| format!("x = {expected}").parse::<toml::Table>().unwrap()["x"].clone());
        assert_eq!(value, expected, "{section} {more} -> {key}");
    }
}

#[test]
fn absent_keys_have_the_originals_defaults() {
    let rows = [
        ("seed", "1024"),
        ("model.num_key_value_heads", "4"),
        ("model.intermediate_size", "256"),
        ("model.rms_norm_eps", "1e-5"),
        ("model.norm", "-"),
        ("model.gated_mlp", "-"),
        ("model.attention_bias", "'all'"),
        ("model.rope_layout", "'half'"),
        ("model.rope_theta", "10000.0"),
        ("model.rope_scaling", "-"),
        ("model.max_position_embeddings", "2048"),
        ("model.initializer_range", "0.02"),
        ("model.scaled_init", "true"),
        ("model.tie_word_embeddings", "false"),
        ("model.embed_grad_scale", "-"),
        ("model.norm_head", "-"),
        ("data.kind", "'random'"),
        ("data.shuffle", "true"),
        ("data.valid", "-"),
        ("data.min_length", "-"),
        ("train.micro_batches", "1"),
        ("train.validate_every", "-"),
        ("train.ramp_up", "-"),
        ("train.skip_batches", "-"),
        ("loss", "-"),
        ("optimizer.beta1", "0.9"),
        ("optimizer.beta2", "0.95"),
        ("optimizer.beta2_c", "-"),
        ("optimizer.eps", "1e-8"),
        ("optimizer.weight_decay", "0.01"),
        ("optimizer.decay_all", "true"),
        ("lr_schedule.warmup_steps", "0"),
        ("lr_schedule.min_lr", "0.0"),
        ("precision.loss_scale", "-"),
        ("memory", "-"),
        ("parallel.zero", "{ stage = 1, size = -1 }"),
        ("parallel.tensor", "{ size = 1, mode = 'mtp' }"),
        ("parallel.weight", "{ size = 1 }"),
        ("metrics", "-"),
        ("output", "-"),
    ];
    check(&rows.map(|(key, expected)| ("", "", key, expected)));
}

#[test]
fn the_model_is_mapped() {
    check(&[
        ("", "model_type = 'INTERNLM'", "model.family", "'internlm'"),
        ("", "model_type = 'INTERNLM'", "model.attention_bias", "'all'"),
        ("", "model_type = 'INTERNLM'", "model.initializer_range", "0.006"),
        ("", "model_type = None", "model.family", "'internlm'"),
        ("", "model_type = 'INTERNLM2'", "model.family", "'internlm2'"),
        ("", "model_type = 'LLAMA2'", "model.family", "'llama'"),
        ("", "model_type = 'LLAMA2'", "model.rope_layout", "'interleaved'"),
        ("model", "adapt_hf=False", "model.rope_layout", "'interleaved'"),
        ("model", "qk_interleaved=True", "model.rope_layout", "'interleaved'"),
        ("model", "qk_interleaved=False, adapt_hf=True", "model.rope_layout", "'half'"),
        ("model", "no_bias=True", "model.attention_bias", "'none'"),
        // 4096 * 8/3 = 10922.67, 2048 * 3.5 = 7168
        ("model", "hidden_size=4096, mlp_ratio=8 / 3", "model.intermediate_size", "11008"),
        ("model", "hidden_size=2048, mlp_ratio=3.5", "model.intermediate_size", "7168"),
        ("model", "hidden_size=100, mlp_ratio=1, multiple_of=64", "model.intermediate_size", "128"),
        ("model", "hidden_size=100, mlp_ratio=2.999, use_swiglu=False", "model.intermediate_size", "299"),
        ("model", "use_swiglu=False", "model.gated_mlp", "false"),
        ("model", "use_swiglu=False", "model.hidden_act", "'gelu_tanh'"),
        ("model", "norm_type='layernorm'", "model.norm", "'layer'"),
        ("model", "layer_norm_epsilon=1e-6", "model.rms_norm_eps", "1e-6"),
        ("model", "num_kv_attention_heads=2", "model.num_key_value_heads", "2"),
        ("model", "num_kv_attention_heads=None", "model.num_key_value_heads", "4"),
        ("model", "use_dynamic_ntk_rope=True", "model.rope_scaling", "{ rope_type = 'dynamic', factor = 1.0 }"),
        ("model", "rope_base=1000000", "model.rope_theta", "1000000.0"),
        ("model", "embed_grad_scale=0.1", "model.embed_grad_scale", "0.1"),
        ("model", "norm_head=True", "model.norm_head", "true"),
        ("model", "use_scaled_init=False", "model.scaled_init", "false"),
        ("model", "attn_wqkv_init_std=0.01", "model.initializer_range", "0.01"),
        ("model", "checkpoint=True", "memory.recompute", "1.0"),
        ("model", "checkpoint=False", "memory", "-"),
        ("model", "checkpoint=0.2", "memory.recompute", "0.2"),
        ("model", "dtype='torch.bfloat16'", "precision.params", "'bf16'"),
        ("model", "dtype='torch.float16'", "precision.params", "'f16'"),
        ("model", "dtype='torch.half'", "precision.params", "'f16'"),
        ("model", "dtype=None", "precision.params", "'f16'"),
        ("model", "dtype='torch.tf32'", "precision.params", "'f32'"),
    ]);
}

#[test]
fn data_and_counts_are_mapped() {
    check(&[
        ("data", "train_folder=None", "data.kind", "'random'"),
        ("data", "train_folder='local:x/y'", "data.kind", "'internevo'"),
        ("data", "train_folder='local:x/y'", "data.path", "'x/y'"),
        ("data", "train_folder='x'", "data.min_length", "0"),
        ("data", "train_folder='x', min_length=50", "data.min_length", "50"),
        ("data", "train_folder='x', min_length_dict={'a.b': 3}", "data.min_length_of", "{ 'a.b' = 3 }"),
        ("data", "min_length=50", "data.min_length", "-"),
        ("data", "fixed_random_dataset_seqlen=True", "data.fixed_length", "true"),
        ("data", "pack_sample_into_one=True", "data.cross_documents", "true"),
        ("data", "micro_num=4", "train.micro_batches", "4"),
        ("data", "valid_every=5", "data.valid", "{ random = true }"),
        ("data", "valid_every=5, train_folder='x', valid_folder='y'", "data.valid", "{ path = 'y' }"),
        ("data", "valid_every=5, train_folder='x'", "data.valid", "-"),
        ("data", "valid_every=0, train_folder='x', valid_folder='y'", "data.valid", "-"),
        ("data", "rampup_batch_size=''", "train.ramp_up", "-"),
        ("data", "rampup_batch_size=None", "train.ramp_up", "-"),
        ("data", "rampup_batch_size='2 3 5000'", "train.ramp_up", "{ start = 2, increment = 3, every = 5000 }"),
        ("data", "skip_batches='2-4,10'", "train.skip_batches", "'2-4,10'"),
        ("data", "skip_batches=''", "train.skip_batches", "-"),
        ("data", "seed=3", "seed", "3"),
        ("data", "gradient_accumulation=2, micro_num=2", "train.micro_batches", "2"),
    ]);
}

#[test]
fn optimization_is_mapped() {
    check(&[
        ("adam", "adam_beta2=0.99", "optimizer.beta2", "0.99"),
        ("adam", "adam_beta2_c=0.8", "optimizer.beta2_c", "0.8"),
        // The scheduler wins.
        ("beta2_scheduler", "init_beta2=0.9, c=0", "optimizer.beta2", "0.9"),
        ("beta2_scheduler", "init_beta2=0.9, c=0.5", "optimizer.beta2_c", "0.5"),
        ("beta2_scheduler", "init_beta2=0.9", "optimizer.beta2_c", "0.8"),
        ("lr_scheduler", "total_steps=10, warmup_ratio=0.39", "lr_schedule.warmup_steps", "3"),
        ("lr_scheduler", "warmup_ratio=0.5", "lr_schedule.warmup_steps", "5"),
        ("lr_scheduler", "init_steps=2", "lr_schedule.init_steps", "2"),
        ("lr_scheduler", "eta_min=1e-5", "lr_schedule.min_lr", "1e-5"),
        ("loss", "label_smoothing=0.1", "loss.label_smoothing", "0.1"),
        ("loss", "label_smoothing=0", "loss", "-"),
        ("hybrid_zero_optimizer", "clip_grad_norm=0", "train.clip_grad_norm", "0.0"),
        ("grad_scaler", "growth_factor=4", "precision.loss_scale", "-"), // f32
    ]);
    let scaled =
        |more: &str| converted(&with("model", "dtype='torch.bfloat16'").replace("adam =", &format!("{more}\nadam =")));
    let default = scaled("");
    let of = |c: &pyconfig::Converted, key: &str| at(c, &format!("precision.loss_scale.{key}")).map(|v| v.to_string());
    for (key, value) in [
        ("initial", "65536.0"),
        ("min", "1.0"),
        ("max", "16777216.0"),
        ("growth_factor", "2.0"),
        ("backoff_factor", "0.5"),
        ("growth_interval", "1000"),
        ("hysteresis", "2"),
    ] {
        assert_eq!(of(&default, key).as_deref(), Some(value), "{key}");
    }
    let given = scaled("grad_scaler = dict(fp16=dict(initial_scale=2**10, min_scale=None), hysteresis=4)");
    assert_eq!(of(&given, "initial").as_deref(), Some("1024.0"));
    assert_eq!(of(&given, "min"), None, "no bound");
    assert_eq!(of(&given, "hysteresis").as_deref(), Some("4"));
}

#[test]
fn layouts_are_mapped() {
    check(&[
        ("parallel", "zero1=8", "parallel.zero", "{ stage = 1, size = 8 }"),
        ("parallel", "zero1=dict(size=-1, fsdp=False)", "parallel.zero", "{ stage = 1, size = -1 }"),
        ("parallel", "zero1=1", "parallel.zero", "{ stage = 0 }"),
        ("parallel", "zero1=0", "parallel.zero", "{ stage = 0 }"),
        ("parallel", "tensor=2", "parallel.tensor", "{ size = 2, mode = 'mtp' }"),
        ("parallel", "tensor=dict(size=4)", "parallel.tensor", "{ size = 4, mode = 'mtp' }"),
        ("parallel", "tensor=dict(size=4, mode='fsp')", "parallel.tensor", "{ size = 4, mode = 'fsp' }"),
        ("parallel", "pipeline=4", "parallel.pipeline", "{ size = 4, schedule = '1f1b' }"),
        ("parallel", "pipeline=dict(size=2, mode='ZBV')", "parallel.pipeline", "{ size = 2, schedule = 'zbv' }"),
        ("parallel", "pipeline=dict(size=2, mode='ZBH1')", "parallel.pipeline", "{ size = 2, schedule = 'zb-h1' }"),
        ("parallel", "zero1=dict(size=8, fsdp=True)", "parallel.zero", "{ stage = 3, size = 8 }"),
        ("parallel", "zero1=dict(size=-1, fsdp=True)", "parallel.zero", "{ stage = 3, size = -1 }"),
        ("parallel", "tensor=dict(size=2, mode='isp'), weight=dict(size=4)", "parallel.weight", "{ size = 4 }"),
    ]);
}

#[test]
fn checkpoints_are_mapped() {
    let info = "load_ckpt_info=dict(path='local:hf', content=('model',), ckpt_type='hf_llama')";
    check(&[
        ("ckpt", "enable_save_ckpt=True, save_ckpt_folder='local:out', checkpoint_every=3", "output", "'out'"),
        ("ckpt", "enable_save_ckpt=True, save_ckpt_folder='out', checkpoint_every=3", "checkpoint.every", "3"),
        ("ckpt", "enable_save_ckpt=True, save_ckpt_folder='out', checkpoint_every=3", "checkpoint.keep_last", "5"),
        ("ckpt", "checkpoint_every=3", "checkpoint.keep_last", "-"),
        ("ckpt", "checkpoint_every=float('inf')", "checkpoint.every", "-"),
        ("ckpt", "save_ckpt_folder=None", "output", "-"),
        ("ckpt", "oss_snapshot_freq=25", "checkpoint.snapshot_every", "25"),
        ("ckpt", "oss_snapshot_freq=1", "checkpoint.snapshot_every", "-"),
        ("ckpt", "oss_snapshot_freq=float('inf')", "checkpoint.snapshot_every", "-"),
        ("ckpt", "stop_file_path='local:halt'", "checkpoint.stop_file", "'halt'"),
        ("ckpt", "stop_file_path=None", "checkpoint.stop_file", "-"),
        ("ckpt", "auto_resume=True", "checkpoint.auto_resume", "true"),
        ("ckpt", "auto_resume=None", "checkpoint.auto_resume", "true"),
        ("ckpt", "auto_resume=None, load_given_ckpt=True", "checkpoint.auto_resume", "false"),
        ("ckpt", info, "model", "{ init_from = 'hf' }"),
        // Going on from the newest checkpoint comes first.
        ("ckpt", &format!("auto_resume=True, {info}"), "model.init_from", "-"),
        ("ckpt", "load_ckpt_info=None", "model.init_from", "-"),
        ("ckpt", "load_ckpt_info=dict(path=None, ckpt_type='internevo')", "model.init_from", "-"),
        ("ckpt", "auto_resume=True, load_ckpt_folder='local:old'", "model.init_from", "-"),
    ]);
}

/// Section, what is added, what the refusal says.
#[test]
fn what_is_not_supported_is_refused_with_its_line() {
    let ckpt = |kind: &str| format!("load_ckpt_info=dict(path='local:x', content=('model',), ckpt_type={kind:?})");
    let rows: &[(&str, &str, &str)] = &[
        ("", "model_type = 'GEMMA'", "model_type = \"GEMMA\" is not mapped"),
        ("model", "drop_rate=0.1", "model.drop_rate = 0.1 is not possible here: there is no dropout; use 0"),
        ("model", "attn_drop_rate=0.1", "model.attn_drop_rate"),
        ("model", "residual_in_fp32=True", "model.residual_in_fp32"),
        ("model", "apply_post_layer_norm=True", "model.apply_post_layer_norm"),
        ("model", "deepnorm=True", "model.deepnorm"),
        ("model", "is_reward=True", "model.is_reward"),
        ("model", "init_type='uniform'", "model.init_type = 'uniform'"),
        ("model", "norm_type='batchnorm'", "model.norm_type = \"batchnorm\""),
        ("model", "dtype='bfloat16'", "model.dtype = \"bfloat16\": there are torch.bfloat16"),
        ("model", "checkpoint=1.5", "model.checkpoint = 1.5: must be True, False or a part"),
        ("model", "checkpoint='all'", "model.checkpoint = 'all'"),
        ("model", "mlp_ratio=-1", "is no size"),
        ("model", "mlp_ratio=1e300", "is no size"),
        ("model", "hidden_size=0", "model.hidden_size = 0: must be at least 1"),
        ("model", "hidden_size='big'", "model.hidden_size = 'big': must be a whole number"),
        ("model", "hidden_size=4096.0", "model.hidden_size = 4096.0: must be a whole number"),
        ("model", "adapt_hf=1", "model.adapt_hf = 1: must be True or False"),
        ("model", "adapt_hf=True, qk_interleaved=True", "contradicts model.adapt_hf"),
        ("model", "hiden_size=3", "model.hiden_size is not a key that is known here; did you mean model.hidden_size?"),
        ("", "model_type = 'LLAMA2'\nmodel = dict(model, norm_head=True)", "only INTERNLM2_PUBLIC has it"),
        ("", "model_type = 'LLAMA2'\nmodel = dict(model, use_dynamic_ntk_rope=True)", "LLAMA2 does not have it"),
        ("", "model_type = 'INTERNLM'\nmodel = dict(model, no_bias=True)", "INTERNLM always has biases"),
        ("", "model_type = 'INTERNLM'\nmodel = dict(model, adapt_hf=False)", "rotary pairs in halves"),
        ("", "model_type = 'INTERNLM'\nmodel = dict(model, num_kv_attention_heads=2)", "has as many as heads"),
        ("", "model_type = 'INTERNLM'\nmodel = dict(model, embedding_init_std=1)", "is not a key that is known here"),
        (
            "model",
            "num_experts=4, moe_type='GShard'",
            "not supported yet: model.num_experts (line 15), model.moe_type (line 15)",
        ),
        (
            "",
            "model_type = 'INTERNLM_MoE'\nmoe = dict(top_k=2)",
            "not supported yet: model_type (line 15), moe (line 16)",
        ),
        ("data", "total_steps=None", "data.total_steps is missing"),
        ("data", "total_steps=0", "data.total_steps = 0: must be at least 1"),
        ("data", "type='streaming'", "data.type = 'streaming' is not possible here"),
        ("data", "use_packed_dataset=False", "data.use_packed_dataset = False"),
        ("data", "gradient_accumulation=3", "is not data.micro_num = 1"),
        ("data", "rampup_batch_size='2 2'", "must be three whole numbers"),
        ("data", "rampup_batch_size='2 0 5'", "must be three whole numbers"),
        ("data", "train_folder='boto3:s3://bucket.x/y'", "object storage (boto3:) is not supported"),
        ("data", "train_folder='local:'", "names no folder"),
        ("data", "valid_every=1, valid_folder='x'", "give both folders, or none"),
        ("data", "min_length_dict={'a': 'b'}", "must be a dict of whole numbers"),
        ("data", "seed=-1", "data.seed = -1: must be at least 0"),
        ("ckpt", "enable_save_ckpt=True, checkpoint_every=1", "ckpt.save_ckpt_folder is missing"),
        ("ckpt", "enable_save_ckpt=True, save_ckpt_folder='x'", "ckpt.checkpoint_every is missing"),
        ("ckpt", "oss_snapshot_freq=2.5", "ckpt.oss_snapshot_freq = 2.5: must be a whole number of steps"),
        ("ckpt", "checkpoint_every=0", "ckpt.checkpoint_every = 0: must be a whole number of steps"),
        ("ckpt", "save_ckpt_folder='volc:vc://b.e/p'", "object storage (volc:)"),
        ("ckpt", &ckpt("internevo"), "holds pickled Python objects"),
        ("ckpt", &ckpt("llama"), "holds pickled Python objects"),
        ("ckpt", &ckpt("other"), "is not known; use \"hf_llama\""),
        ("ckpt", "load_ckpt_info=dict(path='x', content=('all',), ckpt_type='hf_llama')", "has only the model"),
        ("ckpt", "load_ckpt_info='x'", "must be a dict, or None"),
        ("ckpt", "load_ckpt_folder='local:old'", "holds pickled Python objects"),
        ("ckpt", "load_model_only_folder='local:old'", "holds pickled Python objects"),
        ("ckpt", "load_ckpt_info=dict(pth='x')", "did you mean ckpt.load_ckpt_info.path?"),
        ("adam", "lr=None", "adam.lr is missing"),
        ("adam", "lr=float('inf')", "adam.lr = inf: must be a finite number"),
        ("adam", "beta1=0.9", "adam.beta1 is not a key"),
        ("beta2_scheduler", "cur_iter=5", "beta2_scheduler.cur_iter = 5"),
        ("lr_scheduler", "total_steps=20", "is not data.total_steps = 10: the cosine ends with the run"),
        ("lr_scheduler", "warmup_ratio=1.5", "lr_scheduler.warmup_ratio = 1.5"),
        ("lr_scheduler", "last_epoch=3", "lr_scheduler.last_epoch = 3"),
        ("hybrid_zero_optimizer", "clip_grad_norm=None", "clip_grad_norm is missing"),
        ("hybrid_zero_optimizer", "clip_grad_norm=-1", "must not be negative"),
        ("grad_scaler", "growth_factor='x'", "grad_scaler.growth_factor = 'x': must be a positive number"),
        ("grad_scaler", "fp16=dict(initial_scal=1)", "did you mean grad_scaler.fp16.initial_scale?"),
        ("parallel", "tensor=dict(size=2, mode='2d')", "there are mtp, msp, fsp and isp"),
        ("parallel", "tensor=dict(size=0)", "parallel.tensor.size = 0: must be at least 1"),
        ("parallel", "tensor='2'", "parallel.tensor = '2': must be a dict"),
        ("parallel", "weight=dict(size=2)", "parallel.weight.size = 2 needs isp"),
        ("parallel", "pipeline=dict(size=2, mode='GPIPE')", "there are 1F1B, ZBH1 and ZBV"),
        ("parallel", "sequence_2D=dict(enable=True)", "parallel.sequence_2D.enable = True"),
        ("", "batch_count = 7", "batch_count = 7 is not possible here"),
        ("", "modle = dict()", "modle is not a key that is known here; did you mean model?"),
        ("", "monitor = dict(alert=dict(adress=1))", "monitor.alert.adress is not a key"),
        ("", "enable_tb = 'yes'", "enable_tb = 'yes': must be True or False"),
    ];
    for (section, more, needle) in rows {
        let problems = convert(&with(section, more)).expect_err(more);
        assert!(problems.iter().any(|p| p.contains(needle)), "{section} {more}: {problems:#?}");
        assert!(problems.iter().all(|p| p.starts_with("run.py:")), "{section} {more}: {problems:#?}");
    }
}

#[test]
fn refusals_name_the_line_of_the_key() {
    let text = SMALL.replace("num_layers=4", "num_layers=4,\n    drop_rate=0.5");
    let line = text.lines().position(|line| line.contains("drop_rate")).unwrap() + 1;
    let problems = convert(&text).unwrap_err();
    assert!(problems[0].starts_with(&format!("run.py:{line}: model.drop_rate")), "{problems:#?}");
}

#[test]
fn constants_and_what_others_are_computed_from_are_free() {
    let text = format!("{SMALL}NUM_LAYER = 3\nMoE = 1\n_private = 1\nhalf = 2\nWIDTH = half * 2\n");
    let problems = convert(&text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("MoE is not a key"), "{problems:#?}");
}

/// What has no effect is said, once a reason, with keys and lines; what is off is not worth a word.
#[test]
fn notes_say_what_has_no_effect() {
    let text = with("ckpt", "async_upload=True, oss_snapshot_freq=25, stop_file_path=None");
    let notes = converted(&format!("{text}use_fp32_norm = False\ncudnn_benchmark = True\n")).notes;
    let expected = [
        "ckpt.async_upload (line 15): no effect: checkpoints and the snapshots between them",
        "cudnn_benchmark (line 17): no effect: cuDNN is not used",
    ];
    for needle in expected {
        assert_eq!(notes.iter().filter(|note| note.starts_with(needle)).count(), 1, "{needle}: {notes:#?}");
    }
    assert!(!notes.iter().any(|note| note.contains("use_fp32_norm") || note.contains("stop_file")), "{notes:#?}");
    let notes = converted(&with("model", "ffn_other_init_std=0.5, embedding_init_std=0.02")).notes;
    assert!(notes.iter().any(|note| note.starts_with("model.ffn_other_init_std (line 15): all matrices begin")));
    assert!(!notes.iter().any(|note| note.contains("embedding_init_std")), "{notes:#?}");
}
