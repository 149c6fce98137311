// The norm of the whole gradient, and what follows from it: the clipping factor, whether to step at all, and the next loss
// scale.
#include "prelude.cuh"

// Terms of a thread, all under way at once.
const u32 DEEP = 16;
const u32 THREADS = 512;

// The sum of this block's stretch of x (n). Zeros behind x would not change a bit.
DEVICE double sum_of_stretch(const double *x, u64 n) {
    __shared__ double room[32];
    u64 at = (u64)blockIdx.x * (DEEP * THREADS) + threadIdx.x;
    double terms[DEEP], sum = 0;
#pragma unroll
    for (u32 k = 0; k < DEEP; k++) terms[k] = at + k * THREADS < n ? x[at + k * THREADS] : 0;
#pragma unroll
    for (u32 k = 0; k < DEEP; k++) sum += terms[k];
    return block_sum(sum, room);
}

// x (n) -> sums (blocks)
KERNEL sum_stretches(const double *x, double *sums, u64 n) {
    double sum = sum_of_stretch(x, n);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
ENTRY(sum_stretches)

// sums (n), count (1), scale (3) = [S, ..] -> norm (3) = [|g| / S, factor that clips and undoes S, 1 to step or 0]. One
// block.
KERNEL grad_norm(const double *sums, const double *count, const double *scale, double *norm, u64 n, double max_norm) {
    double sum = sum_of_stretch(sums, n);
    if (threadIdx.x > 0) return;
    double length = sqrt(sum) / scale[0], infinity = bits_to_float(0x7f800000u);
    // Nothing is smaller than a NaN.
    bool step = length < infinity && count[0] > 0, clip = max_norm > 0 && length > max_norm;
    double factor = clip ? max_norm / length : 1;
    norm[0] = length;
    norm[1] = step ? factor / scale[0] : 0;
    norm[2] = step;
}
ENTRY(grad_norm)

// norm (3) as `grad_norm` wrote it -> scale (3) = [S, steps without overflow, overflows since S last grew]. One thread.
KERNEL loss_scale(const double *norm, double *scale, double min, double max, double growth, double backoff,
                  double interval, double hysteresis) {
    if (threadIdx.x > 0) return;
    double s = scale[0], good = scale[1], overflows = scale[2], infinity = bits_to_float(0x7f800000u);
    bool overflow = !(norm[0] < infinity), taken = norm[2] != 0;
    if (overflow) {
        good = 0;
        overflows += 1;
        if (overflows >= hysteresis) s = max_of(s * backoff, min);
    } else if (taken) {
        good += 1;
        if (good >= interval) {
            good = overflows = 0;
            s = min_of(s * growth, max);
        }
    }
    scale[0] = s;
    scale[1] = good;
    scale[2] = overflows;
}
ENTRY(loss_scale)
