// Tokens in the order of their rows of the vocabulary, those of one row in their own order: what makes the gradient of an
// embedding a sum over neighbours, in an order that follows from the ids.
//
// A token becomes a key, its row above its number, so no two are equal and every right sort ends the same: blocks sort
// tiles of TILE keys, then a key's place is the number of smaller ones in all tiles.
#include "prelude.cuh"

// Behind all keys.
const u64 LAST = ~(u64)0;
// Threads of a tile.
const u32 PAIRS = TILE / 2;

// ids (t) -> keys (tiles, TILE), each tile in order, the last one filled up. A token without a row among `rows` from `first`
// on has the row behind them. Bitonic, a pair of keys for each thread.
KERNEL __launch_bounds__(PAIRS) sort_tiles(const u32 *ids, u64 *keys, u32 t, u64 first, u32 rows) {
    __shared__ u64 tile[TILE];
    for (u32 i = threadIdx.x; i < TILE; i += PAIRS) {
        u32 token = blockIdx.x * TILE + i;
        u64 key = LAST;
        if (token < t) {
            u64 row = min_of((u64)ids[token] - first, (u64)rows);
            key = row << 32 | token;
        }
        tile[i] = key;
    }
    for (u32 run = 2; run <= TILE; run *= 2) {
        for (u32 apart = run / 2; apart > 0; apart /= 2) {
            __syncthreads();
            // Each thread has a pair so far apart; runs rise and fall in turns.
            u32 low = 2 * threadIdx.x - (threadIdx.x & (apart - 1)), high = low + apart;
            u64 a = tile[low], b = tile[high];
            if ((a > b) == ((low & run) == 0)) {
                tile[low] = b;
                tile[high] = a;
            }
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < TILE; i += PAIRS) keys[(u64)blockIdx.x * TILE + i] = tile[i];
}
ENTRY(sort_tiles)

// keys (tiles, TILE) -> sorted (t)
KERNEL __launch_bounds__(256) merge_tiles(const u64 *keys, u64 *sorted, u32 tiles) {
    // Tiles that are searched at once.
    const u32 BATCH = 4;
    u32 mine = blockIdx.x * 256 + threadIdx.x;
    if (mine >= tiles * TILE) return;
    u64 key = keys[mine];
    if (key == LAST) return;
    u32 place = 0;
    for (u32 first = 0; first < tiles; first += BATCH) {
        u32 smaller[BATCH] = {};
        for (u32 step = TILE / 2; step > 0; step /= 2) {
#pragma unroll
            for (u32 k = 0; k < BATCH; k++) {
                // A batch that is not full searches the last tile more than once.
                const u64 *tile = keys + min_of(first + k, tiles - 1) * TILE;
                if (tile[smaller[k] + step - 1] < key) smaller[k] += step;
            }
        }
#pragma unroll
        for (u32 k = 0; k < BATCH; k++)
            if (first + k < tiles) place += smaller[k] + (keys[(first + k) * TILE + smaller[k]] < key);
    }
    sorted[place] = key;
}
ENTRY(merge_tiles)
