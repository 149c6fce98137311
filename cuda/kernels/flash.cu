// Causal attention on tensor cores (FlashAttention-2, Dao 2023), of bf16 or f16:
//
//   s  = scale q k^T            p  = softmax(s) = exp(s - lse)        o  = p v
//   dv = p^T do                 dp = do v^T
//   ds = scale p (dp - dot)     dq = ds k        dk = ds^T q          dot = sum of do o
//
// Exponentials are to base 2. Warps of a block have rows of their own, so that softmax is a matter of four lanes and weights
// never leave the registers; for that, gradients of keys are made of the transposed scores, whose rows are keys. A step that no
// row of a warp sees is skipped, and one that all of its rows see whole is not masked.
// One kernel is compiled at a time: FORWARD, OF_KEYS or OF_QUERIES. Macros: HEADS query heads and KV_HEADS key heads, and those of
// `tiles.cuh` and `scores.cuh`.
#include "scores.cuh"
#include "tiles.cuh"

const u32 GROUP = HEADS / KV_HEADS;
// Numbers in a row of qkv, where in it keys and values begin, and numbers in a row of o.
const u64 ROW = (HEADS + 2 * KV_HEADS) * DIM;
const u32 KEYS_AT = HEADS * DIM, VALUES_AT = (HEADS + KV_HEADS) * DIM;
const u64 OUT = HEADS * DIM;

// To base 2: s = factor * (what `of` makes of a product).
struct BinaryScoring {
    float factor, per_cap, cap, slope;
    // Of a key `behind` tokens before the query; `gradient` is multiplied by the slope over scale * product.
    DEVICE float of(float product, int behind, float &gradient) const {
        if (CAPPED) {
            // tanh(x) = 1 - 2 / (e^2x + 1)
            float tanh = 1 - 2 * reciprocal_fast(exp2_fast(product * per_cap) + 1);
            gradient *= 1 - tanh * tanh;
            product = cap * tanh;
        } else if (ALIBI) {
            product *= cap;
        }
        return ALIBI ? product - slope * (float)behind : product;
    }
};
DEVICE BinaryScoring binary_scoring(double scale, double cap, u32 head, u32 heads) {
    float plain = (float)(scale * LOG2_E);
    return {CAPPED || ALIBI ? 1 : plain, CAPPED ? (float)(2 * LOG2_E * scale / cap) : 0,
            CAPPED ? (float)(cap * LOG2_E) : plain, ALIBI ? (float)(LOG2_E * slope_of(head, heads)) : 0};
}

// The warp's row that lane has of fragment m in its half h, and the column that it has of fragment n as element e.
DEVICE u32 row_of(u32 m, u32 h) { return m * 16 + h * 8 + lane() / 4; }
DEVICE u32 column_of(u32 n, u32 e) { return n * 8 + lane() % 4 * 2 + e; }

// Hides what a row does not see, by scores whose weights are zero. A row sees from itself to ends[row], before it or after it.
DEVICE void hide(Scores &s, u32 row, u32 column, const u32 *ends, u32 t) {
    for (u32 m = 0; m < MT; m++) {
        for (u32 h = 0; h < 2; h++) {
            u32 itself = row + row_of(m, h), end = ends[min_of(itself, t - 1)];
            u32 from = min_of(itself, end), to = max_of(itself, end);
            for (u32 n = 0; n < NT; n++) {
                for (u32 e = 0; e < 2; e++) {
                    u32 at = column + column_of(n, e);
                    if (at < from || to < at) s[m][n][2 * h + e] = -3e38f;
                }
            }
        }
    }
}

#ifdef FORWARD
// Tokens of a tile of queries: lane's rows of a warp have a largest score and a sum of weights each.
struct Softmax {
    float max[MT][2], sum[MT][2];
    // s becomes weights; what was summed up before is made smaller where a larger score has come.
    DEVICE void step(Scores &s, Sums &o, float factor) {
        for (u32 m = 0; m < MT; m++) {
            for (u32 h = 0; h < 2; h++) {
                float largest = max[m][h];
                for (u32 n = 0; n < NT; n++) largest = fmaxf(largest, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 2));
                float shrink = exp2_fast((max[m][h] - largest) * factor), shift = largest * factor, total = 0;
                max[m][h] = largest;
                for (u32 n = 0; n < NT; n++) {
                    for (u32 e = 0; e < 2; e++) {
                        float &x = s[m][n][2 * h + e];
                        total += x = exp2_fast(x * factor - shift);
                    }
                }
                sum[m][h] = sum[m][h] * shrink + total;
                for (u32 n = 0; n < DT; n++) {
                    for (u32 e = 0; e < 2; e++) o[m][n][2 * h + e] *= shrink;
                }
            }
        }
    }
};

