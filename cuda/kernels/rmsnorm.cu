// RMSNorm: y = x rstd (w + offset), rstd = 1 / sqrt(mean(x^2) + eps).
// Types: X_T of x, W_T of w, Y_T of y, S_T of rstd; packs of VEC.
#include "prelude.cuh"

// A block for each row.
KERNEL rmsnorm(const X_T *x, const W_T *w, Y_T *y, S_T *rstd, u64 d, double eps, double offset) {
    __shared__ real_t room[32];
    x += blockIdx.x * d;
    y += blockIdx.x * d;
    real_t sum = 0;
    for (u64 i = threadIdx.x * VEC; i < d; i += blockDim.x * VEC) {
        auto pack = load<VEC>(x + i);
        for (int j = 0; j < VEC; j++) {
            real_t xj = real(pack.of[j]);
            sum += xj * xj;
        }
    }
    real_t r = 1 / sqrt_of(block_sum(sum, room) / (real_t)d + (real_t)eps);
    if (threadIdx.x == 0) narrow(rstd[blockIdx.x], r);
    for (u64 i = threadIdx.x * VEC; i < d; i += blockDim.x * VEC) {
        auto in = load<VEC>(x + i);
        auto weight = load<VEC>(w + i);
        Pack<Y_T, VEC> out;
        for (int j = 0; j < VEC; j++) narrow(out.of[j], real(in.of[j]) * r * (real(weight.of[j]) + (real_t)offset));
        store(y + i, out);
    }
}
ENTRY(rmsnorm)
