// Tiles of heads in shared memory, and the products of them that attention is made of.
//
// A warp has 16 MT rows of one side (queries, or keys where gradients of keys are made) against ACROSS rows of the other. Its
// part of a matrix is in fragments, [MT] of 16 rows by [NT] of 8 columns: lane has, of each, c[2 h + e] in the row g + 8 h and
// the column p + e, with g = lane / 4, p = 2 (lane % 4).
// Types: X_T. Macros: DIM, a multiple of 16; MT; WARPS; ACROSS, a multiple of 16.
#pragma once
#include "mma.cuh"

const u32 THREADS = WARPS * WARP, OF_WARP = 16 * MT, ROWS = WARPS * OF_WARP;
const u32 NT = ACROSS / 8, DT = DIM / 8;
// A row is a multiple of 32 bytes; 16 more, and 8 neighbouring rows are in different banks at any column.
const u32 PITCH = DIM + 8;

typedef float Scores[MT][NT][4];
typedef float Sums[MT][DT][4];

DEVICE u32 lane() { return threadIdx.x % WARP; }
DEVICE u32 warp() { return threadIdx.x / WARP; }

template <u32 N> DEVICE void clear(float (&c)[MT][N][4]) {
    for (u32 m = 0; m < MT; m++) {
        for (u32 n = 0; n < N; n++) {
            for (u32 i = 0; i < 4; i++) c[m][n][i] = 0;
        }
    }
}

// Rows first .. first + N of a head, zeros from `end` on; they have arrived when the group of copies has. As many threads as have
// whole rows each copy the same 16 bytes of rows a constant apart.
template <u32 N> DEVICE void bring(X_T *to, const X_T *from, u64 row, u32 first, u32 end) {
    const u32 chunks = DIM / 8, together = THREADS / chunks;
    u32 i = threadIdx.x / chunks, d = threadIdx.x % chunks * 8;
    if (THREADS % chunks != 0 && i >= together) return;
    from += (u64)(first + i) * row + d;
    to += i * PITCH + d;
#pragma unroll
    for (u32 at = 0; at < N; at += together) {
        if (N % together != 0 && at + i >= N) return;
        copy_async<16>(to + at * PITCH, from + at * row, first + i + at < end);
    }
}
// N numbers, one for each token.
template <u32 N> DEVICE void bring(float *to, const float *from, u32 first, u32 end) {
    static_assert(N <= THREADS, "a thread copies one number");
    u32 i = threadIdx.x;
    if (i < N) copy_async<4>(to + i, from + first + i, first + i < end);
}

// s = a b^T: the warp's rows by those of the other side
DEVICE void products(Scores &s, const X_T *a, const X_T *b) {
    clear(s);
    a += (lane() % 16) * PITCH + lane() / 16 * 8;
    b += (lane() / 16 * 8 + lane() % 8) * PITCH + lane() / 8 % 2 * 8;
#pragma unroll
    for (u32 k = 0; k < DIM; k += 16) {
        u32 of_a[MT][4];
        for (u32 m = 0; m < MT; m++) ldmatrix_x4(of_a[m], a + m * 16 * PITCH + k);
#pragma unroll
        for (u32 n = 0; n < NT; n += 2) {
            u32 of_b[4];
            ldmatrix_x4(of_b, b + n * 8 * PITCH + k);
            const u32 left[2] = {of_b[0], of_b[1]}, right[2] = {of_b[2], of_b[3]};
            for (u32 m = 0; m < MT; m++) {
                mma_16816<X_T>(s[m][n], of_a[m], left);
                mma_16816<X_T>(s[m][n + 1], of_a[m], right);
            }
        }
    }
}

// c += p b: two neighbouring fragments of a product are one of the left side, rounded.
DEVICE void accumulate(Sums &c, const Scores &p, const X_T *b) {
    b += (lane() % 16) * PITCH + lane() / 16 * 8;
#pragma unroll
    for (u32 k = 0; k < NT; k += 2) {
        u32 of_p[MT][4];
        for (u32 m = 0; m < MT; m++) {
            for (u32 i = 0; i < 4; i++) {
                const float *pair = &p[m][k + i / 2][i % 2 * 2];
                of_p[m][i] = pair_of<X_T>(pair[0], pair[1]);
            }
        }
#pragma unroll
        for (u32 n = 0; n < DT; n += 2) {
            u32 of_b[4];
            ldmatrix_x4_trans(of_b, b + k * 8 * PITCH + n * 8);
            const u32 left[2] = {of_b[0], of_b[1]}, right[2] = {of_b[2], of_b[3]};
            for (u32 m = 0; m < MT; m++) {
                mma_16816<X_T>(c[m][n], of_p[m], left);
                mma_16816<X_T>(c[m][n + 1], of_p[m], right);
            }
        }
    }
}

// The warp's rows of a head, of which row 0 is `first`, before `end`: by way of shared memory that only this warp still uses, so
// that whole rows are written.
DEVICE void write(X_T *to, u64 row, u32 first, u32 end, const Sums &c, X_T *room) {
    __syncwarp();
    for (u32 m = 0; m < MT; m++) {
        for (u32 n = 0; n < DT; n++) {
            for (u32 h = 0; h < 2; h++) {
                X_T *at = room + (m * 16 + h * 8 + lane() / 4) * PITCH + n * 8 + lane() % 4 * 2;
                *(u32 *)at = pair_of<X_T>(c[m][n][2 * h], c[m][n][2 * h + 1]);
            }
        }
    }
    __syncwarp();
    const u32 chunks = DIM / 8;
    for (u32 at = lane(); at < OF_WARP * chunks; at += WARP) {
        u32 i = at / chunks, d = at % chunks * 8;
        if (first + i < end) store(to + (first + i) * row + d, load<8>(room + i * PITCH + d));
    }
}
