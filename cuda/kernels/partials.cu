// The end of a sum over rows: partials (n, width) -> y (width) = or += their sum. Types: Y_T of y.
#include "prelude.cuh"

// A block of 32 warps for 32 columns: the warps take rows in turns, then each joins what all have of one column. The order
// follows from n alone.
KERNEL __launch_bounds__(1024) add_partials(const real_t *partials, Y_T *y, u32 n, u32 width, u32 acc) {
    // A column more, so that a warp reads a column of it from 32 banks.
    __shared__ real_t sums[WARP][WARP + 1];
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 column = blockIdx.x * WARP + lane;
    real_t sum = 0;
    if (column < width) {
#pragma unroll 8
        for (u32 row = warp; row < n; row += WARP) sum += partials[(u64)row * width + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    sum = warp_sum(sums[lane][warp]);
    column = blockIdx.x * WARP + warp;
    if (lane == 0 && column < width) narrow(y[column], acc ? real(y[column]) + sum : sum);
}
ENTRY(add_partials)
