// RMSNorm: y = x rstd (w + offset), rstd = 1 / sqrt(mean(x^2) + eps), and back:
// dx += rstd (w dy - xhat mean(xhat w dy)), dw = sum over rows of xhat dy, with xhat = x rstd.
// Types: X_T of x, W_T of w, S_T of rstd; Y_T of y for the way forward, DY_T and DX_T of the gradients for the way back.
#include "rows.cuh"

#ifdef Y_T
// A block for each row.
KERNEL __launch_bounds__(BLOCK) rmsnorm(const X_T *x, const W_T *w, Y_T *y, S_T *rstd, double eps, double offset) {
    __shared__ real_t room[WARP];
    u64 row = (u64)blockIdx.x * WIDTH;
    Row<X_T> in = load_row(x + row);
    real_t square = 0;
    each([&](int p, int j) { square += in(p, j) * in(p, j); });
    real_t r = 1 / sqrt_of(block_sum(square, room) / WIDTH + (real_t)eps);
    if (threadIdx.x == 0) narrow(rstd[blockIdx.x], r);
    Row<W_T> weight = load_row(w);
    Row<Y_T> out;
    each([&](int p, int j) { out.set(p, j, in(p, j) * r * (weight(p, j) + (real_t)offset)); });
    store_row(y + row, out);
}
ENTRY(rmsnorm)
#endif

#ifdef DX_T
// Blocks take rows in turns; each sums dw over its own, partials (blocks, WIDTH). What the next row needs is under way
// while this one is summed.
KERNEL __launch_bounds__(BLOCK)
rmsnorm_backward(const X_T *x, const W_T *w, const S_T *rstd, const DY_T *dy, DX_T *dx, real_t *partials, u32 rows, double offset) {
    __shared__ real_t room[WARP];
    Row<W_T> weight = load_row(w);
    Row<real_t> dw = {};
    Row<X_T> next_x = load_row(x + (u64)blockIdx.x * WIDTH);
    Row<DY_T> next_dy = load_row(dy + (u64)blockIdx.x * WIDTH);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        Row<X_T> in = next_x;
        Row<DY_T> from = next_dy;
        DX_T *to = dx + (u64)row * WIDTH;
        Row<DX_T> out = load_row(to);
        real_t r = real(rstd[row]);
        if (row + gridDim.x < rows) {
            next_x = load_row(x + (u64)(row + gridDim.x) * WIDTH);
            next_dy = load_row(dy + (u64)(row + gridDim.x) * WIDTH);
        }
        real_t along = 0;
        each([&](int p, int j) { along += in(p, j) * (weight(p, j) + (real_t)offset) * from(p, j); });
        real_t mean = block_sum(along, room) * r / WIDTH;
        each([&](int p, int j) {
            real_t hat = in(p, j) * r;
            out.set(p, j, out(p, j) + r * ((weight(p, j) + (real_t)offset) * from(p, j) - hat * mean));
            dw.of[p].of[j] += hat * from(p, j);
        });
        store_row(to, out);
    }
    store_row(partials + (u64)blockIdx.x * WIDTH, dw);
}
ENTRY(rmsnorm_backward)
#endif
