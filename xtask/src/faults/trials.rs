//! Many faults of a kind, two side by side: each has a number, from which with the seed all follows that is random in it.
use crate::faults::desk::Lab;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which faults are asked for.
pub struct Trials {
    pub count: Option<usize>,
    pub seed: u64,
    pub only: Option<usize>,
}

/// What a fault met and what came of it, in words that are counted.
pub type Outcome = Vec<String>;

pub struct Tally {
    kind: String,
    faults: usize,
    outcomes: BTreeMap<String, usize>,
    pub failed: usize,
    took: Duration,
}

impl Trials {
    /// Numbers of faults that are all random.
    pub fn of_random(&self, large: usize) -> Vec<usize> {
        match self.only {
            Some(only) => vec![only],
            None => (0..self.count.unwrap_or(large)).collect(),
        }
    }

    /// Numbers of faults out of a list, evenly.
    pub fn of_list(&self, len: usize) -> Result<Vec<usize>> {
        if let Some(only) = self.only {
            ensure!(only < len, "there is no fault {only}; there are 0 to {}", len - 1);
            return Ok(vec![only]);
        }
        let count = self.count.unwrap_or(len).min(len);
        Ok((0..count).map(|i| i * len / count).collect())
    }

    /// A failure is told at once, and the others go on.
    pub fn run(
        &self,
        lab: &Lab,
        numbers: &[usize],
        trial: impl Fn(usize, &mut Random) -> Result<Outcome> + Sync,
    ) -> Tally {
        const AT_ONCE: usize = 2;
        let (began, next) = (Instant::now(), AtomicUsize::new(0));
        let results = Mutex::new((BTreeMap::new(), 0));
        let work = || {
            while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = trial(number, &mut Random::new(self.seed, number));
                let mut results = results.lock().expect("no trial panics here");
                match outcome {
                    Ok(words) => words.into_iter().for_each(|word| *results.0.entry(word).or_insert(0) += 1),
                    Err(error) => {
                        results.1 += 1;
                        println!(
                            "{kind} {number} FAILED: {error:#}\n  again: cargo xtask faults {kind} --seed {seed} --only {number}",
                            kind = lab.kind,
                            seed = self.seed
                        );
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
        let (outcomes, failed) = results.into_inner().expect("no trial panics here");
        Tally { kind: lab.kind.clone(), faults: numbers.len(), outcomes, failed, took: began.elapsed() }
    }
}

impl Tally {
    /// How many faults had this outcome.
    pub fn count(&self, outcome: &str) -> usize {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }
    pub fn note(&mut self, outcome: &str, count: usize) {
        self.outcomes.insert(outcome.into(), count);
    }
}

/// A row of the table.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tally { kind, faults, outcomes, failed, took } = self;
        let words: Vec<String> = outcomes.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let seconds = took.as_secs_f64();
        write!(f, "{kind:12} {faults:5} faults {failed:3} FAILED {seconds:6.1} s  {}", words.join(", "))
    }
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    fn new(seed: u64, number: usize) -> Random {
        let mut random = Random(seed);
        Random(random.next() ^ number as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Up to so long.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.below(longest.as_nanos() as u64))
    }
}

#[test]
fn a_list_is_sampled_evenly_and_a_number_names_one() {
    let of = |count, only| Trials { count, seed: 1, only };
    assert_eq!(of(None, None).of_list(3).unwrap(), [0, 1, 2]);
    assert_eq!(of(Some(3), None).of_list(10).unwrap(), [0, 3, 6]);
    assert_eq!(of(Some(30), None).of_list(2).unwrap(), [0, 1]);
    assert_eq!(of(None, Some(7)).of_list(10).unwrap(), [7]);
    assert!(of(None, Some(7)).of_list(7).is_err());
    assert_eq!(of(None, None).of_random(3), [0, 1, 2]);
    assert_eq!(of(Some(2), None).of_random(3), [0, 1]);
}
