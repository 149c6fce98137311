// x -> sums (ceil(len / chunk)) f64: sum x^2 of each chunk.
// Types: X_T of x; packs of VEC.
#include "prelude.cuh"

// What a thread adds in one go. VEC follows from where x lies, and may not change the order of a sum.
const u32 RUN = sizeof(X_T) == 8 ? 4 : 16 / sizeof(X_T);
// Runs that a thread loads before it adds one of them.
const u32 DEEP = 4;

// Elements i .. i + VEC of x (n), zeros behind its end.
DEVICE Pack<X_T, VEC> load_up_to(u32 n, const X_T *x, u32 i) {
    if (i + VEC <= n) return load<VEC>(x + i);
    Pack<X_T, VEC> pack;
    for (u32 j = 0; j < VEC; j++) {
        narrow(pack.of[j], 0);
        if (i + j < n) pack.of[j] = x[i + j];
    }
    return pack;
}

// A block for each chunk, whose size is what the block's follows from.
KERNEL sum_squares(const X_T *x, double *sums, u64 len, u32 chunk) {
    __shared__ double room[32];
    u64 start = (u64)blockIdx.x * chunk;
    u32 n = (u32)min_of((u64)chunk, len - start), turn = blockDim.x * RUN;
    double sum = 0;
    for (u32 at = threadIdx.x * RUN; at < n; at += DEEP * turn) {
        Pack<X_T, VEC> runs[DEEP][RUN / VEC];
#pragma unroll
        for (u32 k = 0; k < DEEP; k++)
            for (u32 j = 0; j < RUN; j += VEC) runs[k][j / VEC] = load_up_to(n, x + start, at + k * turn + j);
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            for (u32 j = 0; j < RUN; j++) {
                double xj = real(runs[k][j / VEC].of[j % VEC]);
                sum += xj * xj;
            }
        }
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
ENTRY(sum_squares)
