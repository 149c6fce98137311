// Causal attention of any types and any head dimension, by tiles (Dao et al. 2022): what `flash.cu` does not do.
//
//   s  = scale q k^T            p  = softmax(s) = exp(s - lse)        o  = p v
//   dv = p^T do                 dp = do v^T
//   ds = scale p (dp - dot)     dq = ds k        dk = ds^T q          dot = sum of do o
//
// A block has 16 x 16 threads. Of every matrix of a tile, thread (y, x) has the rows y + 16 i and the columns x + 16 j.
// Types: Q_T, K_T (of values too), O_T, L_T of lse, DO_T, DOT_T of dots, DQ_T. HEADS query heads and KV_HEADS key heads of DIM;
// TILE rows of queries and of keys, a multiple of 16.
#include "scores.cuh"

const u32 SIDE = 16, THREADS = SIDE * SIDE;
const u32 GROUP = HEADS / KV_HEADS;
// Rows and columns of a thread, of scores and of heads.
const u32 R = TILE / SIDE, C = (DIM + SIDE - 1) / SIDE;
// Rows lie in shared memory an odd number of words apart, so that 16 of them are in different banks.
const u32 HEAD_ROW = C * SIDE + 1, SCORE_ROW = TILE + 1;
const u32 HEAD_TILE = TILE * HEAD_ROW;

DEVICE u32 y() { return threadIdx.x / SIDE; }
DEVICE u32 x() { return threadIdx.x % SIDE; }

// Rows first .. first + TILE of a head; zeros from `end` on and beyond DIM.
template <class T> DEVICE void bring(real_t *to, const T *from, u64 row, u32 first, u32 end) {
    for (u32 at = threadIdx.x; at < TILE * C * SIDE; at += THREADS) {
        u32 i = at / (C * SIDE), d = at % (C * SIDE);
        bool there = first + i < end && d < DIM;
        to[i * HEAD_ROW + d] = there ? real(from[(u64)(first + i) * row + d]) : (real_t)0;
    }
}
// s = a b^T of rows of heads
DEVICE void products(real_t (&s)[R][R], const real_t *a, const real_t *b) {
    for (u32 i = 0; i < R; i++) {
        for (u32 j = 0; j < R; j++) s[i][j] = 0;
    }
    for (u32 d = 0; d < DIM; d++) {
        real_t of_a[R], of_b[R];
        for (u32 i = 0; i < R; i++) of_a[i] = a[(y() + SIDE * i) * HEAD_ROW + d];
        for (u32 j = 0; j < R; j++) of_b[j] = b[(x() + SIDE * j) * HEAD_ROW + d];
        for (u32 i = 0; i < R; i++) {
            for (u32 j = 0; j < R; j++) s[i][j] += of_a[i] * of_b[j];
        }
    }
}
// c += p b, with p a tile of scores
DEVICE void accumulate(real_t (&c)[R][C], const real_t *p, const real_t *b) {
    for (u32 k = 0; k < TILE; k++) {
        real_t of_p[R];
        for (u32 i = 0; i < R; i++) of_p[i] = p[(y() + SIDE * i) * SCORE_ROW + k];
        for (u32 j = 0; j < C; j++) {
            real_t of_b = b[k * HEAD_ROW + x() + SIDE * j];
            for (u32 i = 0; i < R; i++) c[i][j] += of_p[i] * of_b;
        }
    }
}
DEVICE void put(real_t *to, const real_t (&s)[R][R]) {
    for (u32 i = 0; i < R; i++) {
        for (u32 j = 0; j < R; j++) to[(y() + SIDE * i) * SCORE_ROW + x() + SIDE * j] = s[i][j];
    }
}
// The rows of a head before `end`.
template <class T> DEVICE void write(T *to, u64 row, u32 first, u32 end, const real_t (&c)[R][C]) {
    for (u32 i = 0; i < R; i++) {
        u32 token = first + y() + SIDE * i;
        for (u32 j = 0; j < C; j++) {
            u32 d = x() + SIDE * j;
            if (token < end && d < DIM) narrow(to[(u64)token * row + d], c[i][j]);
        }
    }
}
DEVICE real_t row_sum(real_t a) {
    for (int d = SIDE / 2; d > 0; d /= 2) a += __shfl_xor_sync(ALL, a, d);
    return a;
}
DEVICE real_t row_max(real_t a) {
    for (int d = SIDE / 2; d > 0; d /= 2) a = max_of(a, __shfl_xor_sync(ALL, a, d));
    return a;
}

