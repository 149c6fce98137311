// What the losses have in common: a row of logits, what a pass over it finds, and what makes a gradient of it.
//
// Types: X_T of logits; packs of VEC. CAPPED: whether logits are capped, z <- cap tanh(z / cap); SUMMED: whether sum z is
// wanted, for the smoothing of labels.
#pragma once
#include "prelude.cuh"

const u32 NO_LABEL = 0xffffffffu;
// Below all logits, and finite, so that a difference from it is a number.
const real_t LOWEST = sizeof(real_t) == 8 ? (real_t)-1.7e308 : (real_t)-3.4e38;

// The error of `tanh_quick` near zero is no harm: cap tanh is a logit, of which only differences count.
DEVICE real_t capped(real_t z, real_t cap) { return CAPPED ? cap * tanh_quick(z * (1 / cap)) : z; }
// What a gradient is multiplied by on its way through the cap.
DEVICE real_t slope_of_cap(real_t capped, real_t cap) {
    real_t tanh = capped * (1 / cap);
    return CAPPED ? 1 - tanh * tanh : 1;
}

// max z and sum exp(z - max), one pack after the other; the sum is rescaled when the maximum grows (Milakov & Gimelshein
// 2018).
struct Softmax {
    real_t max, total;
    DEVICE void add(const real_t (&z)[VEC]) {
        real_t larger = max;
        for (int j = 0; j < VEC; j++) larger = max_of(larger, z[j]);
        total *= exp_quick(max - larger);
        for (int j = 0; j < VEC; j++) total += exp_quick(z[j] - larger);
        max = larger;
    }
};

struct Seen {
    Softmax softmax;
    // sum z, or 0 if it is not wanted.
    double sum;
};

// Packs that a thread loads before it waits for one of them.
const u32 DEEP = 4;

// The first `filled` elements of a row, by a block. Up to `kept` elements stay in shared memory; with CAP_IN_PLACE the
// capped logits replace the others.
template <bool CAP_IN_PLACE> DEVICE Seen see(X_T *z, u32 filled, X_T *in_shared, u32 kept, real_t cap) {
    __shared__ real_t room[32];
    __shared__ double wide_room[32];
    Softmax own = {LOWEST, 0};
    double sum = 0;
    u32 turn = blockDim.x * VEC;
    for (u32 at = threadIdx.x * VEC; at < filled; at += DEEP * turn) {
        Pack<X_T, VEC> packs[DEEP];
#pragma unroll
        for (u32 k = 0; k < DEEP; k++)
            if (at + k * turn < filled) packs[k] = load<VEC>(z + at + k * turn);
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            u32 i = at + k * turn;
            if (i >= filled) continue;
            if (i < kept) store(in_shared + i, packs[k]);
            real_t zs[VEC], sum_here = 0;
            widen(packs[k], zs);
            for (int j = 0; j < VEC; j++) zs[j] = capped(zs[j], cap);
            // Only the last pack has elements that are not there.
            if (i + VEC > filled)
                for (int j = 0; j < VEC; j++) zs[j] = i + j < filled ? zs[j] : LOWEST;
            own.add(zs);
            if constexpr (SUMMED) {
                for (int j = 0; j < VEC; j++) sum_here += i + j < filled ? zs[j] : 0;
                sum += sum_here;
            }
            if constexpr (CAP_IN_PLACE) {
                Pack<X_T, VEC> out;
                narrow(out, zs);
                for (int j = 0; j < VEC; j++)
                    if (i + j >= filled) out.of[j] = packs[k].of[j];
                store(z + i, out);
            }
        }
    }
    real_t max = block_max(own.max, room);
    real_t total = block_sum(own.total * exp_quick(own.max - max), room);
    return {{max, total}, SUMMED ? block_sum(sum, wide_room) : 0};
}

DEVICE void zero_row(X_T *z, u32 v) {
    Pack<X_T, VEC> zeros;
    for (int j = 0; j < VEC; j++) narrow(zeros.of[j], (real_t)0);
    for (u32 i = threadIdx.x * VEC; i < v; i += blockDim.x * VEC) store(z + i, zeros);
}
