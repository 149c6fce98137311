// Sums over ranks that are threads on one card: their tensors are addresses.
//
// The order is that of a balanced binary tree over the members in group-rank order, see `comm/src/tree.rs`: the left side is
// the largest power of two that is smaller than the number of terms. The sum is in REAL and rounded once.
//
// Types: X_T of the terms; packs of VEC; TERMS and RESULTS, how many addresses there are of each.
#include "prelude.cuh"

template <u32 N> struct Addresses {
    X_T *of[N];
};
struct Sums {
    real_t of[VEC];
};

// Of N terms, elements `at` and following.
template <u32 N> DEVICE Sums tree(X_T *const *terms, u64 at) {
    Sums sums;
    if constexpr (N == 1) {
        widen(load<VEC>(terms[0] + at), sums.of);
    } else {
        constexpr u32 left = N > 32 ? 32 : N > 16 ? 16 : N > 8 ? 8 : N > 4 ? 4 : N > 2 ? 2 : 1;
        sums = tree<left>(terms, at);
        Sums right = tree<N - left>(terms + left, at);
        for (int j = 0; j < VEC; j++) sums.of[j] += right.of[j];
    }
    return sums;
}

// terms, each of `packs` packs -> each of the results. A result may be where a term is.
KERNEL tree_sum(Addresses<TERMS> terms, Addresses<RESULTS> results, u64 packs) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    if (at >= packs * VEC) return;
    Sums sums = tree<TERMS>(terms.of, at);
    Pack<X_T, VEC> out;
    narrow(out, sums.of);
#pragma unroll
    for (u32 i = 0; i < RESULTS; i++) store(results.of[i] + at, out);
}
ENTRY(tree_sum)