#ifdef FORWARD
// Query i < n is token start + i of the keys and sees them from first[i] on. o (t, N H), of which rows from n on are zero; lse
// (N, t). A block for each tile of queries of a head, those with most keys first.
KERNEL attention(const Q_T *q, const K_T *k, const K_T *v, const u32 *span, const u32 *first, O_T *o, L_T *lse, u32 t,
                 u64 q_row, u64 k_row, double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(real_t, queries);
    real_t *keys = queries + HEAD_TILE, *weights = keys + HEAD_TILE;
    u32 start = span[0], n = min_of(span[1], t);
    u32 head = blockIdx.x % HEADS, from = (gridDim.x / HEADS - 1 - blockIdx.x / HEADS) * TILE;
    Scoring score = scoring(scale, cap, slope + head, slopes);
    k += head / GROUP * DIM;
    v += head / GROUP * DIM;

    // Below what any score can be, but finite, so that no difference is a NaN.
    real_t max[R], sum[R], c[R][C];
    u32 sees[R];
    for (u32 i = 0; i < R; i++) {
        max[i] = (real_t)-1e30, sum[i] = 0;
        for (u32 j = 0; j < C; j++) c[i][j] = 0;
        u32 row = from + y() + SIDE * i;
        sees[i] = row < n ? first[row] : ~0u;
    }
    u32 end = from < n ? start + min_of(from + TILE, n) : 0;
    u32 key = from < n ? first[from] : 0;
    bring(queries, q + head * DIM, q_row, from, n);
    for (; key < end; key += TILE) {
        __syncthreads();
        bring(keys, k, k_row, key, end);
        __syncthreads();
        real_t s[R][R], none = 1;
        products(s, queries, keys);
        for (u32 i = 0; i < R; i++) {
            u32 token = start + from + y() + SIDE * i;
            real_t largest = max[i], total = 0;
            bool seen[R];
            for (u32 j = 0; j < R; j++) {
                u32 at = key + x() + SIDE * j;
                seen[j] = sees[i] <= at && at <= token;
                if (seen[j]) largest = max_of(s[i][j] = score.of(s[i][j], token - at, none), largest);
            }
            largest = row_max(largest);
            for (u32 j = 0; j < R; j++) total += s[i][j] = seen[j] ? exp_of(s[i][j] - largest) : 0;
            real_t shrink = exp_of(max[i] - largest);
            max[i] = largest;
            sum[i] = sum[i] * shrink + row_sum(total);
            for (u32 j = 0; j < C; j++) c[i][j] *= shrink;
        }
        put(weights, s);
        __syncthreads();
        bring(keys, v, k_row, key, end);
        __syncthreads();
        accumulate(c, weights, keys);
    }
    for (u32 i = 0; i < R; i++) {
        // Rows without a token have no keys and are zero.
        real_t by = sum[i] == 0 ? 0 : 1 / sum[i];
        for (u32 j = 0; j < C; j++) c[i][j] *= by;
        u32 row = from + y() + SIDE * i;
        if (WITH_LSE && x() == 0 && row < t) narrow(lse[(u64)head * t + row], max[i] + log_of(sum[i]));
    }
    write(o + head * DIM, HEADS * DIM, from, t, c);
}
ENTRY(attention)
#endif

#ifdef BACKWARD
// Numbers in a row of qkv, and where in it keys and values begin.
const u64 ROW = (HEADS + 2 * KV_HEADS) * DIM;
const u32 KEYS_AT = HEADS * DIM, VALUES_AT = (HEADS + KV_HEADS) * DIM;

