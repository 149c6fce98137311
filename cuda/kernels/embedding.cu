// Rows of w picked by index: y[t] = scale w[ids[t] - first], zeros where w has no such row. Types: W_T of w, Y_T of y.
#include "rows.cuh"

// A block for each token.
KERNEL __launch_bounds__(BLOCK) embedding(const u32 *ids, const W_T *w, Y_T *y, u64 first, u64 rows, double scale) {
    // Of a row before the first this is a number beyond all.
    u64 row = (u64)ids[blockIdx.x] - first;
    Row<W_T> in = {};
    if (row < rows) in = load_row(w + row * WIDTH);
    Row<Y_T> out;
    each([&](int p, int j) { out.set(p, j, (real_t)scale * in(p, j)); });
    store_row(y + (u64)blockIdx.x * WIDTH, out);
}
ENTRY(embedding)
