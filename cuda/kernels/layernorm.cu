// LayerNorm: y = xhat w + b, xhat = (x - mean) rstd, rstd = 1 / sqrt(mean((x - mean)^2) + eps), and back:
// dx += rstd (w dy - mean(w dy) - xhat mean(xhat w dy)), dw = sum over rows of xhat dy, db = sum of dy.
// Types: X_T of x, W_T of w, S_T of the statistics (2, rows) = mean | rstd; B_T and Y_T for the way forward, DY_T and DX_T
// for the way back.
#include "rows.cuh"

#ifdef Y_T
// A block for each row.
KERNEL __launch_bounds__(BLOCK)
layernorm(const X_T *x, const W_T *w, const B_T *b, Y_T *y, S_T *stats, u32 rows, double eps) {
    __shared__ real_t room[WARP];
    u64 row = (u64)blockIdx.x * WIDTH;
    Row<X_T> in = load_row(x + row);
    real_t sum = 0, square = 0;
    each([&](int p, int j) { sum += in(p, j); });
    real_t mean = block_sum(sum, room) / WIDTH;
    each([&](int p, int j) {
        if (inside(p)) square += (in(p, j) - mean) * (in(p, j) - mean);
    });
    real_t r = 1 / sqrt_of(block_sum(square, room) / WIDTH + (real_t)eps);
    if (threadIdx.x == 0) {
        narrow(stats[blockIdx.x], mean);
        narrow(stats[rows + blockIdx.x], r);
    }
    Row<W_T> weight = load_row(w);
    Row<B_T> bias = load_row(b);
    Row<Y_T> out;
    each([&](int p, int j) { out.set(p, j, (in(p, j) - mean) * r * weight(p, j) + bias(p, j)); });
    store_row(y + row, out);
}
ENTRY(layernorm)
#endif

#ifdef DX_T
// Blocks take rows in turns; each sums dw and db over its own, both (blocks, WIDTH). What the next row needs is under way
// while this one is summed.
KERNEL __launch_bounds__(BLOCK)
layernorm_backward(const X_T *x, const W_T *w, const S_T *stats, const DY_T *dy, DX_T *dx, real_t *dw_partials,
                   real_t *db_partials, u32 rows) {
    __shared__ real_t room[WARP];
    Row<W_T> weight = load_row(w);
    Row<real_t> dw = {}, db = {};
    Row<X_T> next_x = load_row(x + (u64)blockIdx.x * WIDTH);
    Row<DY_T> next_dy = load_row(dy + (u64)blockIdx.x * WIDTH);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        Row<X_T> in = next_x;
        Row<DY_T> from = next_dy;
        DX_T *to = dx + (u64)row * WIDTH;
        Row<DX_T> out = load_row(to);
        real_t mean = real(stats[row]), r = real(stats[rows + row]);
        if (row + gridDim.x < rows) {
            next_x = load_row(x + (u64)(row + gridDim.x) * WIDTH);
            next_dy = load_row(dy + (u64)(row + gridDim.x) * WIDTH);
        }
        real_t sum = 0, along = 0;
        each([&](int p, int j) {
            real_t wdy = weight(p, j) * from(p, j);
            sum += wdy;
            along += (in(p, j) - mean) * r * wdy;
        });
        real_t mean_dy = block_sum(sum, room) / WIDTH;
        along = block_sum(along, room) / WIDTH;
        each([&](int p, int j) {
            real_t hat = (in(p, j) - mean) * r;
            out.set(p, j, out(p, j) + r * (weight(p, j) * from(p, j) - mean_dy - hat * along));
            dw.of[p].of[j] += hat * from(p, j);
            db.of[p].of[j] += from(p, j);
        });
        store_row(to, out);
    }
    store_row(dw_partials + (u64)blockIdx.x * WIDTH, dw);
    store_row(db_partials + (u64)blockIdx.x * WIDTH, db);
}
ENTRY(layernorm_backward)
#endif
