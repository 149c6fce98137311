// Rows of length one: y = w / n, n = max(|w|, SHORTEST), and back: dw = or += scale (dy - y (y.dy)) / n.
// Types: Y_T of y, S_T of the norms; W_T of w for the way forward, DY_T and DW_T for the way back. A block for each row.
#include "rows.cuh"

// A row that is shorter is not stretched to one.
const real_t SHORTEST = (real_t)1e-12;

#ifdef W_T
KERNEL __launch_bounds__(BLOCK) unit_rows(const W_T *w, Y_T *y, S_T *norms) {
    __shared__ real_t room[WARP];
    u64 row = (u64)blockIdx.x * WIDTH;
    Row<W_T> in = load_row(w + row);
    real_t square = 0;
    each([&](int p, int j) { square += in(p, j) * in(p, j); });
    real_t length = sqrt_of(block_sum(square, room));
    // A norm that is not a number stays one.
    real_t n = length < SHORTEST ? SHORTEST : length;
    if (threadIdx.x == 0) narrow(norms[blockIdx.x], n);
    real_t factor = 1 / n;
    Row<Y_T> out;
    each([&](int p, int j) { out.set(p, j, in(p, j) * factor); });
    store_row(y + row, out);
}
ENTRY(unit_rows)
#endif

#ifdef DW_T
KERNEL __launch_bounds__(BLOCK)
unit_rows_backward(const Y_T *y, const S_T *norms, const DY_T *dy, DW_T *dw, double scale, u32 acc) {
    __shared__ real_t room[WARP];
    u64 row = (u64)blockIdx.x * WIDTH;
    Row<Y_T> unit = load_row(y + row);
    Row<DY_T> from = load_row(dy + row);
    Row<DW_T> out = {};
    if (acc) out = load_row(dw + row);
    real_t norm = real(norms[blockIdx.x]), product = 0;
    each([&](int p, int j) { product += unit(p, j) * from(p, j); });
    product = block_sum(product, room);
    // Below the shortest length y is w divided by a constant.
    real_t along = norm > SHORTEST ? product : 0;
    real_t factor = (real_t)scale / norm;
    each([&](int p, int j) { out.set(p, j, out(p, j) + factor * (from(p, j) - unit(p, j) * along)); });
    store_row(dw + row, out);
}
ENTRY(unit_rows_backward)
#endif
