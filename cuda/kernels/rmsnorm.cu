// RMSNorm: y = x rstd (w + offset), rstd = 1 / sqrt(mean(x^2) + eps).
// Types: X of x, W of w, Y of y, S of rstd; packs of N.
#include "prelude.cuh"

#ifndef N
#define N 1
#define X float
#define W float
#define Y float
#define S float
#endif

// A block for each row.
KERNEL rmsnorm(const X *x, const W *w, Y *y, S *rstd, u64 d, double eps, double offset) {
    __shared__ real_t room[32];
    x += blockIdx.x * d;
    y += blockIdx.x * d;
    real_t sum = 0;
    for (u64 i = threadIdx.x * N; i < d; i += blockDim.x * N) {
        auto pack = load<N>(x + i);
        for (int j = 0; j < N; j++) {
            real_t xj = real(pack.of[j]);
            sum += xj * xj;
        }
    }
    real_t r = 1 / sqrt_of(block_sum(sum, room) / (real_t)d + (real_t)eps);
    if (threadIdx.x == 0) narrow(rstd[blockIdx.x], r);
    for (u64 i = threadIdx.x * N; i < d; i += blockDim.x * N) {
        auto in = load<N>(x + i);
        auto weight = load<N>(w + i);
        Pack<Y, N> out;
        for (int j = 0; j < N; j++) narrow(out.of[j], real(in.of[j]) * r * (real(weight.of[j]) + (real_t)offset));
        store(y + i, out);
    }
}
ENTRY(rmsnorm)
