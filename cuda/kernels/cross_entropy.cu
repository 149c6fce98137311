// Cross-entropy of a softmax.
//
//   nll  =  log sum exp(z) - z[label]            loss = (1 - eps) nll + eps (log sum exp(z) - mean(z))
//   dz   =  (softmax(z) - (1 - eps) onehot(label) - eps / V) scale / count, times 1 - (z / cap)^2 where logits are capped
//
// What a row adds to the stats goes to rows (T, 4) f64 = loss, nll, labels, labels that are the largest logit; `stats.cu`
// adds them up. Nothing in a row without a label, not even a NaN, gets out. A label beyond the last makes the loss a NaN.
#include "logits.cuh"

DEVICE real_t logit_of(const X_T *z, u32 label, u32 v, real_t cap) {
    return label < v ? capped(real(z[label]), cap) : (real_t)bits_to_float(0x7fc00000u);
}

DEVICE void tell(double *row, Seen seen, real_t picked, u32 v, double smoothing) {
    double log_total = log((double)seen.softmax.total), max = seen.softmax.max;
    double nll = log_total - ((double)picked - max);
    row[0] = SUMMED ? (1 - smoothing) * nll + smoothing * (log_total + max - seen.sum / v) : nll;
    row[1] = nll;
    row[2] = 1;
    row[3] = picked >= seen.softmax.max;
}
DEVICE void tell_nothing(double *row) {
    for (int i = 0; i < 4; i++) row[i] = 0;
}

// labels (T), logits (T, V) -> rows (T, 4). A block for each row.
KERNEL cross_entropy_loss(const u32 *labels, X_T *logits, double *rows, u32 v, double cap) {
    X_T *z = logits + (u64)blockIdx.x * v;
    double *row = rows + (u64)blockIdx.x * 4;
    u32 label = labels[blockIdx.x];
    if (label == NO_LABEL) {
        if (threadIdx.x == 0) tell_nothing(row);
        return;
    }
    Seen seen = see<false>(z, v, nullptr, 0, (real_t)cap);
    if (threadIdx.x == 0) tell(row, seen, logit_of(z, label, v, (real_t)cap), v, 0);
}
ENTRY(cross_entropy_loss)

// labels (T), count, scale (1) -> logits (T, V) become their gradient, rows (T, 4). A block for each row, which is read once
// as far as shared memory has room for it: for `kept` elements.
KERNEL cross_entropy(const u32 *labels, const double *count, const double *scale, X_T *logits, double *rows, u32 v,
                     u32 kept, double cap_of, double smoothing) {
    DYNAMIC_SHARED(X_T, in_shared);
    X_T *z = logits + (u64)blockIdx.x * v;
    double *row = rows + (u64)blockIdx.x * 4;
    u32 label = labels[blockIdx.x];
    if (label == NO_LABEL || *count == 0) {
        zero_row(z, v);
        if (threadIdx.x == 0) tell_nothing(row);
        return;
    }
    real_t cap = (real_t)cap_of, picked = logit_of(z, label, v, cap);
    Seen seen = see<false>(z, v, in_shared, kept, cap);

    double per_label = *scale / *count;
    real_t max = seen.softmax.max, by = (real_t)per_label / seen.softmax.total;
    real_t on_all = (real_t)(per_label * smoothing / v), on_label = (real_t)(per_label * (1 - smoothing));
    u32 turn = blockDim.x * VEC;
    for (u32 at = threadIdx.x * VEC; at < v; at += DEEP * turn) {
        Pack<X_T, VEC> packs[DEEP];
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            u32 i = at + k * turn;
            if (i < v) packs[k] = i < kept ? load<VEC>(in_shared + i) : load<VEC>(z + i);
        }
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            if (at + k * turn >= v) continue;
            real_t zs[VEC];
            widen(packs[k], zs);
            for (int j = 0; j < VEC; j++) {
                real_t zj = capped(zs[j], cap);
                zs[j] = (exp_quick(zj - max) * by - on_all) * slope_of_cap(zj, cap);
            }
            narrow(packs[k], zs);
            store(z + at + k * turn, packs[k]);
        }
    }
    // By the thread that has just written there.
    if (label < v && threadIdx.x == label / VEC % blockDim.x) {
        real_t d = exp_quick(picked - max) * by - on_all - on_label;
        narrow(z[label], d * slope_of_cap(picked, cap));
    }
    if (threadIdx.x == 0) tell(row, seen, picked, v, smoothing);
}
ENTRY(cross_entropy)
