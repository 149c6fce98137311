// A row of WIDTH numbers in the registers of a block of BLOCK threads: each has PACKS packs of VEC numbers, a block apart
// from each other, so that neighbours read neighbours. A row is read once, whatever is computed of it.
#pragma once
#include "prelude.cuh"

const int PACKS = (WIDTH + VEC * BLOCK - 1) / (VEC * BLOCK);

// Where in the row a thread's p-th pack begins.
DEVICE u32 column(int p) { return (p * BLOCK + threadIdx.x) * VEC; }
// Known to the compiler where rows fill all threads.
DEVICE bool inside(int p) { return WIDTH % (VEC * BLOCK) == 0 || column(p) < WIDTH; }

// What a thread has of a row. Beyond the row's end that is zeros.
template <class T> struct Row {
    Pack<T, VEC> of[PACKS];
    DEVICE real_t operator()(int p, int j) const { return real(of[p].of[j]); }
    DEVICE void set(int p, int j, real_t x) { narrow(of[p].of[j], x); }
};

template <class T> DEVICE Row<T> load_row(const T *x) {
    Row<T> row = {};
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (inside(p)) row.of[p] = load<VEC>(x + column(p));
    return row;
}
template <class T> DEVICE void store_row(T *y, const Row<T> &row) {
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (inside(p)) store(y + column(p), row.of[p]);
}

// f(p, j) for each number of a thread.
template <class F> DEVICE void each(F f) {
#pragma unroll
    for (int p = 0; p < PACKS; p++)
#pragma unroll
        for (int j = 0; j < VEC; j++) f(p, j);
}
