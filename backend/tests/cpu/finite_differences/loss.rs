//! The gradient that `CrossEntropy` leaves is `scale` times that of loss / count.
use super::check;
use crate::device::{draw, indices, scaled};
use backend::LogitLoss;

#[test]
fn cross_entropy() {
    for (t, v) in [(1, 2), (1, 5), (6, 17), (9, 40)] {
        for (cap, smoothing) in [(None, 0.0), (None, 0.1), (Some(4.0), 0.0), (Some(2.5), 0.3)] {
            let with = LogitLoss { cap, smoothing };
            let mut labels = indices(3, t, v);
            labels[t / 2] = if t > 1 { u32::MAX } else { labels[0] };
            let types = (&indices(4, t, 3)[..], 3);
            let [count, scale] = [3.0, 40.0];
            check(
                format!("cross-entropy T {t} V {v} {with:?}"),
                vec![scaled(draw(1, t * v), 3.0)],
                |dev, x| {
                    let [stats, _] = dev.cross_entropy(&x[0], &labels, types, [count, scale], with);
                    let [first, rest @ ..] = &dev.cross_entropy_loss(&x[0], &labels, types, cap)[..] else {
                        panic!("no stats")
                    };
                    assert_eq!(&stats[1..], rest, "by types there is no smoothing");
                    assert!(smoothing > 0.0 || stats[0] == *first);
                    vec![stats[0]]
                },
                |dev, x, dy| {
                    let [_, dlogits] = dev.cross_entropy(&x[0], &labels, types, [count, scale], with);
                    vec![scaled(dlogits, count / scale * dy[0])]
                },
            );
        }
    }
}
