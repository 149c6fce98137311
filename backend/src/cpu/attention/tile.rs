//! The inner loop of all of attention: a tile of a product, 8 rows by 16 or 32 columns, kept in registers.
use crate::cpu::lanes::{LANES, Lanes};

/// Rows of a tile.
pub const ROWS: usize = 8;
/// Columns of a tile; also of the panels that the operands of scores are packed into.
pub const COLUMNS: usize = 2 * LANES;

/// Calls `out(i, j, c)` with the products Σ A(i, p) B(p, j ..) over p < k, for the rows i and the `columns` of a tile. A(i, p)
/// is a[i ROW + p STEP], B(p, j) is b[p stride + j]. Strides of a that the compiler does not know cost registers.
#[inline(always)]
pub fn product<E: Copy, L: Lanes<E>, const ROW: usize, const STEP: usize>(
    k: usize,
    a: &[E],
    (b, stride): (&[E], usize),
    columns: usize,
    mut out: impl FnMut(usize, usize, L),
) {
    assert!(k > 0 && a.len() > (ROWS - 1) * ROW + (k - 1) * STEP);
    assert!(b.len() >= (k - 1) * stride + columns);
    // SAFETY: with the lengths just checked, the parts asked for here lie inside of a and b: rows and columns of a part
    // divide those of the tile.
    unsafe {
        match (L::SUMS, columns) {
            ([8, 2], COLUMNS) => part::<E, L, 8, 2, ROW, STEP>(k, a, b, stride, [0, 0], &mut out),
            ([8, _], LANES) => part::<E, L, 8, 1, ROW, STEP>(k, a, b, stride, [0, 0], &mut out),
            ([4, 1], _) => {
                for row in (0..ROWS).step_by(4) {
                    for column in (0..columns).step_by(LANES) {
                        part::<E, L, 4, 1, ROW, STEP>(k, a, b, stride, [row, column], &mut out);
                    }
                }
            }
            ([2, 1], _) => {
                for row in (0..ROWS).step_by(2) {
                    for column in (0..columns).step_by(LANES) {
                        part::<E, L, 2, 1, ROW, STEP>(k, a, b, stride, [row, column], &mut out);
                    }
                }
            }
            (sums, _) => unreachable!("{sums:?} sums, {columns} columns"),
        }
    }
}

/// The part of a tile with its first row and column at `at`: R rows of V vectors.
///
/// # Safety
/// a has an element A(at[0] + R - 1, k - 1), and b a vector B(k - 1, at[1] + 16 (V - 1) ..).
#[inline(always)]
unsafe fn part<E: Copy, L: Lanes<E>, const R: usize, const V: usize, const ROW: usize, const STEP: usize>(
    k: usize,
    a: &[E],
    b: &[E],
    stride: usize,
    at: [usize; 2],
    out: &mut impl FnMut(usize, usize, L),
) {
    // SAFETY: by the contract.
    let (mut a, mut b) = unsafe { (a.as_ptr().add(at[0] * ROW), b.as_ptr().add(at[1])) };
    let zero = L::zero();
    let mut c = [[zero; V]; R];
    for _ in 0..k {
        let mut row = [zero; V];
        for v in 0..V {
            // SAFETY: by the contract.
            row[v] = L::load(unsafe { std::slice::from_raw_parts(b.add(v * LANES), LANES) });
        }
        for r in 0..R {
            // SAFETY: by the contract.
            let x = L::splat(unsafe { *a.add(r * ROW) });
            for v in 0..V {
                c[r][v] = x.mul_add(row[v], c[r][v]);
            }
        }
        (a, b) = (a.wrapping_add(STEP), b.wrapping_add(stride));
    }
    for r in 0..R {
        for v in 0..V {
            out(at[0] + r, at[1] + v * LANES, c[r][v]);
        }
    }
}

/// C (8, width) += A (8, k) B (k, width), with A as in [`product`] and rows of B and C that are `width` long, a multiple
/// of 16.
#[inline(always)]
pub fn accumulate<E: Copy, L: Lanes<E>, const ROW: usize, const STEP: usize>(
    k: usize,
    a: &[E],
    b: &[E],
    c: &mut [E],
    width: usize,
) {
    assert!(c.len() >= ROWS * width && width.is_multiple_of(LANES));
    for column in (0..width).step_by(COLUMNS) {
        product::<E, L, ROW, STEP>(
            k,
            a,
            (&b[column..], width),
            COLUMNS.min(width - column),
            #[inline(always)]
            |i, j, x| {
                let at = i * width + column + j;
                // SAFETY: a vector of the row i < 8 of C, which was checked to hold it.
                let c = unsafe { c.get_unchecked_mut(at..at + LANES) };
                x.add(L::load(c)).store(c);
            },
        );
    }
}
