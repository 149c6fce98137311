// Attention of few tokens over a cache, as generation has it, bound by the bytes of the cache: each key and value is read once, for
// all queries of its group.
//
// The cache is cut into chunks of KEYS tokens, a block for each chunk of a key head. In it, teams of DIM / VEC threads have keys of
// their own, several in flight, and see nothing of each other until all keys are done. What teams saw is joined in their order,
// and what blocks saw by a second kernel.
// Types: Q_T, K_T (of values too), O_T; packs of VEC. HEADS query heads and KV_HEADS key heads of DIM; TOKENS rows of qkv.
#include "scores.cuh"

const u32 GROUP = HEADS / KV_HEADS, ROWS = TOKENS * GROUP;
const u32 THREADS = 256, LANES = DIM / VEC, TEAMS = THREADS / LANES, AT_ONCE = 4;
// What was seen of a row: sums (DIM) of weighted values, the largest score, the sum of weights.
const u32 SEEN = DIM + 2;

// The row r of `parts`, each of ROWS rows: sums of column d, and the sum of weights, of those from `begin` to before `end`.
struct Joined {
    real_t max, total, sum;
};
DEVICE Joined join(const real_t *parts, u32 begin, u32 end, u32 r, u32 d) {
    Joined all = {(real_t)-1e30, 0, 0};
    parts += r * SEEN;
    for (u32 i = begin; i < end; i++) all.max = max_of(all.max, parts[(u64)i * ROWS * SEEN + DIM]);
    for (u32 i = begin; i < end; i++) {
        const real_t *part = parts + (u64)i * ROWS * SEEN;
        real_t share = exp_of(part[DIM] - all.max);
        all.sum += share * part[d];
        all.total += share * part[DIM + 1];
    }
    return all;
}

// qkv (TOKENS, ROW), rotated; span [start, n]; first (TOKENS); k, v (C, KV_HEADS DIM) -> seen (KV_HEADS, chunks, ROWS, SEEN)
KERNEL decode(const Q_T *qkv, const u32 *span, const u32 *first, const K_T *k, const K_T *v, real_t *seen, u32 chunks,
              double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(real_t, room);
    u32 kv = blockIdx.x % KV_HEADS, chunk = blockIdx.x / KV_HEADS;
    u32 start = span[0], n = min_of(span[1], TOKENS + 0u);
    u32 from = chunk * KEYS, to = min_of(from + KEYS, start + n);
    // A chunk that nobody sees.
    if (n == 0 || from >= to || to <= first[0]) return;

    u32 team = threadIdx.x / LANES, d = threadIdx.x % LANES * VEC;
    k += kv * DIM + d;
    v += kv * DIM + d;
    real_t q[ROWS][VEC], sums[ROWS][VEC], max[ROWS], total[ROWS];
    u32 sees[ROWS];
    Scoring score[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        score[r] = scoring(scale, cap, slope + kv * GROUP + r % GROUP, slopes);
        u32 token = r / GROUP;
        bool there = token < n;
        auto in = load<VEC>(qkv + (u64)(there ? token : 0) * ROW + (kv * GROUP + r % GROUP) * DIM + d);
        for (u32 j = 0; j < VEC; j++) q[r][j] = real(in.of[j]), sums[r][j] = 0;
        max[r] = (real_t)-1e30, total[r] = 0;
        sees[r] = there ? first[token] : ~0u;
    }
    for (u32 key = from + team; key - team < to; key += TEAMS * AT_ONCE) {
        Pack<K_T, VEC> keys[AT_ONCE], values[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = (u64)min_of(key + i * TEAMS, to - 1) * (KV_HEADS * DIM);
            keys[i] = load<VEC>(k + at);
            values[i] = load<VEC>(v + at);
        }
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            u32 token = start + r / GROUP;
            real_t s[AT_ONCE], largest = max[r], none = 1;
            bool visible[AT_ONCE];
            for (u32 i = 0; i < AT_ONCE; i++) {
                real_t product = 0;
                for (u32 j = 0; j < VEC; j++) product += q[r][j] * real(keys[i].of[j]);
                for (u32 l = LANES / 2; l > 0; l /= 2) product += __shfl_xor_sync(ALL, product, l);
                u32 at = key + i * TEAMS;
                visible[i] = at < to && sees[r] <= at && at <= token;
                s[i] = score[r].of(product, token - at, none);
                if (visible[i]) largest = max_of(largest, s[i]);
            }
            real_t shrink = exp_of(max[r] - largest);
            max[r] = largest;
            total[r] *= shrink;
            for (u32 j = 0; j < VEC; j++) sums[r][j] *= shrink;
            for (u32 i = 0; i < AT_ONCE; i++) {
                real_t p = visible[i] ? exp_of(s[i] - largest) : 0;
                total[r] += p;
                for (u32 j = 0; j < VEC; j++) sums[r][j] += p * real(values[i].of[j]);
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        real_t *mine = room + (team * ROWS + r) * SEEN;
        for (u32 j = 0; j < VEC; j++) mine[d + j] = sums[r][j];
        if (d == 0) mine[DIM] = max[r], mine[DIM + 1] = total[r];
    }
    __syncthreads();
    seen += (u64)(kv * chunks + chunk) * ROWS * SEEN;
    for (u32 at = threadIdx.x; at < ROWS * DIM; at += THREADS) {
        Joined all = join(room, 0, TEAMS, at / DIM, at % DIM);
        real_t *row = seen + at / DIM * SEEN;
        row[at % DIM] = all.sum;
        if (at % DIM == 0) row[DIM] = all.max, row[DIM + 1] = all.total;
    }
}
ENTRY(decode)

// seen -> o (TOKENS, HEADS DIM), of which rows from n on are zero. A block for each row of a key head.
KERNEL decode_join(const real_t *seen, const u32 *span, const u32 *first, O_T *o, u32 chunks) {
    u32 kv = blockIdx.x / ROWS, r = blockIdx.x % ROWS, token = r / GROUP;
    bool there = token < span[1];
    u32 begin = there ? first[token] / KEYS : 0, end = there ? (span[0] + token) / KEYS + 1 : 0;
    o += (u64)token * HEADS * DIM + (kv * GROUP + r % GROUP) * DIM;
    for (u32 d = threadIdx.x; d < DIM; d += blockDim.x) {
        Joined all = join(seen + (u64)kv * chunks * ROWS * SEEN, begin, end, r, d);
        narrow(o[d], there ? all.sum / all.total : 0);
    }
}
ENTRY(decode_join)
