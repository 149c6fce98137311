// RMSNorm of every query head and every key head: y = x rstd w, rstd = 1 / sqrt(mean(x^2) + eps) over the DIM numbers of a
// head; values pass. Back, in place: dy <- rstd (w dy - xhat mean(xhat w dy)), dw = sum of xhat dy, with xhat = x rstd.
// x is (tokens, HEADS, DIM), of which QUERIES and then KEYS are normed. TEAM lanes share a head, packs of VEC.
// Types: X_T of x, W_T of w, S_T of rstd; Y_T of y for the way forward, DY_T of the gradient for the way back.
#include "prelude.cuh"

const u32 NORMED = QUERIES + KEYS;
const u32 TEAMS = BLOCK / TEAM;
// Packs of a lane, a team apart from each other.
const u32 PACKS = (DIM + VEC * TEAM - 1) / (VEC * TEAM);
// Heads of a team that are under way at once.
const u32 BATCH = PACKS < 4 ? 4 / PACKS : 1;

// What a lane has of a head. Beyond the head's end that is zeros.
template <class T> struct Head {
    Pack<T, VEC> of[PACKS];
    DEVICE real_t operator()(u32 p, u32 j) const { return real(of[p].of[j]); }
    DEVICE void set(u32 p, u32 j, real_t x) { narrow(of[p].of[j], x); }
};
DEVICE u32 column(u32 p) { return (p * TEAM + threadIdx.x % TEAM) * VEC; }
template <class T> DEVICE Head<T> load_head(const T *x) {
    Head<T> head = {};
#pragma unroll
    for (u32 p = 0; p < PACKS; p++)
        if (column(p) < DIM) head.of[p] = load<VEC>(x + column(p));
    return head;
}
template <class T> DEVICE void store_head(T *y, const Head<T> &head) {
#pragma unroll
    for (u32 p = 0; p < PACKS; p++)
        if (column(p) < DIM) store(y + column(p), head.of[p]);
}
// f(p, j) for each number of a lane.
template <class F> DEVICE void each(F f) {
#pragma unroll
    for (u32 p = 0; p < PACKS; p++)
#pragma unroll
        for (u32 j = 0; j < VEC; j++) f(p, j);
}
DEVICE real_t team_sum(real_t x) {
    for (u32 d = TEAM / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

#ifdef Y_T
// A block for TEAMS * BATCH heads of any kind.
KERNEL __launch_bounds__(BLOCK) head_norm(const X_T *x, const W_T *w, Y_T *y, S_T *rstd, u32 heads, double eps) {
    u32 first = blockIdx.x * (TEAMS * BATCH) + threadIdx.x / TEAM;
    Head<X_T> in[BATCH];
#pragma unroll
    for (u32 k = 0; k < BATCH; k++) {
        in[k] = {};
        if (first + k * TEAMS < heads) in[k] = load_head(x + (u64)(first + k * TEAMS) * DIM);
    }
#pragma unroll
    for (u32 k = 0; k < BATCH; k++) {
        real_t square = 0;
        each([&](u32 p, u32 j) { square += in[k](p, j) * in[k](p, j); });
        square = team_sum(square);
        u32 head = first + k * TEAMS, token = head / HEADS, which = head % HEADS;
        if (head >= heads) continue;
        Head<Y_T> out;
        if (which < NORMED) {
            real_t r = 1 / sqrt_of(square / DIM + (real_t)eps);
            if (threadIdx.x % TEAM == 0) narrow(rstd[(u64)token * NORMED + which], r);
            Head<W_T> weight = load_head(which < QUERIES ? w : w + DIM);
            each([&](u32 p, u32 j) { out.set(p, j, in[k](p, j) * r * weight(p, j)); });
        } else {
            each([&](u32 p, u32 j) { out.set(p, j, in[k](p, j)); });
        }
        store_head(y + (u64)head * DIM, out);
    }
}
ENTRY(head_norm)
#endif

#ifdef DY_T
// Of one kind: `own` of each token's heads from `offset` on, whose weight is w (DIM). A block takes `chunk` of all of them
// and sums dw over those, partials (blocks, DIM).
KERNEL __launch_bounds__(BLOCK) head_norm_backward(const X_T *x, const W_T *w, const S_T *rstd, DY_T *dqkv, real_t *partials,
                                                   u32 heads, u32 chunk, u32 offset, u32 own) {
    __shared__ __align__(16) real_t sums[TEAMS][DIM];
    u32 team = threadIdx.x / TEAM;
    u32 begin = blockIdx.x * chunk, end = min_of(heads, begin + chunk);
    Head<W_T> weight = load_head(w);
    Head<real_t> dw = {};
    // All teams go round as often, since lanes of several share a warp.
    for (u32 first = begin; first < end; first += TEAMS * BATCH) {
        Head<X_T> in[BATCH];
        Head<DY_T> from[BATCH];
        real_t r[BATCH];
        u64 at[BATCH];
#pragma unroll
        for (u32 k = 0; k < BATCH; k++) {
            u32 head = first + k * TEAMS + team, token = head / own, which = offset + head % own;
            at[k] = ((u64)token * HEADS + which) * DIM;
            in[k] = {};
            from[k] = {};
            r[k] = 0;
            if (head < end) {
                in[k] = load_head(x + at[k]);
                from[k] = load_head(dqkv + at[k]);
                r[k] = real(rstd[(u64)token * NORMED + which]);
            }
        }
#pragma unroll
        for (u32 k = 0; k < BATCH; k++) {
            real_t along = 0;
            each([&](u32 p, u32 j) { along += in[k](p, j) * weight(p, j) * from[k](p, j); });
            real_t mean = team_sum(along) * r[k] / DIM;
            each([&](u32 p, u32 j) {
                real_t hat = in[k](p, j) * r[k], dy = from[k](p, j);
                dw.of[p].of[j] += hat * dy;
                from[k].set(p, j, r[k] * (weight(p, j) * dy - hat * mean));
            });
            if (first + k * TEAMS + team < end) store_head(dqkv + at[k], from[k]);
        }
    }
    store_head(sums[team], dw);
    __syncthreads();
    for (u32 i = threadIdx.x; i < DIM; i += BLOCK) {
        real_t sum = 0;
        for (u32 t = 0; t < TEAMS; t++) sum += sums[t][i];
        partials[(u64)blockIdx.x * DIM + i] = sum;
    }
}
ENTRY(head_norm_backward)
#endif
