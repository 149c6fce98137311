//! Where the stages of a pipeline are, and which way lies what comes next.
use crate::Stage;

/// How the stages of a pipeline of p ranks lie on their places 0 to p - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Every lap goes down: 0, 1, .. p - 1, and again from 0. With one stage a rank there is one lap.
    Loop,
    /// Down and up in turn: 0, 1, .. p - 1, p - 1, .. 0. With two stages a rank the first place has both ends of the model.
    V,
}

/// From the rank of a stage to that of a stage beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// The same rank has both: nothing travels.
    Stay,
    /// To the place after; in a loop the last one's is the first.
    Next,
    /// To the place before.
    Previous,
}

impl Placement {
    pub fn place(self, stage: Stage, pipeline: usize) -> usize {
        let (lap, step) = (stage.0 / pipeline, stage.0 % pipeline);
        match self {
            Placement::V if lap % 2 == 1 => pipeline - 1 - step,
            Placement::Loop | Placement::V => step,
        }
    }

    /// The stages at a place, in the order of the layers.
    pub fn stages(self, place: usize, pipeline: usize, chunks: usize) -> impl Iterator<Item = Stage> + Clone + use<> {
        (0..chunks).map(move |lap| match self {
            Placement::V if lap % 2 == 1 => Stage((lap + 1) * pipeline - 1 - place),
            Placement::Loop | Placement::V => Stage(lap * pipeline + place),
        })
    }

    /// The places before and after one to which it has a link.
    pub fn neighbours(self, place: usize, pipeline: usize, chunks: usize) -> [Option<usize>; 2] {
        let ring = self == Placement::Loop && chunks > 1 && pipeline > 1;
        let before = (place > 0 || ring).then(|| (place + pipeline - 1) % pipeline);
        let after = (place + 1 < pipeline || ring).then(|| (place + 1) % pipeline);
        [before, after]
    }

    /// The way from a stage to the one after or before it.
    pub fn hop(self, from: Stage, to: Stage, pipeline: usize) -> Hop {
        assert!(from.0.abs_diff(to.0) == 1, "stages {} and {} are not beside each other", from.0, to.0);
        let [here, there] = [from, to].map(|stage| self.place(stage, pipeline));
        match self {
            _ if here == there => Hop::Stay,
            Placement::Loop if from < to => Hop::Next,
            Placement::Loop => Hop::Previous,
            Placement::V if here < there => Hop::Next,
            Placement::V => Hop::Previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stage by stage, the places of pipelines of three ranks.
    #[test]
    fn stages_have_places() {
        let places =
            |placement: Placement, stages| (0..stages).map(|s| placement.place(Stage(s), 3)).collect::<Vec<_>>();
        assert_eq!(places(Placement::Loop, 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(places(Placement::V, 9), [0, 1, 2, 2, 1, 0, 0, 1, 2]);
    }

    #[test]
    fn places_and_stages_agree() {
        for placement in [Placement::Loop, Placement::V] {
            for (pipeline, chunks) in (1..6).flat_map(|p| (1..5).map(move |c| (p, c))) {
                let mut seen = vec![];
                for place in 0..pipeline {
                    let stages: Vec<Stage> = placement.stages(place, pipeline, chunks).collect();
                    assert!(stages.is_sorted() && stages.iter().all(|s| placement.place(*s, pipeline) == place));
                    seen.extend(stages);
                }
                seen.sort();
                assert_eq!(seen, (0..pipeline * chunks).map(Stage).collect::<Vec<_>>());
            }
        }
    }

    /// A hop leads over a link to the place of the other stage, and the way back is the opposite.
    #[test]
    fn hops_lead_to_neighbours() {
        for placement in [Placement::Loop, Placement::V] {
            for (pipeline, chunks) in (1..6).flat_map(|p| (1..5).map(move |c| (p, c))) {
                for s in 0..pipeline * chunks - 1 {
                    let (here, there) = (Stage(s), Stage(s + 1));
                    let [from, to] = [here, there].map(|stage| placement.place(stage, pipeline));
                    let [before, after] = placement.neighbours(from, pipeline, chunks);
                    let (forth, back) = (placement.hop(here, there, pipeline), placement.hop(there, here, pipeline));
                    match forth {
                        Hop::Stay => assert_eq!((from, back), (to, Hop::Stay)),
                        Hop::Next => assert_eq!((after, back), (Some(to), Hop::Previous)),
                        Hop::Previous => assert_eq!((before, back), (Some(to), Hop::Next)),
                    }
                }
            }
        }
        assert_eq!(Placement::V.neighbours(2, 3, 2), [Some(1), None], "a V has no link between its ends");
        assert_eq!(Placement::Loop.neighbours(2, 3, 2), [Some(1), Some(0)]);
        assert_eq!(Placement::Loop.neighbours(2, 3, 1), [Some(1), None]);
    }
}
