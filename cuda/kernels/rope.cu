// Rotary position embedding of queries and keys, in place: with c, s the cosine and sine of position x frequency i and (a, b)
// the i-th pair of a head, (a, b) <- (a c - b s, b c + a s). The gradient turns back: the same with -s.
// Types: QKV_T of the heads, TABLE_T of the table. Rows have ROW numbers, of which the first HEADS heads of DIM are turned. A
// thread has VEC pairs, (i, i + DIM / 2) or, with INTERLEAVED, (2 i, 2 i + 1).
#include "prelude.cuh"

const u32 HALF = DIM / 2, OF_HEAD = HALF / VEC, OF_ROW = HEADS * OF_HEAD;

// span [start, n]: the first n rows are turned, by positions (T) and table (P, DIM) of cosines | sines.
KERNEL rope(QKV_T *x, const u32 *span, const u32 *positions, const TABLE_T *table, double sign) {
    u64 item = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 token = (u32)(item / OF_ROW), of_row = (u32)(item % OF_ROW);
    if (token >= span[1]) return;
    u32 i = of_row % OF_HEAD * VEC;
    x += (u64)token * ROW + of_row / OF_HEAD * DIM + (INTERLEAVED ? 2 * i : i);
    table += (u64)positions[token] * DIM + i;
    QKV_T *second = x + (INTERLEAVED ? VEC : HALF);
    auto c = load<VEC>(table), s = load<VEC>(table + HALF);
    Pack<QKV_T, VEC> in[2] = {load<VEC>(x), load<VEC>(second)}, out[2];
    for (u32 j = 0; j < VEC; j++) {
        // Where in the two packs the pair is.
        u32 p = INTERLEAVED ? 2 * j / VEC : 0, q = INTERLEAVED ? (2 * j + 1) / VEC : 1;
        u32 at = INTERLEAVED ? 2 * j % VEC : j, bt = INTERLEAVED ? (2 * j + 1) % VEC : j;
        real_t a = real(in[p].of[at]), b = real(in[q].of[bt]);
        real_t cos = real(c.of[j]), sin = (real_t)sign * real(s.of[j]);
        narrow(out[p].of[at], a * cos - b * sin);
        narrow(out[q].of[bt], b * cos + a * sin);
    }
    store(x, out[0]);
    store(second, out[1]);
}
ENTRY(rope)
