// A bias: y += b in every row, and back: db = sum of the rows of dy.
// Types: B_T of b and Y_T of y for the way forward, DY_T of dy for the way back.
#include "rows.cuh"

#ifdef Y_T
// A block for each row.
KERNEL __launch_bounds__(BLOCK) add_bias(const B_T *b, Y_T *y) {
    y += (u64)blockIdx.x * WIDTH;
    Row<Y_T> out = load_row(y);
    Row<B_T> bias = load_row(b);
    each([&](int p, int j) { out.set(p, j, out(p, j) + bias(p, j)); });
    store_row(y, out);
}
ENTRY(add_bias)
#endif

#ifdef DY_T
// Columns of a block: a pack for each lane.
const u32 TILE = WARP * VEC;
const u32 TILES = (WIDTH + TILE - 1) / TILE;
const u32 WARPS = BLOCK / WARP;
// Rows of a lane that are under way at once.
const u32 BATCH = 8;

// dy (rows, WIDTH) -> partials (chunks, WIDTH): a block for a tile of columns of CHUNK rows, which its warps take in turns.
KERNEL __launch_bounds__(BLOCK) bias_backward(const DY_T *dy, real_t *partials, u32 rows) {
    __shared__ real_t sums[WARPS][VEC][WARP];
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 chunk = blockIdx.x / TILES, tile = blockIdx.x % TILES * TILE;
    u32 last = min_of(rows, (chunk + 1) * CHUNK);
    real_t sum[VEC] = {};
    if (tile + lane * VEC < WIDTH) {
        const DY_T *from = dy + tile + lane * VEC;
        for (u32 first = chunk * CHUNK + warp; first < last; first += BATCH * WARPS) {
            Pack<DY_T, VEC> in[BATCH] = {};
#pragma unroll
            for (u32 k = 0; k < BATCH; k++)
                if (first + k * WARPS < last) in[k] = load<VEC>(from + (u64)(first + k * WARPS) * WIDTH);
#pragma unroll
            for (u32 k = 0; k < BATCH; k++)
                for (u32 j = 0; j < VEC; j++) sum[j] += real(in[k].of[j]);
        }
    }
    for (u32 j = 0; j < VEC; j++) sums[warp][j][lane] = sum[j];
    __syncthreads();
    u32 column = threadIdx.x;
    if (column < TILE && tile + column < WIDTH) {
        real_t total = 0;
        for (u32 w = 0; w < WARPS; w++) total += sums[w][column % VEC][column / VEC];
        partials[(u64)chunk * WIDTH + tile + column] = total;
    }
}
ENTRY(bias_backward)
#endif
