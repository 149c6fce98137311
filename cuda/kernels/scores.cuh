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
