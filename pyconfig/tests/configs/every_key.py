# Every key that the mapping knows, in a config that imports two others. The golden beside it is what it comes to.
from internlm.utils.common import read_base

with read_base():
    from configs._base_.runtime import *
    from configs._base_.models.small import *

JOB_NAME = "every_key"
SAVE = "local:checkpoints"
EVERY = 50
STEPS = 5000

ckpt = dict(
    enable_save_ckpt=True,
    save_ckpt_folder=SAVE,
    checkpoint_every=EVERY,
    auto_resume=True,
    load_given_ckpt=False,
    load_ckpt_info=dict(path="local:elsewhere", content=("model",), ckpt_type="internevo"),
    load_ckpt_folder="local:elsewhere",
    load_model_only_folder=None,
    load_optimizer=True,
    oss_snapshot_freq=int(EVERY / 2),
    snapshot_ckpt_folder=SAVE + "/snapshot",
    async_upload=True,
    async_upload_tmp_folder="shm/",
    stop_file_path="stop",
)

data = dict(
    type="tokenized",
    seq_len=SEQ_LEN,
    micro_num=4,
    micro_bsz=2,
    packed_length=2 * SEQ_LEN,
    batch_size=4,
    gradient_accumulation=4,
    train_folder="local:tokens/train",
    valid_folder="tokens/valid",
    valid_micro_num=8,
    valid_every=25,
    total_steps=STEPS,
    skip_batches="2-4,10",
    rampup_batch_size="2 2 500",
    pack_sample_into_one=True,
    min_length=50,
    min_length_dict={"code": 20, "en/": 100},
    fixed_random_dataset_seqlen=True,
    use_packed_dataset=True,
    num_worker=4,
    empty_cache_and_diag_interval=200,
    diag_outlier_ratio=1.1,
    seed=7,
)

loss = dict(label_smoothing=0.1, moe_loss_coeff=0.1, op_type="py_vocab_parallel")

adam = dict(lr=3e-4, adam_beta1=0.9, adam_beta2=0.95, adam_beta2_c=0, adam_eps=1e-8, weight_decay=0.01)

beta2_scheduler = dict(init_beta2=adam["adam_beta2"], c=0.6, cur_iter=-1)

lr_scheduler = dict(
    total_steps=data["total_steps"],
    init_steps=10,
    warmup_ratio=0.0333,
    eta_min=adam["lr"] / 10,
    last_epoch=-1,
)

hybrid_zero_optimizer = dict(
    overlap_sync_grad=True,
    overlap_sync_param=False,
    zero_overlap_communication=True,
    reduce_bucket_size=512 * 1024 * 1024,
    use_split_tensor_optim=False,
    all_gather_size=512 * 1024 * 1024,
    clip_grad_norm=0.5,
)

parallel = dict(
    zero1=dict(size=8, fsdp=False),
    tensor=dict(size=2, mode="isp"),
    pipeline=dict(size=2, interleaved_overlap=True, mode="1F1B"),
    weight=dict(
        size=4,
        overlap=True,
        memory_pool=True,
        launch_allgather_before="wo",
        forward_overlap_per="layer",
        early_reduce_scatter_release=True,
    ),
    sequence_parallel=True,
    gqa=True,
    sequence_2D=dict(
        enable=False,
        head_size=2,
        context_size=4,
        window_size=1,
        device_placement_strategy=dict(head_first=True, interleaved=False),
    ),
    expert=dict(size=-1),
    expert_weight=dict(size=1),
    expert_zero1=dict(size=-1),
)

monitor = dict(
    alert=dict(
        enable_feishu_alert=DO_ALERT,
        feishu_alert_address="https://example.com/hook",
        light_monitor_address=None,
        alert_file_path=f"alerts/{JOB_NAME}.log",
    ),
    tensorboard=dict(queue_max_length=10),
)
