//! Rows picked by index, and gradients added back to where they came from.
//!
//! ```text
//! y[t] = scale w[ids[t]]        dw[v] = scale Σ dy[t] over the tokens t with ids[t] = v
//! ```
use super::{EMBEDDING, EMBEDDING_BACKWARD, TOKEN_SORT};
use crate::work::{Arg, Launching, Lowering, Place, vector};
use backend::{DType, View};

/// ids (T), w (V, D) -> y (T, D)
pub fn forward(l: &mut Lowering, [ids, w]: [View; 2], [y]: [View; 1], d: usize, scale: f64, first: Option<usize>) {
    assert_eq!(y.len, ids.len * d);
    l.launch(&EMBEDDING, "embedding")
        .real(w)
        .types([("W_T", w.dtype), ("Y_T", y.dtype)])
        .rows(d, &[w, y])
        .grid(ids.len)
        .with([ids.into(), w.into(), y.into(), first.unwrap_or(0).into(), (w.len / d).into(), scale.into()]);
}

/// ids (T), dy (T, D) -> dw (V, D) = or +=
///
/// Tokens are sorted by row. Then windows of them are summed, whatever rows they belong to, and what crosses a border of
/// windows is put together at the end: the order of every sum follows from the ids and the shapes.
pub fn backward(
    l: &mut Lowering,
    [ids, dy]: [View; 2],
    [dw]: [View; 1],
    d: usize,
    scale: f64,
    first: Option<usize>,
    acc: bool,
) {
    let (t, rows) = (ids.len, dw.len / d);
    assert_eq!(dy.len, t * d);
    assert!(t < 1 << 31, "tokens are counted in 32 bits");
    let keys = sort(l, ids, first.unwrap_or(0), rows);

    let cut = Cut::of(t, d, [dy, dw]);
    let (windows, columns) = (t.div_ceil(cut.window), d.div_ceil(cut.block * cut.vec));
    let sums = l.scratch(dy.dtype.precise(), 2 * windows * d);
    let [keys, sums, from, to] = [keys.into(), sums.into(), dy.into(), dw.into()];
    let ([tokens, count], scale) = ([t as u32, rows as u32].map(Arg::from), scale.into());
    if !acc {
        cut.kernel(l, "zero_absent").grid(rows.div_ceil(32)).block(256).with([keys, to, tokens, count]);
    }
    let (acc, blocks) = (u32::from(acc).into(), windows * columns);
    cut.kernel(l, "add_windows").grid(blocks).with([keys, from, to, sums, tokens, count, scale, acc]);
    cut.kernel(l, "add_crossing").grid(blocks).with([keys, sums, to, tokens, count, scale, acc]);
}

/// How the sums of the gradient are cut into blocks.
struct Cut {
    tensors: [View; 2],
    d: usize,
    vec: usize,
    /// Threads, each with a pack of the columns.
    block: usize,
    /// Sorted tokens of a block: many where that leaves enough blocks.
    window: usize,
}

impl Cut {
    fn of(t: usize, d: usize, tensors: [View; 2]) -> Cut {
        let vec = vector(d, &tensors);
        let block = d.div_ceil(vec).next_multiple_of(32).min(128);
        let window = (t * d.div_ceil(block * vec) / 1024).next_power_of_two().clamp(16, 64);
        Cut { tensors, d, vec, block, window }
    }

    fn kernel<'a>(&self, l: &'a mut Lowering, entry: &'static str) -> Launching<'a> {
        let [dy, dw] = self.tensors;
        l.launch(&EMBEDDING_BACKWARD, entry)
            .real(dy)
            .types([("DY_T", dy.dtype), ("DW_T", dw.dtype)])
            .define("VEC", self.vec)
            .define("WIDTH", self.d)
            .define("BLOCK", self.block)
            .define("WINDOW", self.window)
            .block(self.block)
    }
}

/// ids (T) -> keys (T), the rows above the tokens, in order
fn sort(l: &mut Lowering, ids: View, first: usize, rows: usize) -> Place {
    let tile = ids.len.next_power_of_two().clamp(64, 2048);
    let tiles = ids.len.div_ceil(tile);
    // Keys have 64 bits; no type of a tensor says so, but this one is as large.
    let [in_tiles, sorted] = [tiles * tile, ids.len].map(|len| l.scratch(DType::F64, len));
    l.launch(&TOKEN_SORT, "sort_tiles").define("TILE", tile).grid(tiles).block(tile / 2).with([
        ids.into(),
        in_tiles.into(),
        (ids.len as u32).into(),
        first.into(),
        (rows as u32).into(),
    ]);
    l.launch(&TOKEN_SORT, "merge_tiles").define("TILE", tile).grid((tiles * tile).div_ceil(256)).block(256).with([
        in_tiles.into(),
        sorted.into(),
        (tiles as u32).into(),
    ]);
    sorted
}