// dk and dv. A block for each tile of keys of a key head; the sums over the query heads of the group are its own. Scores are
// transposed here: rows are keys, columns queries.
KERNEL attention_keys(const Q_T *qkv, const u32 *last, const L_T *lse, const DO_T *d_o, const DOT_T *dots, DQ_T *dqkv, u32 t,
                      double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(real_t, keys);
    real_t *values = keys + HEAD_TILE, *queries = values + HEAD_TILE, *gradients = queries + HEAD_TILE;
    real_t *weights = gradients + HEAD_TILE;
    u32 kv = blockIdx.x % KV_HEADS, from = blockIdx.x / KV_HEADS * TILE;
    bring(keys, qkv + KEYS_AT + kv * DIM, ROW, from, t);
    bring(values, qkv + VALUES_AT + kv * DIM, ROW, from, t);
    real_t dk[R][C], dv[R][C];
    u32 seen_to[R];
    for (u32 i = 0; i < R; i++) {
        for (u32 j = 0; j < C; j++) dk[i][j] = dv[i][j] = 0;
        u32 row = from + y() + SIDE * i;
        seen_to[i] = row < t ? last[row] : 0;
    }
    u32 end = last[min_of(from + TILE, t) - 1] + 1;
    for (u32 head = kv * GROUP; head < (kv + 1) * GROUP; head++) {
        Scoring score = scoring(scale, cap, slope + head, slopes);
        for (u32 query = from; query < end; query += TILE) {
            __syncthreads();
            bring(queries, qkv + head * DIM, ROW, query, end);
            bring(gradients, d_o + head * DIM, HEADS * DIM, query, end);
            __syncthreads();
            real_t s[R][R], ds[R][R];
            products(s, keys, queries);
            products(ds, values, gradients);
            for (u32 j = 0; j < R; j++) {
                u32 token = query + x() + SIDE * j;
                real_t of_lse = token < end ? real(lse[(u64)head * t + token]) : (real_t)0;
                real_t dot = token < end ? real(dots[(u64)head * t + token]) : (real_t)0;
                for (u32 i = 0; i < R; i++) {
                    u32 at = from + y() + SIDE * i;
                    bool seen = at <= token && token <= seen_to[i];
                    ds[i][j] -= dot;
                    s[i][j] = seen ? exp_of(score.of(s[i][j], token - at, ds[i][j]) - of_lse) : 0;
                    ds[i][j] = seen ? ds[i][j] * s[i][j] : 0;
                }
            }
            put(weights, s);
            __syncthreads();
            accumulate(dv, weights, gradients);
            __syncthreads();
            put(weights, ds);
            __syncthreads();
            accumulate(dk, weights, queries);
        }
    }
    write(dqkv + KEYS_AT + kv * DIM, ROW, from, t, dk);
    write(dqkv + VALUES_AT + kv * DIM, ROW, from, t, dv);
}
ENTRY(attention_keys)

// dq. A block for each tile of queries of a head, those with most keys first.
KERNEL attention_queries(const Q_T *qkv, const u32 *first, const L_T *lse, const DO_T *d_o, const DOT_T *dots, DQ_T *dqkv,
                         u32 t, double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(real_t, queries);
    real_t *gradients = queries + HEAD_TILE, *keys = gradients + HEAD_TILE, *values = keys + HEAD_TILE;
    real_t *weights = values + HEAD_TILE;
    u32 head = blockIdx.x % HEADS, from = (gridDim.x / HEADS - 1 - blockIdx.x / HEADS) * TILE, kv = head / GROUP;
    Scoring score = scoring(scale, cap, slope + head, slopes);
    bring(queries, qkv + head * DIM, ROW, from, t);
    bring(gradients, d_o + head * DIM, HEADS * DIM, from, t);
    real_t dq[R][C], of_lse[R], dot[R];
    u32 sees[R];
    for (u32 i = 0; i < R; i++) {
        for (u32 j = 0; j < C; j++) dq[i][j] = 0;
        u32 row = from + y() + SIDE * i;
        sees[i] = row < t ? first[row] : ~0u;
        of_lse[i] = row < t ? real(lse[(u64)head * t + row]) : (real_t)0;
        dot[i] = row < t ? real(dots[(u64)head * t + row]) : (real_t)0;
    }
    u32 end = min_of(from + TILE, t);
    for (u32 key = first[from]; key < end; key += TILE) {
        __syncthreads();
        bring(keys, qkv + KEYS_AT + kv * DIM, ROW, key, end);
        bring(values, qkv + VALUES_AT + kv * DIM, ROW, key, end);
        __syncthreads();
        real_t s[R][R], ds[R][R];
        products(s, queries, keys);
        products(ds, gradients, values);
        for (u32 i = 0; i < R; i++) {
            u32 token = from + y() + SIDE * i;
            for (u32 j = 0; j < R; j++) {
                u32 at = key + x() + SIDE * j;
                bool seen = sees[i] <= at && at <= token;
                ds[i][j] -= dot[i];
                real_t p = seen ? exp_of(score.of(s[i][j], token - at, ds[i][j]) - of_lse[i]) : 0;
                ds[i][j] = seen ? ds[i][j] * p : 0;
            }
        }
        put(weights, ds);
        __syncthreads();
        accumulate(dq, weights, keys);
    }
    write(dqkv + head * DIM, ROW, from, t, dq);
}
ENTRY(attention_queries)
#endif
