// How scores come of products of queries and keys: s = scale q k; CAPPED: s <- cap tanh(s / cap); ALIBI: s <- s - slope (i - j).
// Both macros are 0 or 1; what they do not ask for is not compiled.
#pragma once
#include "prelude.cuh"

const double LN_2 = 0.693147180559945309417232121458, LOG2_E = 1.44269504088896340735992468100;

// ALiBi's slope of a head out of n: 2^(-8 (head + 1) / n) for a power of two; beyond the largest power of two in n, every other
// slope of twice that many heads.
DEVICE double slope_of(u32 head, u32 n) {
    u32 power = 1;
    while (power * 2 <= n) power *= 2;
    double exponent = head < power ? 8.0 * (head + 1) / power : 8.0 * (2 * (head - power) + 1) / (2 * power);
    return exp(-exponent * LN_2);
}

struct Scoring {
    real_t scale, cap, slope;
    // The score of a product, of a key `behind` tokens before the query; multiplies `gradient` by its slope over the product.
    DEVICE real_t of(real_t product, u32 behind, real_t &gradient) const {
        real_t s = scale * product;
        gradient *= scale;
        if (CAPPED) {
            real_t tanh = tanh_of(s / cap);
            gradient *= 1 - tanh * tanh;
            s = cap * tanh;
        }
        return ALIBI ? s - slope * (real_t)behind : s;
    }
};
DEVICE Scoring scoring(double scale, double cap, u32 head, u32 heads) {
    return {(real_t)scale, (real_t)cap, (real_t)(ALIBI ? slope_of(head, heads) : 0)};
}
