// Cross-entropy of a vocabulary that is cut over ranks (Shoeybi et al. 2019, section 3): each rank has the logits of its
// columns, and four numbers a row are all that travels.
//
//   a rank     max, sum exp(z - max), z[label] if it is here, sum z
//   together   M = the largest max        S = sum over ranks of sum exp(max - M), in rank order
//   loss and dz as in `cross_entropy`, with M and S
#include "logits.cuh"

// labels (T), logits (T, V') capped in place -> parts (T, 4). The columns of a rank are the vocabulary's from `first` on;
// those from `filled` on are padding. A block for each row.
KERNEL logit_parts(const u32 *labels, X_T *logits, double *parts, u32 width, u32 first, u32 filled, double cap) {
    X_T *z = logits + (u64)blockIdx.x * width;
    double *part = parts + (u64)blockIdx.x * 4;
    u32 label = labels[blockIdx.x], here = label - first;
    // A rank may have nothing but padding.
    if (label == NO_LABEL || filled == 0) {
        if (threadIdx.x > 0) return;
        part[0] = label == NO_LABEL ? 0 : -(double)bits_to_float(0x7f800000u);
        part[1] = part[2] = part[3] = 0;
        return;
    }
    real_t picked = here < filled ? capped(real(z[here]), (real_t)cap) : 0;
    // What follows caps the row in place.
    if (CAPPED) __syncthreads();
    Seen seen = see<CAPPED>(z, filled, nullptr, 0, (real_t)cap);
    if (threadIdx.x > 0) return;
    part[0] = seen.softmax.max;
    part[1] = seen.softmax.total;
    part[2] = picked;
    part[3] = seen.sum;
}
ENTRY(logit_parts)

// What the parts of a row make together.
struct Joined {
    double max, total, picked, sum;
};

// parts (ranks, T, 4), of row `t`.
DEVICE Joined join(const double *parts, u32 ranks, u32 rows, u32 t) {
    auto part = [&](u32 rank) { return parts + ((u64)rank * rows + t) * 4; };
    Joined all = {-(double)bits_to_float(0x7f800000u), 0, 0, 0};
    for (u32 rank = 0; rank < ranks; rank++) {
        double max = part(rank)[0];
        if (max > all.max || max != max) all.max = max;
    }
    for (u32 rank = 0; rank < ranks; rank++) {
        all.total += part(rank)[1] * exp(part(rank)[0] - all.max);
        all.picked += part(rank)[2];
        all.sum += part(rank)[3];
    }
    return all;
}

// labels (T), parts (ranks, T, 4) -> rows (T, 4), as of `cross_entropy`. A thread for each row.
KERNEL loss_of_parts(const u32 *labels, const double *parts, double *rows, u32 t, u32 ranks, u32 vocab,
                     double smoothing) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t) return;
    double *row = rows + (u64)i * 4;
    if (labels[i] == NO_LABEL) {
        row[0] = row[1] = row[2] = row[3] = 0;
        return;
    }
    Joined all = join(parts, ranks, t, i);
    double log_total = log(all.total), nll = log_total - (all.picked - all.max);
    double even = smoothing > 0 ? smoothing * (log_total + all.max - all.sum / vocab) : 0;
    row[0] = (1 - smoothing) * nll + even;
    row[1] = nll;
    row[2] = 1;
    row[3] = all.picked >= all.max;
}
ENTRY(loss_of_parts)

// labels (T), count, scale (1), parts (ranks, T, 4), logits (T, V') capped -> their gradient; zeros in the padding. A block
// for each row.
KERNEL logit_gradient(const u32 *labels, const double *count, const double *scale, const double *parts, X_T *logits,
                      u32 ranks, u32 width, u32 first, u32 filled, u32 vocab, double cap_of, double smoothing) {
    __shared__ Joined room;
    X_T *z = logits + (u64)blockIdx.x * width;
    u32 label = labels[blockIdx.x], here = label - first;
    if (label == NO_LABEL || *count == 0) {
        zero_row(z, width);
        return;
    }
    if (threadIdx.x == 0) room = join(parts, ranks, gridDim.x, blockIdx.x);
    __syncthreads();

    double per_label = *scale / *count;
    real_t cap = (real_t)cap_of, max = (real_t)room.max, by = (real_t)(per_label / room.total);
    real_t on_all = (real_t)(per_label * smoothing / vocab), on_label = (real_t)(per_label * (1 - smoothing));
    auto gradient = [&](real_t z, real_t on) { return (exp_quick(z - max) * by - on) * slope_of_cap(z, cap); };
    bool mine = here < filled && threadIdx.x == here / VEC % blockDim.x;
    real_t picked = mine ? real(z[here]) : 0;
    u32 turn = blockDim.x * VEC;
    for (u32 at = threadIdx.x * VEC; at < width; at += DEEP * turn) {
        Pack<X_T, VEC> packs[DEEP];
#pragma unroll
        for (u32 k = 0; k < DEEP; k++)
            if (at + k * turn < width) packs[k] = load<VEC>(z + at + k * turn);
#pragma unroll
        for (u32 k = 0; k < DEEP; k++) {
            u32 i = at + k * turn;
            if (i >= width) continue;
            real_t zs[VEC];
            widen(packs[k], zs);
            for (int j = 0; j < VEC; j++) zs[j] = i + j < filled ? gradient(zs[j], on_all) : 0;
            narrow(packs[k], zs);
            store(z + i, packs[k]);
        }
    }
    if (mine) narrow(z[here], gradient(picked, on_all + on_label));
}
ENTRY(logit_gradient)
