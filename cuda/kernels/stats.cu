// Labels and losses, counted and added up.
#include "prelude.cuh"

const u32 NO_LABEL = 0xffffffffu;

// Loads that a thread has under way.
const u32 DEEP = 8;
const u32 THREADS = 512;

// labels (T) -> count (1) = or += how many there are. One block: a count is exact in any order.
KERNEL count_labels(const u32 *labels, double *count, u32 t, u32 acc) {
    __shared__ u32 room[32];
    u32 n = 0;
    for (u32 at = threadIdx.x; at < t; at += DEEP * THREADS) {
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) n += at + k * THREADS < t && labels[at + k * THREADS] != NO_LABEL;
    }
    n = block_sum(n, room);
    if (threadIdx.x == 0) *count = (acc ? *count : 0) + n;
}
ENTRY(count_labels)

// rows (T, 4) = loss, nll, labels, hits of each row, zeros without a label; types (T) -> stats (1 + 3 K) = or += the loss of
// all, then the other three of each type. One block, a thread for each number, which adds in the order of the rows: in how
// many calls the rows come does not change a bit. A label of a type that is none of the K makes the loss a NaN.
KERNEL add_up(const double *rows, const u32 *types, double *stats, u32 t, u32 numbers, u32 acc) {
    const u32 tile = DEEP * THREADS / 4;
    __shared__ double row[tile][4];
    __shared__ u32 kinds[tile];
    // Number 0 is of all types.
    u32 number = threadIdx.x, kind = (number - 1) / 3, column = number == 0 ? 0 : 1 + (number - 1) % 3;
    double sum = acc && number < numbers ? stats[number] : 0;
    for (u32 at = 0; at < t; at += tile) {
        u32 n = min_of(tile, t - at);
        double loaded[DEEP];
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            u32 i = k * THREADS + threadIdx.x;
            loaded[k] = i < n * 4 ? rows[(u64)at * 4 + i] : 0;
        }
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) row[k * (THREADS / 4) + threadIdx.x / 4][threadIdx.x % 4] = loaded[k];
        for (u32 i = threadIdx.x; i < n; i += THREADS) kinds[i] = types[at + i];
        __syncthreads();
        if (number >= numbers) continue;
        // To add -0 changes nothing, so a sum is all that the next one waits for.
#pragma unroll 8
        for (u32 i = 0; i < n; i++) {
            bool counts = number == 0 ? kinds[i] < (numbers - 1) / 3 || row[i][2] == 0 : kinds[i] == kind;
            double otherwise = number == 0 ? (double)bits_to_float(0x7fc00000u) : -0.0;
            sum += counts ? row[i][column] : otherwise;
        }
    }
    if (number < numbers) stats[number] = sum;
}
ENTRY(add_up)
