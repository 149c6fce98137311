//! Products with a matrix of weights: y = x wᵀ, dx = dy w, dw = scale dyᵀ x.
//!
//! The library multiplies tensors of one type, into that type or into f32. What comes in other combinations goes through
//! scratch in f32.
use super::elementwise::convert;
use crate::work::{Lowering, Operand, Place, Product, Work};
use backend::{DType, View};

/// x (T, D), w (F, D), `add` (T, F) -> y (T, F)
pub fn forward(l: &mut Lowering, [x, w]: [View; 2], add: Option<View>, y: View, [t, d, f]: [usize; 3]) {
    product(l, [t, f, d], [(x, false), (w, true)], add, y, 1.0);
}

/// dy (T, F), w (F, D) -> dx (T, D)
pub fn backward_input(l: &mut Lowering, [dy, w]: [View; 2], dx: View, [t, d, f]: [usize; 3]) {
    product(l, [t, d, f], [(dy, false), (w, false)], None, dx, 1.0);
}

/// dy (T, F), x (T, D) -> dw (F, D)
pub fn backward_weight(l: &mut Lowering, [dy, x]: [View; 2], dw: View, [t, d, f]: [usize; 3], scale: f64, acc: bool) {
    product(l, [f, d, t], [(dy, true), (x, false)], acc.then_some(dw), dw, scale);
}

/// to (m, n) = alpha a b, or add + alpha a b
fn product(
    l: &mut Lowering,
    [m, n, k]: [usize; 3],
    [a, b]: [(View, bool); 2],
    add: Option<View>,
    to: View,
    alpha: f64,
) {
    if to.len == 0 {
        return;
    }
    let same = a.0.dtype == b.0.dtype;
    let [a, b] = [a, b].map(|(view, transposed)| {
        let at = if same { Place::Of(view) } else { widened(l, view) };
        Operand { at, transposed }
    });
    let (inner, outer) = (a.at.dtype(), to.dtype);
    let served = inner == outer || outer == DType::F32 && matches!(inner, DType::BF16 | DType::F16);
    // Where the product goes, and what is added to it: in one type, which the library has for these factors.
    let d = if served { Place::Of(to) } else { l.scratch(inner.precise(), to.len) };
    let c = match add {
        Some(add) if add.dtype == d.dtype() => Place::Of(add),
        Some(add) => {
            convert(l, add.into(), d, add.len);
            d
        }
        None => d,
    };
    let bytes = l.card.workspace();
    let workspace = l.scratch(DType::BF16, bytes / 2);
    let beta = if add.is_some() { 1.0 } else { 0.0 };
    l.work.push(Work::Product(Product { m, n, k, a, b, c, d, alpha, beta, workspace }));
    if !served {
        convert(l, d, to.into(), to.len);
    }
}

/// In f32 or f64.
fn widened(l: &mut Lowering, view: View) -> Place {
    let precise = view.dtype.precise();
    if view.dtype == precise {
        return Place::Of(view);
    }
    let wide = l.scratch(precise, view.len);
    convert(l, view.into(), wide, view.len);
    wide
}