// qkv (T, (N+2K) H), first (T) -> o (T, N H), lse (N, T). A block for each tile of queries of a head, those with most keys first;
// keys from the last on.
KERNEL flash(const X_T *qkv, const u32 *first, X_T *o, float *lse, u32 t, double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(X_T, queries);
    X_T *keys = queries + ROWS * PITCH, *values = keys + ACROSS * PITCH;
    u32 head = blockIdx.x % HEADS, from = (gridDim.x / HEADS - 1 - blockIdx.x / HEADS) * ROWS;
    const X_T *k = qkv + KEYS_AT + head / GROUP * DIM, *v = qkv + VALUES_AT + head / GROUP * DIM;
    BinaryScoring score = binary_scoring(scale, cap, slope + head, slopes);

    u32 mine = from + warp() * OF_WARP, last = mine + OF_WARP - 1;
    u32 sees_from = first[min_of(mine, t - 1)], all_see_from = first[min_of(last, t - 1)];
    int begin = (int)(first[from] / ACROSS), step = (int)((min_of(from + ROWS, t) - 1) / ACROSS);
    Sums sums;
    Softmax softmax;
    clear(sums);
    for (u32 m = 0; m < MT; m++) {
        // Below what any score can be, but finite, so that no difference is a NaN.
        for (u32 h = 0; h < 2; h++) softmax.max[m][h] = -1e30f, softmax.sum[m][h] = 0;
    }

    bring<ROWS>(queries, qkv + head * DIM, ROW, from, t);
    bring<ACROSS>(keys, k, ROW, step * ACROSS, t);
    copy_async_commit();
    for (; step >= begin; step--) {
        u32 key = step * ACROSS;
        bool seen = key <= last && key + ACROSS > sees_from;
        Scores s;
        copy_async_wait<0>();
        __syncthreads();
        bring<ACROSS>(values, v, ROW, key, t);
        copy_async_commit();
        if (seen) products(s, queries + warp() * OF_WARP * PITCH, keys);
        copy_async_wait<0>();
        __syncthreads();
        if (step > begin) bring<ACROSS>(keys, k, ROW, key - ACROSS, t);
        copy_async_commit();
        if (!seen) continue;
        if (CAPPED || ALIBI) {
            for (u32 m = 0; m < MT; m++) {
                for (u32 n = 0; n < NT; n++) {
                    for (u32 i = 0; i < 4; i++) {
                        float none = 0;
                        s[m][n][i] = score.of(s[m][n][i], (int)(mine + row_of(m, i / 2) - key - column_of(n, i % 2)), none);
                    }
                }
            }
        }
        bool whole = key + ACROSS <= mine + 1 && key >= all_see_from;
        if (!whole) hide(s, mine, key, first, t);
        softmax.step(s, sums, score.factor);
        accumulate(sums, s, values);
    }

    for (u32 m = 0; m < MT; m++) {
        for (u32 h = 0; h < 2; h++) {
            float total = softmax.sum[m][h];
            total += __shfl_xor_sync(ALL, total, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            float by = 1 / total;
            for (u32 n = 0; n < DT; n++) {
                for (u32 e = 0; e < 2; e++) sums[m][n][2 * h + e] *= by;
            }
            u32 row = mine + row_of(m, h);
            float of_row = softmax.max[m][h] * score.factor * (float)LN_2 + log_of(total);
            if (lane() % 4 == 0 && row < t) lse[(u64)head * t + row] = of_row;
        }
    }
    write(o + head * DIM, OUT, mine, t, sums, queries + warp() * OF_WARP * PITCH);
}
ENTRY(flash)
#endif

#ifdef OF_KEYS
// dk with WITH_DK, dv with WITH_DV: both, unless their sums do not fit the registers. A block for each tile of keys of a key head,
// against the queries of its group from the first that sees one of them on.
KERNEL flash_keys(const X_T *qkv, const u32 *seen_to, const float *lse, const X_T *d_o, const float *dots, X_T *dqkv, u32 t,
                  double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(X_T, keys);
    X_T *values = keys + ROWS * PITCH, *moving = values + ROWS * PITCH;
    float *numbers = (float *)(moving + 4 * ACROSS * PITCH);
    u32 kv = blockIdx.x % KV_HEADS, from = blockIdx.x / KV_HEADS * ROWS;
    u32 mine = from + warp() * OF_WARP;
    u32 seen_end = seen_to[min_of(mine + OF_WARP, t) - 1] + 1, all_seen_end = seen_to[min_of(mine, t - 1)] + 1;
    // Queries of all heads of the group, from the first that sees one of the keys to the last.
    u32 begin = from / ACROSS * ACROSS, end = seen_to[min_of(from + ROWS, t) - 1] + 1;
    u32 head = kv * GROUP, query = begin, next_head = head, next = begin;
    BinaryScoring score = binary_scoring(scale, cap, slope + head, slopes);
    Sums dk, dv;
    clear(dk);
    clear(dv);

    // Two rooms, one of which is filled while the other is used: queries, gradients of outputs, lse and dots of them.
    auto fill = [&](u32 which) {
        X_T *room = moving + which * 2 * ACROSS * PITCH;
        float *of_rows = numbers + which * 2 * ACROSS;
        bring<ACROSS>(room, qkv + next_head * DIM, ROW, next, t);
        bring<ACROSS>(room + ACROSS * PITCH, d_o + next_head * DIM, OUT, next, t);
        bring<ACROSS>(of_rows, lse + (u64)next_head * t, next, t);
        bring<ACROSS>(of_rows + ACROSS, dots + (u64)next_head * t, next, t);
        copy_async_commit();
        next += ACROSS;
        if (next >= end) next = begin, next_head++;
    };
    bring<ROWS>(keys, qkv + KEYS_AT + kv * DIM, ROW, from, t);
    bring<ROWS>(values, qkv + VALUES_AT + kv * DIM, ROW, from, t);
    fill(0);
    for (u32 which = 0; head < (kv + 1) * GROUP; which ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (next_head < (kv + 1) * GROUP) fill(which ^ 1);
        if (query + ACROSS > mine && query < seen_end) {
            const X_T *queries = moving + which * 2 * ACROSS * PITCH, *gradients = queries + ACROSS * PITCH;
            const float *of_rows = numbers + which * 2 * ACROSS;
            Scores s, ds;
            products(s, keys + warp() * OF_WARP * PITCH, queries);
            if (WITH_DK) products(ds, values + warp() * OF_WARP * PITCH, gradients);
            else clear(ds);
            for (u32 m = 0; m < MT; m++) {
                for (u32 n = 0; n < NT; n++) {
                    for (u32 i = 0; i < 4; i++) {
                        u32 column = column_of(n, i % 2);
                        ds[m][n][i] -= of_rows[ACROSS + column];
                        int behind = (int)(query + column - mine - row_of(m, i / 2));
                        s[m][n][i] = score.of(s[m][n][i], behind, ds[m][n][i]);
                    }
                }
            }
            bool whole = query + 1 >= mine + OF_WARP && query + ACROSS <= all_seen_end;
            if (!whole) hide(s, mine, query, seen_to, t);
            for (u32 m = 0; m < MT; m++) {
                for (u32 n = 0; n < NT; n++) {
                    for (u32 i = 0; i < 4; i++) {
                        float shift = of_rows[column_of(n, i % 2)] * (float)LOG2_E;
                        s[m][n][i] = exp2_fast(s[m][n][i] * score.factor - shift);
                        ds[m][n][i] *= s[m][n][i];
                    }
                }
            }
            if (WITH_DV) accumulate(dv, s, gradients);
            if (WITH_DK) accumulate(dk, ds, queries);
        }
        query += ACROSS;
        if (query >= end) {
            query = begin, head++;
            if (ALIBI) score = binary_scoring(scale, cap, slope + head, slopes);
        }
    }
    for (u32 m = 0; m < MT; m++) {
        for (u32 n = 0; n < DT; n++) {
            for (u32 i = 0; i < 4; i++) dk[m][n][i] *= (float)scale;
        }
    }
    if (WITH_DK) write(dqkv + KEYS_AT + kv * DIM, ROW, mine, t, dk, keys + warp() * OF_WARP * PITCH);
    if (WITH_DV) write(dqkv + VALUES_AT + kv * DIM, ROW, mine, t, dv, values + warp() * OF_WARP * PITCH);
}
ENTRY(flash_keys)
#endif

#ifdef OF_QUERIES
// dq. A block for each tile of queries of a head, those with most keys first.
KERNEL flash_queries(const X_T *qkv, const u32 *first, const float *lse, const X_T *d_o, const float *dots, X_T *dqkv, u32 t,
                     double scale, double cap, u32 slope, u32 slopes) {
    DYNAMIC_SHARED(X_T, queries);
    X_T *gradients = queries + ROWS * PITCH, *moving = gradients + ROWS * PITCH;
    u32 head = blockIdx.x % HEADS, from = (gridDim.x / HEADS - 1 - blockIdx.x / HEADS) * ROWS;
    const X_T *k = qkv + KEYS_AT + head / GROUP * DIM, *v = qkv + VALUES_AT + head / GROUP * DIM;
    BinaryScoring score = binary_scoring(scale, cap, slope + head, slopes);

    u32 mine = from + warp() * OF_WARP, last = mine + OF_WARP - 1;
    u32 sees_from = first[min_of(mine, t - 1)], all_see_from = first[min_of(last, t - 1)];
    u32 begin = first[from] / ACROSS, end = (min_of(from + ROWS, t) - 1) / ACROSS + 1;
    float shift[MT][2], dot[MT][2];
    for (u32 m = 0; m < MT; m++) {
        for (u32 h = 0; h < 2; h++) {
            u64 at = (u64)head * t + min_of(mine + row_of(m, h), t - 1);
            shift[m][h] = lse[at] * (float)LOG2_E;
            dot[m][h] = dots[at];
        }
    }
    Sums dq;
    clear(dq);

    // Two rooms, one of which is filled while the other is used.
    auto fill = [&](u32 step) {
        X_T *room = moving + step % 2 * 2 * ACROSS * PITCH;
        bring<ACROSS>(room, k, ROW, step * ACROSS, t);
        bring<ACROSS>(room + ACROSS * PITCH, v, ROW, step * ACROSS, t);
        copy_async_commit();
    };
    bring<ROWS>(queries, qkv + head * DIM, ROW, from, t);
    bring<ROWS>(gradients, d_o + head * DIM, OUT, from, t);
    fill(begin);
    for (u32 step = begin; step < end; step++) {
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < end) fill(step + 1);
        u32 key = step * ACROSS;
        if (key > last || key + ACROSS <= sees_from) continue;
        const X_T *keys = moving + step % 2 * 2 * ACROSS * PITCH, *values = keys + ACROSS * PITCH;

        Scores s, ds;
        products(s, queries + warp() * OF_WARP * PITCH, keys);
        products(ds, gradients + warp() * OF_WARP * PITCH, values);
        for (u32 m = 0; m < MT; m++) {
            for (u32 n = 0; n < NT; n++) {
                for (u32 i = 0; i < 4; i++) {
                    ds[m][n][i] -= dot[m][i / 2];
                    int behind = (int)(mine + row_of(m, i / 2) - key - column_of(n, i % 2));
                    s[m][n][i] = score.of(s[m][n][i], behind, ds[m][n][i]);
                }
            }
        }
        bool whole = key + ACROSS <= mine + 1 && key >= all_see_from;
        if (!whole) hide(s, mine, key, first, t);
        for (u32 m = 0; m < MT; m++) {
            for (u32 n = 0; n < NT; n++) {
                for (u32 i = 0; i < 4; i++) {
                    ds[m][n][i] *= exp2_fast(s[m][n][i] * score.factor - shift[m][i / 2]);
                }
            }
        }
        accumulate(dq, ds, keys);
    }
    for (u32 m = 0; m < MT; m++) {
        for (u32 n = 0; n < DT; n++) {
            for (u32 i = 0; i < 4; i++) dq[m][n][i] *= (float)scale;
        }
    }
    write(dqkv + head * DIM, ROW, mine, t, dq, queries + warp() * OF_WARP * PITCH);
}
ENTRY(flash_queries)
#endif
