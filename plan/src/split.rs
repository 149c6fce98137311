//! `parallel.pipeline.layers`: how many layers each stage has, in stage order. Left out, they are split evenly.
use crate::Stage;
use std::ops::Range;

/// Layers of a stage. A given split has been checked.
pub fn layers(split: &Option<Vec<usize>>, layers: usize, stages: usize, stage: Stage) -> Range<usize> {
    let first = |stage: usize| match split {
        Some(split) => split[..stage].iter().sum(),
        None => layers * stage / stages,
    };
    first(stage.0)..first(stage.0 + 1)
}

/// Has every stage its layers, at least one, and every layer its stage? If not, an error with a split that works, as near to
/// the given one as it can be.
pub fn check(split: &[usize], layers: usize, stages: usize) -> Result<(), String> {
    let sum = split.iter().fold(0, |sum: usize, n| sum.saturating_add(*n));
    let fault = if split.len() != stages {
        format!("has {} entries, but the pipeline has {stages} stages", split.len())
    } else if let Some(stage) = split.iter().position(|n| *n == 0) {
        format!("leaves stage {stage} without a layer")
    } else if sum != layers {
        format!("sums to {sum}, but model.num_hidden_layers = {layers}")
    } else {
        return Ok(());
    };
    let way_out = match nearest(split, layers, stages) {
        Some(split) => format!("try {split:?}"),
        None => format!("{stages} stages are more than {layers} layers; use fewer stages"),
    };
    Err(format!("parallel.pipeline.layers = {split:?} {fault}; {way_out}"))
}

/// The given split where it has the right length, else the even one; then too many layers are taken from the largest stages,
/// and too few given to the smallest, one by one.
fn nearest(split: &[usize], total: usize, stages: usize) -> Option<Vec<usize>> {
    if stages > total {
        return None;
    }
    if split.len() != stages {
        return Some((0..stages).map(|s| layers(&None, total, stages, Stage(s)).len()).collect());
    }
    let mut out: Vec<usize> = split.iter().map(|n| (*n).clamp(1, total)).collect();
    loop {
        let sum: usize = out.iter().sum();
        match sum.cmp(&total) {
            std::cmp::Ordering::Equal => return Some(out),
            std::cmp::Ordering::Less => *out.iter_mut().min().expect("there is a stage") += 1,
            std::cmp::Ordering::Greater => *out.iter_mut().max().expect("there is a stage") -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_the_layers_they_are_given() {
        let all = |split: Option<Vec<usize>>, total, stages| {
            (0..stages).map(|s| layers(&split, total, stages, Stage(s))).collect::<Vec<_>>()
        };
        assert_eq!(all(Some(vec![5, 5, 4, 2]), 16, 4), [0..5, 5..10, 10..14, 14..16]);
        assert_eq!(all(None, 7, 3), [0..2, 2..4, 4..7]);
    }

    /// What an error proposes is accepted.
    #[test]
    fn faults_are_named_and_mended() {
        let check = |split: &[usize], layers, stages, want: &str| {
            assert_eq!(check(split, layers, stages).unwrap_err(), format!("parallel.pipeline.layers = {want}"));
            if let Some(split) = nearest(split, layers, stages) {
                super::check(&split, layers, stages).unwrap();
            }
        };
        assert_eq!(super::check(&[5, 5, 4, 2], 16, 4), Ok(()));
        check(&[8, 8], 16, 4, "[8, 8] has 2 entries, but the pipeline has 4 stages; try [4, 4, 4, 4]");
        check(&[5, 5, 4, 3], 16, 4, "[5, 5, 4, 3] sums to 17, but model.num_hidden_layers = 16; try [5, 4, 4, 3]");
        check(&[3, 4], 9, 2, "[3, 4] sums to 7, but model.num_hidden_layers = 9; try [5, 4]");
        check(&[0, 4, 0], 4, 3, "[0, 4, 0] leaves stage 0 without a layer; try [1, 2, 1]");
        let huge = usize::MAX;
        check(&[huge, 2], 4, 2, &format!("[{huge}, 2] sums to {huge}, but model.num_hidden_layers = 4; try [2, 2]"));
        check(
            &[],
            2,
            3,
            "[] has 0 entries, but the pipeline has 3 stages; 3 stages are more than 2 layers; use fewer stages",
        );
    }
}
