# What runs share.
DO_ALERT = 1 > 2
SEQ_LEN = 1 << 11

enable_tb = False
tensorboard_folder = "events"
resume_tb_folder = None
tensorboard = dict(queue_max_length=1)
cudnn_benchmark = False
cudnn_deterministic = False
use_fp32_norm = True
output_tf32 = True
only_load_lr = True
batch_count = 0
gradient_handler = [dict(type="PipelineSharedModuleGradientHandler")]
alert_address = "https://example.com/alert"
metric_dtype = "fp32"
generation = dict(eos_id=[2, 0], bos_id=1)
grad_profiling = dict(grad_norm_profiling=False, interval_steps=5)

grad_scaler = dict(
    fp16=dict(initial_scale=2**14, min_scale=1, growth_interval=500),
    growth_factor=2,
    backoff_factor=0.5,
    max_scale=2**24,
    hysteresis=3,
)
