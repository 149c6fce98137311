//! A kill at each system call by which a save changes the disk.
use crate::faults::desk::{Lab, acknowledged};
use crate::faults::process::SIGKILL;
use crate::faults::resume;
use crate::faults::saves::{self, BEFORE, Saves};
use crate::faults::strace::{self, Point};
use crate::faults::trials::{Outcome, Tally, Trials};
use anyhow::{Result, ensure};
use std::os::unix::process::ExitStatusExt;

const PASSED: &str = "not come to";

pub fn main(lab: &Lab, trials: &Trials) -> Result<Tally> {
    let both = saves::both(lab, 3)?;
    let points: Vec<(&Saves, &Point)> =
        both.iter().flat_map(|saves| saves.points.iter().map(move |point| (saves, point))).collect();
    let numbers = trials.of_list(points.len())?;
    let tally = trials.run(lab, &numbers, |number, _| trial(lab, points[number], number));
    let passed = tally.count(PASSED);
    ensure!(
        10 * passed <= numbers.len(),
        "{passed} of {} calls were not come to: the save is another each time",
        numbers.len()
    );
    Ok(tally)
}

fn trial(lab: &Lab, (saves, point): (&Saves, &Point), number: usize) -> Result<Outcome> {
    let Point { syscall, ordinal } = point;
    let desk = saves.desk(&number.to_string())?;
    let command = strace::broken(&saves.command(&desk), syscall, "signal=SIGKILL", &ordinal.to_string());
    let (status, said) = desk.start(command, "killed")?.end()?;
    ensure!(status.success() || status.signal() == Some(SIGKILL), "{syscall} {ordinal}: {status}: {said}");

    let acknowledged = acknowledged(&said).max(BEFORE);
    let from = resume::goes_on(lab, &desk, saves.layout, acknowledged)?;
    resume::has_each_step_once(lab, &desk)?;
    desk.clear()?;
    Ok(vec![if status.success() { PASSED } else { resume::went(from, acknowledged) }.into()])
}
