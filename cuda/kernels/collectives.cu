// Sums over ranks that are threads on one card: their tensors are addresses.
//
// The order is that of a balanced binary tree over the members in group-rank order, see `comm/src/tree.rs`: the left side is the
// largest power of two that is smaller than the number of terms. The sum is in REAL and rounded once.
//
// Types: X_T of the terms; packs of VEC. TERMS is how many there are; TERM_PARAMETERS declares them and TERM_NAMES
// lists their names. RESULTS, RESULT_PARAMETERS and RESULT_NAMES are the same of where the sum is written.
#include "prelude.cuh"

struct Sums {
    real_t of[VEC];
};

// Of `n` terms, elements `at` and following.
template <u32 N> DEVICE Sums tree(const X_T *const *terms, u64 at) {
    Sums sums;
    if constexpr (N == 1) {
        auto pack = load<VEC>(terms[0] + at);
        for (int j = 0; j < VEC; j++) sums.of[j] = real(pack.of[j]);
    } else {
        constexpr u32 left = N > 32 ? 32 : N > 16 ? 16 : N > 8 ? 8 : N > 4 ? 4 : N > 2 ? 2 : 1;
        sums = tree<left>(terms, at);
        Sums right = tree<N - left>(terms + left, at);
        for (int j = 0; j < VEC; j++) sums.of[j] += right.of[j];
    }
    return sums;
}

// terms (TERMS) of `packs` packs -> each of the results (RESULTS). A result may be where a term is.
KERNEL tree_sum(TERM_PARAMETERS, RESULT_PARAMETERS, u64 packs) {
    const X_T *const terms[TERMS] = {TERM_NAMES};
    X_T *const results[RESULTS] = {RESULT_NAMES};
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    if (at >= packs * VEC) return;
    Sums sums = tree<TERMS>(terms, at);
    Pack<X_T, VEC> out;
    for (int j = 0; j < VEC; j++) narrow(out.of[j], sums.of[j]);
#pragma unroll
    for (u32 i = 0; i < RESULTS; i++) store(results[i] + at, out);
}
ENTRY(tree_sum)
