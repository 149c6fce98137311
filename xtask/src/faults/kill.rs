//! kill -9 of all ranks, at random moments and inside of saves.
use crate::faults::desk::{Desk, Lab, Layout, acknowledged};
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
    let layout = Layout { processes: number.is_multiple_of(2) };
    let aimed = number % 4 < 2;
    let desk = lab.desk(&number.to_string())?;
    let mut running = desk.start(desk.command(layout, &[]), "killed")?;
    if aimed {
        let saves = random.below(8);
        running.until("a save", || Ok(begun(&desk, 20 * (saves + 1))))?;
        std::thread::sleep(random.moment(Duration::from_millis(3)));
    } else {
        std::thread::sleep(random.moment(Duration::from_millis(600)));
    }
    running.kill()?;

    let acknowledged = acknowledged(&desk.said("killed")?);
    let saving = desk.saving().is_some();
    let from = resume::goes_on(lab, &desk, layout, acknowledged)?;
    resume::has_each_step_once(lab, &desk)?;
    desk.clear()?;
    let met = if saving { IN_A_SAVE } else { "outside" };
    Ok(vec![met.into(), resume::went(from, acknowledged).into()])
}

/// Whether the save of a step, or a later one, has begun.
fn begun(desk: &Desk, step: u64) -> bool {
    let number = |name: &String| name.split_once("step_")?.1.split('.').next()?.parse::<u64>().ok();
    desk.names().iter().filter_map(number).any(|begun| begun >= step)
}
