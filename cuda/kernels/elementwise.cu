// Fill, convert, add, cap. Types: X_T of what is read, Y_T of what is written; packs of VEC.
#include "prelude.cuh"

// Packs of a thread, all under way at once, a block apart from each other.
const int PACKS = 4;

// f(where a pack begins) for those of a thread that are inside of n numbers.
template <class F> DEVICE void each_pack(u64 n, F f) {
    u64 first = (u64)blockIdx.x * (PACKS * blockDim.x) + threadIdx.x;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        u64 at = (first + p * blockDim.x) * VEC;
        if (at < n) f(p, at);
    }
}

// y = value
KERNEL __launch_bounds__(256) fill(Y_T *y, u64 n, double value) {
    Pack<Y_T, VEC> out;
    for (int j = 0; j < VEC; j++) narrow(out.of[j], (real_t)value);
    each_pack(n, [&](int, u64 at) { store(y + at, out); });
}
ENTRY(fill)

// y = cap tanh(y / cap)
KERNEL __launch_bounds__(256) soft_cap(Y_T *y, u64 n, double cap, double per_cap) {
    Pack<Y_T, VEC> z[PACKS];
    each_pack(n, [&](int p, u64 at) { z[p] = load<VEC>(y + at); });
    each_pack(n, [&](int p, u64 at) {
        for (int j = 0; j < VEC; j++) narrow(z[p].of[j], (real_t)cap * tanh_of(real(z[p].of[j]) * (real_t)per_cap));
        store(y + at, z[p]);
    });
}
ENTRY(soft_cap)

#ifdef X_T
// y = x
KERNEL __launch_bounds__(256) convert(const X_T *x, Y_T *y, u64 n) {
    Pack<X_T, VEC> in[PACKS];
    each_pack(n, [&](int p, u64 at) { in[p] = load<VEC>(x + at); });
    each_pack(n, [&](int p, u64 at) {
        Pack<Y_T, VEC> out;
        for (int j = 0; j < VEC; j++) narrow(out.of[j], real(in[p].of[j]));
        store(y + at, out);
    });
}
ENTRY(convert)

// y += x
KERNEL __launch_bounds__(256) add(const X_T *x, Y_T *y, u64 n) {
    Pack<X_T, VEC> in[PACKS];
    Pack<Y_T, VEC> sum[PACKS];
    each_pack(n, [&](int p, u64 at) {
        in[p] = load<VEC>(x + at);
        sum[p] = load<VEC>(y + at);
    });
    each_pack(n, [&](int p, u64 at) {
        for (int j = 0; j < VEC; j++) narrow(sum[p].of[j], real(sum[p].of[j]) + real(in[p].of[j]));
        store(y + at, sum[p]);
    });
}
ENTRY(add)
#endif
