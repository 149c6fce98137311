// The heads of each of PARTS ranks side by side: (rows, HEADS, DIM) <-> (PARTS, rows, OWN, DIM). A row has QUERIES queries, then
// KEYS keys and as many values; a part has OWN_QUERIES and twice OWN_KEYS of them. Neighbours may have the same key head.
// Types: X_T of what is read, Y_T of what is written; packs of VEC.
#include "prelude.cuh"

const u32 HEADS = QUERIES + 2 * KEYS, OWN = OWN_QUERIES + 2 * OWN_KEYS;
// Packs of a thread, all under way at once, a block apart from each other.
const u32 PACKS = 4;

// The first key head of a part.
DEVICE int first_key(int part) { return part * KEYS / PARTS; }

// The head that a part has as its own.
DEVICE int whole_of(int part, int own) {
    if (own < OWN_QUERIES) return part * OWN_QUERIES + own;
    own -= OWN_QUERIES;
    return QUERIES + first_key(part) + (own < OWN_KEYS ? own : KEYS + own - OWN_KEYS);
}

// The place of a head among a part's own, -1 if it is not there.
DEVICE int own_of(int part, int head) {
    if (head < QUERIES) return head / OWN_QUERIES == part ? head % OWN_QUERIES : -1;
    bool value = head >= QUERIES + KEYS;
    int key = head - QUERIES - (value ? KEYS : 0) - first_key(part);
    return 0 <= key && key < OWN_KEYS ? OWN_QUERIES + (value ? OWN_KEYS : 0) + key : -1;
}

// y (PARTS, rows, OWN, DIM): a block for PACKS * blockDim.x packs of it.
KERNEL __launch_bounds__(256) split_heads(const X_T *x, Y_T *y, u32 rows) {
    const u32 PACKS_OF_ROW = OWN * DIM / VEC;
    u32 n = PARTS * rows * PACKS_OF_ROW, first = blockIdx.x * (PACKS * blockDim.x) + threadIdx.x;
    Pack<X_T, VEC> in[PACKS];
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
        u32 pack = first + p * blockDim.x;
        if (pack >= n) continue;
        u32 row = pack / PACKS_OF_ROW, column = pack % PACKS_OF_ROW * VEC;
        int head = whole_of(row / rows, column / DIM);
        in[p] = load<VEC>(x + ((u64)(row % rows) * HEADS + head) * DIM + column % DIM);
    }
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
        u32 pack = first + p * blockDim.x;
        if (pack >= n) continue;
        Pack<Y_T, VEC> out;
        for (u32 j = 0; j < VEC; j++) narrow(out.of[j], real(in[p].of[j]));
        store(y + (u64)pack * VEC, out);
    }
}
ENTRY(split_heads)

// y (rows, HEADS, DIM), the sum over the parts that have a head, in their order: a block for blockDim.x packs of it.
KERNEL __launch_bounds__(256) join_heads(const X_T *x, Y_T *y, u32 rows) {
    const u32 PACKS_OF_ROW = HEADS * DIM / VEC;
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x;
    if (pack >= rows * PACKS_OF_ROW) return;
    u32 row = pack / PACKS_OF_ROW, column = pack % PACKS_OF_ROW * VEC;
    real_t sum[VEC] = {};
    for (int part = 0; part < PARTS; part++) {
        int own = own_of(part, column / DIM);
        if (own < 0) continue;
        auto in = load<VEC>(x + (((u64)part * rows + row) * OWN + own) * DIM + column % DIM);
        for (u32 j = 0; j < VEC; j++) sum[j] += real(in.of[j]);
    }
    Pack<Y_T, VEC> out;
    for (u32 j = 0; j < VEC; j++) narrow(out.of[j], sum[j]);
    store(y + (u64)pack * VEC, out);
}
ENTRY(join_heads)
