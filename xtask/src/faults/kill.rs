//! kill -9 of all ranks, at random moments and inside of saves.
use crate::faults::desk::{Lab, Layout, acknowledged};
use crate::faults::resume;
use crate::faults::trials::{Outcome, Random, Tally, Trials};
use anyhow::{Result, ensure};
use std::time::Duration;

const IN_A_SAVE: &str = "inside a save";

pub fn main(lab: &Lab, trials: &Trials) -> Result<Tally> {
    let numbers = trials.of_random(1000);
    let tally = trials.run(lab, &numbers, |number, random| trial(lab, number, random));
    let hit = tally.count(IN_A_SAVE);
    ensure!(
        numbers.len() < 20 || hit >= numbers.len() / 5,
        "only {hit} of {} kills were inside of a save: this tests too little, the aim must be improved",
        numbers.len()
    );
    Ok(tally)
}

fn trial(lab: &Lab, number: usize, random: &mut Random) -> Result<Outcome> {
    let layout = Layout::of(number);
    let aimed = number % 8 < 4;
    let desk = lab.desk(&number.to_string())?;
    let mut running = desk.start(desk.command(layout, &[]), "killed")?;
    if aimed {
        let step = 10 * (1 + random.below(16));
        running.until("a save", || {
            Ok(desk.drafts().iter().filter_map(|name| draft_of(name)).any(|begun| begun >= step))
        })?;
        std::thread::sleep(random.moment(Duration::from_millis(3)));
    } else {
        std::thread::sleep(random.moment(Duration::from_millis(600)));
    }
    running.kill()?;

    let acknowledged = acknowledged(&desk.said("killed")?);
    let saving = !desk.drafts().is_empty();
    // Whoever it was, anyone may go on.
    let from = resume::goes_on(lab, &desk, Layout::of(number / 8), acknowledged)?;
    resume::has_each_step_once(lab, &desk)?;
    desk.clear()?;
    let met = if saving { IN_A_SAVE } else { "outside" };
    Ok(vec![met.into(), resume::went(from, acknowledged).into()])
}

/// The step of a draft.
fn draft_of(name: &str) -> Option<u64> {
    name.split_once('_')?.1.split('.').next()?.parse().ok()
}
