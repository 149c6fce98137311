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
struct Scoring {
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
DEVICE Scoring scoring(double scale, double cap, u32 head, u32 heads) {
    float plain = (float)(scale * LOG2_E);
    return {CAPPED || ALIBI ? 1 : plain, CAPPED ? (float)(2 * LOG2_E * scale / cap) : 0,
            CAPPED ? (float)(cap * LOG2_E) : plain, ALIBI ? (float)(LOG2_E * slope_of(head, heads)) : 0};
}

// The warp's row that lane has of fragment m in its half h, and the column that it has of fragment n as element e.
DEVICE u32 row_of(u32 m, u32 h) { return m * 16 + h * 8 + lane() / 4; }
DEVICE u32 column_of(u32 n, u32 e) { return n * 8 + lane() % 4 * 2 + e; }

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
    Scoring score = scoring(scale, cap, slope + head, slopes);

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
        bool whole = key + ACROSS <= mine + 1 && key >= all_see_from;
        if (CAPPED || ALIBI || !whole) {
            for (u32 m = 0; m < MT; m++) {
                for (u32 h = 0; h < 2; h++) {
                    u32 row = mine + row_of(m, h), sees = first[min_of(row, t - 1)];
                    for (u32 n = 0; n < NT; n++) {
                        for (u32 e = 0; e < 2; e++) {
                            u32 at = key + column_of(n, e);
                            float &x = s[m][n][2 * h + e], none;
                            x = score.of(x, (int)(row - at), none);
                            if (!whole && !(sees <= at && at <= row)) x = -3e38f;
                        }
                    }
                }
            }
        }
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
    u32 mine = from + warp() * OF_WARP, last = mine + OF_WARP - 1;
    u32 seen_end = seen_to[min_of(last, t - 1)] + 1, all_seen_end = seen_to[min_of(mine, t - 1)] + 1;
    u32 begin = from / ACROSS, steps = seen_to[min_of(from + ROWS, t) - 1] / ACROSS + 1 - begin;
    Scoring score = scoring(scale, cap, slope + kv * GROUP, slopes);
    Sums dk, dv;
    clear(dk);
    clear(dv);

    // Two rooms, one of which is filled while the other is used: queries, gradients of outputs, lse and dots of them.
    auto fill = [&](u32 step) {
        u32 head = kv * GROUP + step / steps, query = (begin + step % steps) * ACROSS;
        X_T *room = moving + step % 2 * 2 * ACROSS * PITCH;
        float *of_rows = numbers + step % 2 * 2 * ACROSS;
        bring<ACROSS>(room, qkv + head * DIM, ROW, query, t);
        bring<ACROSS>(room + ACROSS * PITCH, d_o + head * DIM, OUT, query, t);
        bring<ACROSS>(of_rows, lse + (u64)head * t, query, t);
        bring<ACROSS>(of_rows + ACROSS, dots + (u64)head * t, query, t);
        copy_async_commit();
    };
    bring<ROWS>(keys, qkv + KEYS_AT + kv * DIM, ROW, from, t);
    bring<ROWS>(values, qkv + VALUES_AT + kv * DIM, ROW, from, t);
    fill(0);
    for (u32 step = 0; step < GROUP * steps; step++) {
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < GROUP * steps) fill(step + 1);
        u32 query = (begin + step % steps) * ACROSS;
        if (ALIBI && step % steps == 0) score = scoring(scale, cap, slope + kv * GROUP + step / steps, slopes);
        if (query + ACROSS <= mine || query >= seen_end) continue;
        const X_T *queries = moving + step % 2 * 2 * ACROSS * PITCH, *gradients = queries + ACROSS * PITCH;
        const float *of_rows = numbers + step % 2 * 2 * ACROSS;

        Scores s, ds;
        products(s, keys + warp() * OF_WARP * PITCH, queries);
        if (WITH_DK) products(ds, values + warp() * OF_WARP * PITCH, gradients);
        bool whole = query > last && query + ACROSS <= all_seen_end;
        for (u32 m = 0; m < MT; m++) {
            u32 sees[2];
            for (u32 h = 0; h < 2; h++) sees[h] = whole ? 0 : seen_to[min_of(mine + row_of(m, h), t - 1)];
            for (u32 n = 0; n < NT; n++) {
                for (u32 e = 0; e < 2; e++) {
                    u32 column = column_of(n, e), token = query + column;
                    float shift = of_rows[column] * (float)LOG2_E, dot = of_rows[ACROSS + column];
                    for (u32 h = 0; h < 2; h++) {
                        u32 row = mine + row_of(m, h);
                        float &x = s[m][n][2 * h + e], dx = ds[m][n][2 * h + e] - dot;
                        x = exp2_fast(score.of(x, (int)(token - row), dx) * score.factor - shift);
                        if (!whole && !(row <= token && token <= sees[h])) x = dx = 0;
                        ds[m][n][2 * h + e] = x * dx;
                    }
                }
            }
        }
        if (WITH_DV) accumulate(dv, s, gradients);
        if (WITH_DK) accumulate(dk, ds, queries);
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
    Scoring score = scoring(scale, cap, slope + head, slopes);

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
        bool whole = key + ACROSS <= mine + 1 && key >= all_see_from;
        for (u32 m = 0; m < MT; m++) {
            for (u32 h = 0; h < 2; h++) {
                u32 row = mine + row_of(m, h), sees = whole ? 0 : first[min_of(row, t - 1)];
                for (u32 n = 0; n < NT; n++) {
                    for (u32 e = 0; e < 2; e++) {
                        u32 at = key + column_of(n, e);
                        float dx = ds[m][n][2 * h + e] - dot[m][h];
                        float x = score.of(s[m][n][2 * h + e], (int)(row - at), dx) * score.factor - shift[m][h];
                        bool hidden = !whole && !(sees <= at && at <= row);
                        ds[m][n][2 * h + e] = hidden ? 0 : exp2_fast(x) * dx;
                    }
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
