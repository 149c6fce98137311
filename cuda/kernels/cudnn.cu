// What stands around attention by cuDNN: where its segments are, its statistics in our order, and its gradients side by side
// again, with queries and keys rotated back.
#include "prelude.cuh"

// cu (S + 1) -> lengths (S), and cu times a factor for each of four tensors, (S + 1) each. A thread for each segment, and one.
KERNEL segments(const u32 *cu, int *lengths, i64 *qkv, i64 *out, i64 *kv, i64 *lse, u32 s, u32 of_qkv, u32 of_out, u32 of_kv,
                u32 of_lse) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > s) return;
    i64 at = cu[i];
    if (i < s) lengths[i] = (int)(cu[i + 1] - cu[i]);
    qkv[i] = at * of_qkv;
    out[i] = at * of_out;
    kv[i] = at * of_kv;
    lse[i] = at * of_lse;
}
ENTRY(segments)

// x (ROWS, COLUMNS) -> y (COLUMNS, ROWS), by tiles of 32 x 32 and blocks of 32 x 8 threads.
KERNEL transpose(const float *x, float *y, u32 rows, u32 columns) {
    __shared__ float tile[32][33];
    u32 tiles = (columns + 31) / 32;
    u32 row = blockIdx.x / tiles * 32, column = blockIdx.x % tiles * 32;
    u32 lane = threadIdx.x % 32, first = threadIdx.x / 32;
    for (u32 i = first; i < 32; i += 8) {
        if (row + i < rows && column + lane < columns) tile[i][lane] = x[(u64)(row + i) * columns + column + lane];
    }
    __syncthreads();
    for (u32 i = first; i < 32; i += 8) {
        if (column + i < columns && row + lane < rows) y[(u64)(column + i) * rows + row + lane] = tile[lane][i];
    }
}
ENTRY(transpose)

#ifdef DIM
// dq (T, N H), dk, dv (T, K H) -> rows of (N + 2 K) H. Types: X_T of all, TABLE_T of the table. A thread has VEC pairs of a head,
// as in rope.cu; ROTATED: those of queries and keys are turned back by positions (T) and table (P, DIM) of cosines | sines.
const u32 HALF = DIM / 2, OF_HEAD = HALF / VEC, OF_ROW = (HEADS + 2 * KV_HEADS) * OF_HEAD;

KERNEL join(const X_T *dq, const X_T *dk, const X_T *dv, X_T *to, const u32 *positions, const TABLE_T *table, u32 t) {
    u64 item = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 token = (u32)(item / OF_ROW), of_row = (u32)(item % OF_ROW);
    if (token >= t) return;
    u32 head = of_row / OF_HEAD, i = of_row % OF_HEAD * VEC;
    const X_T *from = head < HEADS              ? dq + ((u64)token * HEADS + head) * DIM
                      : head < HEADS + KV_HEADS ? dk + ((u64)token * KV_HEADS + head - HEADS) * DIM
                                                : dv + ((u64)token * KV_HEADS + head - HEADS - KV_HEADS) * DIM;
    u32 at = INTERLEAVED ? 2 * i : i, next = INTERLEAVED ? VEC : HALF;
    to += (u64)token * (HEADS + 2 * KV_HEADS) * DIM + head * DIM + at;
    Pack<X_T, VEC> in[2] = {load<VEC>(from + at), load<VEC>(from + at + next)}, out[2] = {in[0], in[1]};
    if (ROTATED && head < HEADS + KV_HEADS) {
        table += (u64)positions[token] * DIM + i;
        auto c = load<VEC>(table), s = load<VEC>(table + HALF);
        for (u32 j = 0; j < VEC; j++) {
            u32 p = INTERLEAVED ? 2 * j / VEC : 0, q = INTERLEAVED ? (2 * j + 1) / VEC : 1;
            u32 a_at = INTERLEAVED ? 2 * j % VEC : j, b_at = INTERLEAVED ? (2 * j + 1) % VEC : j;
            float a = widen(in[p].of[a_at]), b = widen(in[q].of[b_at]);
            float cos = (float)widen(c.of[j]), sin = -(float)widen(s.of[j]);
            narrow(out[p].of[a_at], a * cos - b * sin);
            narrow(out[q].of[b_at], b * cos + a * sin);
        }
    }
    store(to, out[0]);
    store(to + next, out[1]);
}
ENTRY(join)
#endif
