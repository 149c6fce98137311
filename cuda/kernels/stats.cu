// Labels and losses, counted and added up.
#include "prelude.cuh"

const u32 NO_LABEL = 0xffffffffu;

// labels (T) -> count (1) = or += how many there are. One block: a count is exact in any order.
KERNEL count_labels(const u32 *labels, double *count, u32 t, u32 acc) {
    __shared__ u32 room[32];
    u32 n = 0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < t; i += blockDim.x) n += labels[i] != NO_LABEL;
    n = block_sum(n, room);
    if (threadIdx.x == 0) *count = (acc ? *count : 0) + n;
}
ENTRY(count_labels)

// rows (T, 4) = loss, nll, labels, hits of each row, zeros without a label; types (T) -> stats (1 + 3 K) = or += the loss of all,
// then the other three of each type. One block, a thread for each number, which adds in the order of the rows: in how many
// calls the rows come does not change a bit.
const u32 TILE = 1024;
KERNEL add_up(const double *rows, const u32 *types, double *stats, u32 t, u32 numbers, u32 acc) {
    __shared__ double tile[TILE][4];
    __shared__ u32 kinds[TILE];
    u32 number = threadIdx.x;
    // Number 0 is of all types.
    u32 kind = number == 0 ? 0 : (number - 1) / 3, column = number == 0 ? 0 : 1 + (number - 1) % 3;
    double sum = acc && number < numbers ? stats[number] : 0;
    for (u32 at = 0; at < t; at += TILE) {
        u32 n = min_of(TILE, t - at);
        __syncthreads();
        for (u32 i = threadIdx.x; i < n * 4; i += blockDim.x) tile[i / 4][i % 4] = rows[(u64)at * 4 + i];
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) kinds[i] = types[at + i];
        __syncthreads();
        if (number >= numbers) continue;
        // Adding -0 changes nothing, so the sum alone is what the next one waits for.
#pragma unroll 8
        for (u32 i = 0; i < n; i++) sum += number == 0 || kinds[i] == kind ? tile[i][column] : -0.0;
    }
    if (number < numbers) stats[number] = sum;
}
ENTRY(add_up)
