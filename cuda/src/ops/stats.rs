//! Labels and losses, counted and added up.
use super::STATS;
use crate::work::{Arg, Lowering, Place};
use backend::{DType, View};

/// As in `stats.cu`.
const THREADS: usize = 512;

pub fn count_labels(l: &mut Lowering, [labels]: [View; 1], [count]: [View; 1], acc: bool) {
    let args = [labels.into(), count.into(), Arg::small(labels.len), Arg::from(u32::from(acc))];
    l.launch(&STATS, "count_labels").block(THREADS).with(args);
}

/// What each of `t` rows adds to the stats, for [`add_up`].
pub fn rows(l: &mut Lowering, t: usize) -> Place {
    l.scratch(DType::F64, 4 * t)
}

/// rows (T, 4), types (T) -> stats (1 + 3 K)
pub fn add_up(l: &mut Lowering, rows: Place, [types]: [View; 1], [stats]: [View; 1], acc: bool) {
    assert!(stats.len % 3 == 1 && stats.len <= THREADS, "stats of {} numbers", stats.len);
    let numbers = [Arg::small(types.len), Arg::small(stats.len), Arg::from(u32::from(acc))];
    let [t, n, acc] = numbers;
    l.launch(&STATS, "add_up").block(THREADS).with([rows.into(), types.into(), stats.into(), t, n, acc]);
}
