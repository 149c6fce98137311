// What attention needs to know of each token before it begins.
#include "prelude.cuh"

// Which keys a query sees, and which queries see a key: token i sees first[i] <= j <= i, and j is seen by j <= i <= last[j].
// Both ascend, so the ends of a tile tell what it has to do, and no kernel after this one knows of segments or windows.
// cu_seqlens (S + 1), window <= T -> first, last (T), span [0, T]
KERNEL spans(const u32 *cu_seqlens, u32 *first, u32 *last, u32 *span, u32 segments, u32 t, u32 window) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i == 0) span[0] = 0, span[1] = t;
    if (i >= t) return;
    // The last segment that begins at or before i: those before it with the same beginning are empty.
    u32 segment = 0, after = segments;
    while (after - segment > 1) {
        u32 middle = (segment + after) / 2;
        if (cu_seqlens[middle] <= i) segment = middle;
        else after = middle;
    }
    first[i] = max_of(cu_seqlens[segment], i + 1 - min_of(window, i + 1));
    last[i] = min_of(cu_seqlens[segment + 1], i + window) - 1;
}
ENTRY(spans)

// The same of a cache, whose tokens are one segment: row i is token start + i.
KERNEL cached_spans(const u32 *span, u32 *first, u32 t, u32 window) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t) return;
    u32 seen = span[0] + i + 1;
    first[i] = seen - min_of(window, seen);
}
ENTRY(cached_spans)

#ifdef WIDTH
// Keys and values of the first n rows of qkv (T, ROW), which follow OUT numbers of queries, go to rows start .. start + n of the
// cache, k, v (C, WIDTH). Types: QKV_T, CACHE_T; packs of VEC.
KERNEL enter(const QKV_T *qkv, const u32 *span, CACHE_T *k, CACHE_T *v) {
    const u32 packs = WIDTH / VEC;
    u64 item = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = (u32)(item / (2 * packs)), pack = (u32)(item % (2 * packs));
    if (row >= span[1]) return;
    auto in = load<VEC>(qkv + (u64)row * ROW + OUT + pack * VEC);
    Pack<CACHE_T, VEC> out;
    for (int j = 0; j < VEC; j++) narrow(out.of[j], real(in.of[j]));
    store((pack < packs ? k : v) + (u64)(span[0] + row) * WIDTH + pack % packs * VEC, out);
}
ENTRY(enter)
#endif

#ifdef LANES
// o, d_o (T, N, H) -> dots (N, T) = sum of o d_o over H, which is the sum of p dp over the keys. LANES threads for a head.
// Types: O_T, DO_T, DOT_T; HEADS, DIM, packs of VEC.
KERNEL dots(const O_T *o, const DO_T *d_o, DOT_T *dots, u32 t) {
    u32 item = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    u32 token = item / HEADS, head = item % HEADS;
    real_t sum = 0;
    if (token < t) {
        for (u32 i = threadIdx.x % LANES * VEC; i < DIM; i += LANES * VEC) {
            auto x = load<VEC>(o + (u64)item * DIM + i);
            auto y = load<VEC>(d_o + (u64)item * DIM + i);
            for (int j = 0; j < VEC; j++) sum += real(x.of[j]) * real(y.of[j]);
        }
    }
    for (int d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
    if (token < t && threadIdx.x % LANES == 0) narrow(dots[(u64)head * t + token], sum);
}
ENTRY(dots)
#endif
