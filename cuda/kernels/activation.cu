// The inside of an MLP: a nonlinearity f, alone or gating (Shazeer 2020).
//
//   gated:    s = f(gate) up        dgate = ds up f'(gate)        dup = ds f(gate)
//   plain:    s = f(h)              dh    = ds f'(h)
//
// Types: H_T of h, S_T of s and ds; packs of VEC. BY is the nonlinearity: silu, gelu or gelu_tanh.
#include "prelude.cuh"

// f(x) and f'(x)
struct Curve {
    real_t value, slope;
};

// x sigma(x); far below zero exp is infinite and sigma zero, as it should be.
DEVICE Curve silu(real_t x) {
    real_t sigma = inverse_quick(1 + exp_quick(-x));
    return {x * sigma, sigma * (1 + x * (1 - sigma))};
}
// x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2
DEVICE Curve gelu(real_t x) {
    const real_t half = (real_t)0.5, root = (real_t)0.70710678118654752, density = (real_t)0.39894228040143268;
    real_t phi = half * (1 + erf_of(x * root));
    return {x * phi, phi + x * exp_quick(-half * x * x) * density};
}
// x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + c x^3) (Hendrycks & Gimpel 2016)
DEVICE Curve gelu_tanh(real_t x) {
    const real_t half = (real_t)0.5, c = (real_t)0.044715, k = (real_t)0.79788456080286536;
    real_t tanh = tanh_quick(k * (x + c * x * x * x)), slope_u = k * (1 + 3 * c * x * x);
    return {half * x * (1 + tanh), half * (1 + tanh) + half * x * (1 - tanh * tanh) * slope_u};
}

// The pack of this thread among `packs`.
DEVICE u32 pack_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// h (T, 2F) = gate | up -> s (T, F). Rows are of `f` packs.
KERNEL gated(const H_T *h, S_T *s, u32 f, u32 packs) {
    u32 i = pack_number();
    if (i >= packs) return;
    const H_T *row = h + ((u64)(i / f) * 2 * f + i % f) * VEC;
    real_t gate[VEC], up[VEC];
    auto gate_pack = load<VEC>(row);
    auto up_pack = load<VEC>(row + (u64)f * VEC);
    widen(gate_pack, gate);
    widen(up_pack, up);
    for (int j = 0; j < VEC; j++) gate[j] = BY(gate[j]).value * up[j];
    Pack<S_T, VEC> out;
    narrow(out, gate);
    store(s + (u64)i * VEC, out);
}
ENTRY(gated)

// ds (T, F) -> h (T, 2F) becomes its gradient
KERNEL gated_backward(const S_T *ds, H_T *h, u32 f, u32 packs) {
    u32 i = pack_number();
    if (i >= packs) return;
    H_T *row = h + ((u64)(i / f) * 2 * f + i % f) * VEC;
    real_t d[VEC], gate[VEC], up[VEC];
    auto d_pack = load<VEC>(ds + (u64)i * VEC);
    auto gate_pack = load<VEC>(row);
    auto up_pack = load<VEC>(row + (u64)f * VEC);
    widen(d_pack, d);
    widen(gate_pack, gate);
    widen(up_pack, up);
    for (int j = 0; j < VEC; j++) {
        Curve by = BY(gate[j]);
        gate[j] = d[j] * up[j] * by.slope;
        up[j] = d[j] * by.value;
    }
    narrow(gate_pack, gate);
    narrow(up_pack, up);
    store(row, gate_pack);
    store(row + (u64)f * VEC, up_pack);
}
ENTRY(gated_backward)

// h -> s
KERNEL activation(const H_T *h, S_T *s, u32 packs) {
    u32 i = pack_number();
    if (i >= packs) return;
    real_t x[VEC];
    widen(load<VEC>(h + (u64)i * VEC), x);
    for (int j = 0; j < VEC; j++) x[j] = BY(x[j]).value;
    Pack<S_T, VEC> out;
    narrow(out, x);
    store(s + (u64)i * VEC, out);
}
ENTRY(activation)

// ds -> h becomes its gradient
KERNEL activation_backward(const S_T *ds, H_T *h, u32 packs) {
    u32 i = pack_number();
    if (i >= packs) return;
    real_t d[VEC], x[VEC];
    auto d_pack = load<VEC>(ds + (u64)i * VEC);
    auto x_pack = load<VEC>(h + (u64)i * VEC);
    widen(d_pack, d);
    widen(x_pack, x);
    for (int j = 0; j < VEC; j++) x[j] = d[j] * BY(x[j]).slope;
    narrow(x_pack, x);
    store(h + (u64)i * VEC, x_pack);
}
ENTRY(activation_backward)
