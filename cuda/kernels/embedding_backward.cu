// The gradient of an embedding: dw[v] = or += scale sum of dy[t] over the tokens t of row v, from tokens that are sorted by row
// (see token_sort.cu).
//
// Windows of WINDOW sorted tokens are summed by a block each, whatever rows they belong to, so that a frequent token is no
// more work than others. A run of one row that lies inside of a window is done with that; what a window has of a run that
// crosses its borders becomes a partial sum, at most two of a window: [0] of the run that it begins with, [1] of one that
// only begins in it.
// Types: DY_T of dy, DW_T of dw; WIDTH columns, of which a block has BLOCK packs of VEC.
#include "prelude.cuh"

const u32 TILE = BLOCK * VEC;
const u32 TILES = (WIDTH + TILE - 1) / TILE;
// Tokens whose rows of dy are under way at once.
const u32 BATCH = 8;

DEVICE u32 row_of(u64 key) { return (u32)(key >> 32); }
DEVICE u32 token_of(u64 key) { return (u32)key; }

// How many of n sorted keys are smaller.
DEVICE u32 count_below(const u64 *keys, u32 n, u64 key) {
    u32 low = 0, high = n;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low;
}

DEVICE void put(DW_T *dw, const real_t (&sum)[VEC], real_t scale, u32 acc) {
    Pack<DW_T, VEC> out = {};
    if (acc) out = load<VEC>(dw);
    for (u32 j = 0; j < VEC; j++) narrow(out.of[j], real(out.of[j]) + scale * sum[j]);
    store(dw, out);
}

// keys (t), dy (t, WIDTH) -> dw (rows, WIDTH), partials (windows, 2, WIDTH)
KERNEL __launch_bounds__(BLOCK)
add_windows(const u64 *keys, const DY_T *dy, DW_T *dw, real_t *partials, u32 t, u32 rows, double scale, u32 acc) {
    u32 window = blockIdx.x / TILES, column = blockIdx.x % TILES * TILE + threadIdx.x * VEC;
    if (column >= WIDTH) return;
    u32 begin = window * WINDOW, end = min_of(t, begin + WINDOW);
    bool whole = begin == 0 || row_of(keys[begin - 1]) != row_of(keys[begin]);
    real_t sum[VEC] = {};
    for (u32 first = begin; first < end; first += BATCH) {
        // Sorted, so rows that are elsewhere come last.
        if (row_of(keys[first]) >= rows) return;
        Pack<DY_T, VEC> in[BATCH];
        u64 key[BATCH + 1];
#pragma unroll
        for (u32 k = 0; k <= BATCH; k++) key[k] = first + k < t ? keys[first + k] : ~(u64)0;
#pragma unroll
        for (u32 k = 0; k < BATCH; k++)
            if (first + k < end) in[k] = load<VEC>(dy + (u64)token_of(key[k]) * WIDTH + column);
#pragma unroll
        for (u32 k = 0; k < BATCH; k++) {
            u32 row = row_of(key[k]);
            if (first + k >= end || row >= rows) break;
            for (u32 j = 0; j < VEC; j++) sum[j] += real(in[k].of[j]);
            bool over = row_of(key[k + 1]) != row;
            if (!over && first + k + 1 < end) continue;
            if (whole && over) {
                put(dw + (u64)row * WIDTH + column, sum, (real_t)scale, acc);
            } else {
                Pack<real_t, VEC> partial;
                for (u32 j = 0; j < VEC; j++) partial.of[j] = sum[j];
                store(partials + (u64)(2 * window + whole) * WIDTH + column, partial);
            }
            for (u32 j = 0; j < VEC; j++) sum[j] = 0;
            whole = true;
        }
    }
}
ENTRY(add_windows)

// The runs that cross a border of windows, each by the blocks of the window that it begins in.
KERNEL __launch_bounds__(BLOCK)
add_crossing(const u64 *keys, const real_t *partials, DW_T *dw, u32 t, u32 rows, double scale, u32 acc) {
    u32 window = blockIdx.x / TILES, column = blockIdx.x % TILES * TILE + threadIdx.x * VEC;
    u32 begin = window * WINDOW, next = begin + WINDOW;
    if (column >= WIDTH || next >= t) return;
    u32 row = row_of(keys[next]);
    bool before = begin > 0 && row_of(keys[begin - 1]) == row;
    if (row >= rows || row_of(keys[next - 1]) != row || before) return;
    u32 end = count_below(keys, t, (u64)(row + 1) << 32);
    real_t sum[VEC] = {};
    auto first = load<VEC>(partials + (u64)(2 * window + 1) * WIDTH + column);
    for (u32 j = 0; j < VEC; j++) sum[j] = first.of[j];
#pragma unroll 8
    for (u32 w = window + 1; w * WINDOW < end; w++) {
        auto more = load<VEC>(partials + (u64)(2 * w) * WIDTH + column);
        for (u32 j = 0; j < VEC; j++) sum[j] += more.of[j];
    }
    put(dw + (u64)row * WIDTH + column, sum, (real_t)scale, acc);
}
ENTRY(add_crossing)

// Zeros in the rows of dw that have no token: a block for as many rows as a warp has lanes.
KERNEL __launch_bounds__(256) zero_absent(const u64 *keys, DW_T *dw, u32 t, u32 rows) {
    __shared__ bool present[WARP];
    u32 first = blockIdx.x * WARP, count = min_of(WARP, rows - first);
    if (threadIdx.x < count) {
        u64 row = first + threadIdx.x;
        u32 at = count_below(keys, t, row << 32);
        present[threadIdx.x] = at < t && row_of(keys[at]) == row;
    }
    __syncthreads();
    Pack<DW_T, VEC> zero = {};
    for (u32 r = 0; r < count; r++) {
        if (present[r]) continue;
        DW_T *to = dw + (u64)(first + r) * WIDTH;
        for (u32 column = threadIdx.x * VEC; column < WIDTH; column += 256 * VEC) store(to + column, zero);
    }
}
ENTRY(zero_absent)
