//! What a person would want to be told: a loss that jumps, a step that takes much longer than the others.
use std::collections::VecDeque;
use std::time::Duration;

/// Steps that the median is taken over.
const WINDOW: usize = 50;
/// Steps after which a median means something.
const ENOUGH: usize = 5;
/// Less than this above the median is noise.
const NOTABLE: Duration = Duration::from_millis(500);

pub struct Watch {
    spike_factor: f64,
    slow_factor: f64,
    last_loss: Option<f64>,
    times: VecDeque<Duration>,
}

impl Watch {
    /// A factor of 0 never warns.
    pub fn new(spike_factor: f64, slow_factor: f64) -> Watch {
        Watch { spike_factor, slow_factor, last_loss: None, times: VecDeque::new() }
    }

    /// A loss that is `spike_factor` times the last one, which is the original's rule.
    pub fn loss(&mut self, loss: f64) -> Option<String> {
        let last = if loss.is_finite() { self.last_loss.replace(loss) } else { self.last_loss };
        let last = last.filter(|last| self.spike_factor > 0.0 && loss > last * self.spike_factor)?;
        Some(format!("the loss jumped from {last:.4} to {loss:.4}"))
    }

    /// A step that takes `slow_factor` times the median of those before it, and notably longer.
    pub fn time(&mut self, took: Duration) -> Option<String> {
        let mut sorted: Vec<Duration> = self.times.iter().copied().collect();
        sorted.sort_unstable();
        if self.times.len() == WINDOW {
            self.times.pop_front();
        }
        self.times.push_back(took);
        if sorted.len() < ENOUGH || self.slow_factor == 0.0 {
            return None;
        }
        let median = sorted[sorted.len() / 2];
        let slow = took.as_secs_f64() > median.as_secs_f64() * self.slow_factor;
        (slow && took - median > NOTABLE)
            .then(|| format!("a slow step: {took:.1?}, while the median of the last {} is {median:.1?}", sorted.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_loss() {
        let mut w = Watch::new(1.5, 0.0);
        assert_eq!(w.loss(2.0), None);
        assert_eq!(w.loss(2.9), None);
        assert!(w.loss(4.5).unwrap().contains("from 2.9000 to 4.5000"));
        assert_eq!(w.loss(4.5), None, "it is told once");
        assert_eq!(w.loss(f64::NAN), None, "that is a skipped step, with its own line");
        assert!(w.loss(9.0).unwrap().contains("from 4.5000"));
        let mut off = Watch::new(0.0, 0.0);
        assert_eq!((off.loss(1.0), off.loss(100.0)), (None, None));
    }

    #[test]
    fn a_slow_step() {
        let ms = Duration::from_millis;
        let mut w = Watch::new(0.0, 2.0);
        assert_eq!(w.time(ms(900)), None, "the first steps warm up");
        assert!((0..10).all(|_| w.time(ms(100)).is_none()));
        assert_eq!(w.time(ms(590)), None, "that is noise");
        assert!(w.time(ms(610)).unwrap().contains("median of the last 12 is 100.0ms"));
        let mut w = Watch::new(0.0, 2.0);
        assert!((0..10).all(|_| w.time(ms(1000)).is_none()));
        assert_eq!(w.time(ms(1900)), None);
        assert!(w.time(ms(2100)).is_some());
    }
}
