//! Rows scaled to length one: y = w / n, n = max(‖w‖, 1e-12), dw = scale (dy - y (y·dy)) / n.
use super::UNIT_ROWS;
use crate::work::Lowering;
use backend::View;

/// w (V, D) -> y (V, D), norms (V)
pub fn forward(l: &mut Lowering, [w]: [View; 1], [y, norms]: [View; 2], d: usize) {
    assert_eq!([w.len, y.len], [norms.len * d; 2]);
    l.launch(&UNIT_ROWS, "unit_rows")
        .real(w)
        .types([("W_T", w.dtype), ("Y_T", y.dtype), ("S_T", norms.dtype)])
        .rows(d, &[w, y])
        .grid(norms.len)
        .with([w.into(), y.into(), norms.into()]);
}

/// y, dy (V, D), norms (V) -> dw (V, D) = or +=
pub fn backward(l: &mut Lowering, [y, norms, dy]: [View; 3], [dw]: [View; 1], d: usize, scale: f64, acc: bool) {
    assert_eq!([y.len, dy.len, dw.len], [norms.len * d; 3]);
    l.launch(&UNIT_ROWS, "unit_rows_backward")
        .real(y)
        .types([("Y_T", y.dtype), ("S_T", norms.dtype), ("DY_T", dy.dtype), ("DW_T", dw.dtype)])
        .rows(d, &[y, dy, dw])
        .grid(norms.len)
        .with([y.into(), norms.into(), dy.into(), dw.into(), scale.into(), u32::from(acc).into()]);
}
