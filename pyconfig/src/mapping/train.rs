//! `loss`, `adam`, `beta2_scheduler`, `lr_scheduler`, `grad_scaler` and `hybrid_zero_optimizer` -> `[loss]`,
//! `[optimizer]`, `[lr_schedule]`, `[precision]` and `train.clip_grad_norm`.
use super::model::Precision;
use crate::report::Report;
use crate::section::Section;
use crate::value::Value;

pub fn loss(top: &mut Section, r: &mut Report) {
    let mut loss = top.section(r, "loss");
    if let Some(given) = loss.number(r, "label_smoothing").filter(|given| given.value != 0.0) {
        r.set("loss.label_smoothing", given.value);
    }
    if let Some(node) = loss.take(r, "moe_loss_coeff") {
        r.experts.push((loss.key("moe_loss_coeff"), node.place));
    }
    loss.no_effect(r, "no effect: there is one cross-entropy, over the whole vocabulary", &["op_type"]);
    loss.end(r);
}

pub fn optimizer(top: &mut Section, params: Precision, r: &mut Report) {
    clip(top, params, r);
    let mut adam = top.section(r, "adam");
    let mut scheduler = top.section(r, "beta2_scheduler");
    match adam.number(r, "lr") {
        Some(given) => r.set("optimizer.lr", given.value),
        None => r.refuse(&adam.place, "adam.lr is missing; it has no default"),
    }
    let mut number = |key: &str, default: f64, r: &mut Report| adam.number(r, key).map_or(default, |given| given.value);
    let beta1 = number("adam_beta1", 0.9, r);
    let beta2 = number("adam_beta2", 0.95, r);
    let beta2_c = number("adam_beta2_c", 0.0, r);
    let eps = number("adam_eps", 1e-8, r);
    let weight_decay = number("weight_decay", 0.01, r);
    adam.end(r);

    // The scheduler overwrites beta2 after every step. Where it is there, its c defaults to 0.8.
    let is_there = !scheduler.is_empty();
    let init = scheduler.number(r, "init_beta2").map_or(beta2, |given| given.value);
    let c = scheduler.number(r, "c").map_or(if is_there { 0.8 } else { beta2_c }, |given| given.value);
    scheduler.only(r, "cur_iter", Value::Int(-1), "beta2 follows the step, and a run begins at step 0");
    scheduler.end(r);

    r.set("optimizer.beta1", beta1);
    r.set("optimizer.beta2", init);
    if c > 0.0 {
        r.set("optimizer.beta2_c", c);
    }
    r.set("optimizer.eps", eps);
    r.set("optimizer.weight_decay", weight_decay);
    r.set("optimizer.decay_all", true);
}

fn clip(top: &mut Section, params: Precision, r: &mut Report) {
    let mut zero = top.section(r, "hybrid_zero_optimizer");
    match zero.number(r, "clip_grad_norm") {
        Some(given) if given.value < 0.0 => {
            r.refuse(&given.place, format!("{} = {}: must not be negative; 0 means never", given.key, given.value));
        }
        Some(given) => {
            if params == Precision::F32 && given.value > 0.0 {
                r.note(&given.key, &given.place, "the original does not clip in f32; here it clips, unless it is 0");
            }
            r.set("train.clip_grad_norm", given.value);
        }
        None => r.refuse(&zero.place, "hybrid_zero_optimizer.clip_grad_norm is missing; it has no default"),
    }
    let why = "no effect: what runs beside what follows from the schedule, and a bucket is a half-block of the model";
    let keys = [
        "overlap_sync_grad",
        "overlap_sync_param",
        "zero_overlap_communication",
        "reduce_bucket_size",
        "use_split_tensor_optim",
        "all_gather_size",
    ];
    zero.no_effect(r, why, &keys);
    zero.end(r);
}

pub fn lr_schedule(top: &mut Section, steps: Option<i64>, r: &mut Report) {
    let mut lr = top.section(r, "lr_scheduler");
    let total = lr.whole(r, "total_steps");
    if let (Some(total), Some(steps)) = (&total, steps)
        && total.value != steps
    {
        let message = format!("{} = {} is not data.total_steps = {steps}", total.key, total.value);
        r.refuse(&total.place, format!("{message}: the cosine ends with the run here; make them equal"));
    }
    let ratio = lr.number(r, "warmup_ratio");
    if let Some(given) = ratio.as_ref().filter(|given| !(0.0..=1.0).contains(&given.value)) {
        r.refuse(&given.place, format!("{} = {}: must be between 0 and 1", given.key, given.value));
    }
    // int(), which rounds down.
    let warmup = (total.map_or(steps.unwrap_or(0), |total| total.value) as f64 * ratio.map_or(0.0, |r| r.value)) as i64;
    r.set("lr_schedule.kind", "cosine");
    r.set("lr_schedule.warmup_steps", warmup.max(0));
    let init = lr.count(r, "init_steps", 0).filter(|n| *n > 0);
    r.set_some("lr_schedule.init_steps", init);
    let end = lr.number(r, "eta_min").map_or(0.0, |given| given.value);
    r.set("lr_schedule.min_lr", end);
    lr.only(r, "last_epoch", Value::Int(-1), "the schedule follows the step, and a run begins at step 0");
    lr.end(r);
}

/// Dynamic loss scaling: for bf16 too, as in the original; never for f32.
pub fn precision(top: &mut Section, params: Precision, r: &mut Report) {
    let name = match params {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::F16 => "f16",
    };
    r.set("precision.params", name);
    let mut scaler = top.section(r, "grad_scaler");
    let mut fp16 = scaler.section(r, "fp16");
    let mut scale = vec![];
    let mut read = |section: &mut Section, key: &str, to: &'static str, default: f64, r: &mut Report| {
        // None: no bound, where there is one.
        let given = section.take(r, key);
        let value = match given {
            Some(node) if node.value == Value::None => None,
            Some(node) => match crate::arith::number(&node.value).filter(|x| x.is_finite() && *x > 0.0) {
                Some(x) => Some(x),
                None => {
                    r.refuse(&node.place, format!("{} = {}: must be a positive number", section.key(key), node.value));
                    None
                }
            },
            None => Some(default),
        };
        scale.extend(value.map(|x| (to, x)));
    };
    read(&mut fp16, "initial_scale", "initial", 65536.0, r);
    read(&mut fp16, "min_scale", "min", 1.0, r);
    read(&mut scaler, "max_scale", "max", 16_777_216.0, r);
    read(&mut scaler, "growth_factor", "growth_factor", 2.0, r);
    read(&mut scaler, "backoff_factor", "backoff_factor", 0.5, r);
    read(&mut fp16, "growth_interval", "growth_interval", 1000.0, r);
    read(&mut scaler, "hysteresis", "hysteresis", 2.0, r);
    fp16.end(r);
    let place = scaler.place.clone();
    scaler.end(r);
    if params == Precision::F32 {
        r.note("grad_scaler", &place, "no effect: in f32 the loss is not scaled, in the original neither");
        return;
    }
    for (key, x) in scale {
        let key = format!("precision.loss_scale.{key}");
        match key.ends_with("growth_interval") || key.ends_with("hysteresis") {
            true => r.set(&key, x as i64),
            false => r.set(&key, x),
        }
    }
}
