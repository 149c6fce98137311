//! Power cuts: of the run's disk, an ext4 in a file, only what has reached that file is left.
use crate::faults::desk::{Desk, Lab, Layout, acknowledged};
use crate::faults::mount::{self, Mount};
use crate::faults::process::Process;
use crate::faults::resume;
use crate::faults::strace;
use crate::faults::trials::{Outcome, Random, Tally, Trials};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MEGABYTES: u64 = 24;
/// Runs that flush nothing.
const CONTROLS: usize = 3;
const NEVER_FLUSHED: &str = "fsync,fdatasync,syncfs,sync_file_range";

pub fn main(lab: &Lab, trials: &Trials) -> Result<Tally> {
    let empty = lab.folder.join("empty.img");
    mount::make(&empty, MEGABYTES)?;
    let numbers = trials.of_random(200);
    let mut tally = trials.run(lab, &numbers, |number, random| trial(lab, &empty, number, random));

    let mut lost = 0;
    for number in 0..CONTROLS {
        lost += usize::from(loses(lab, &empty, number)?);
    }
    ensure!(lost > 0, "of {CONTROLS} runs that flush nothing none has lost a checkpoint: these cuts are no test");
    tally.note("of the control lost", lost);
    Ok(tally)
}

fn trial(lab: &Lab, empty: &Path, number: usize, random: &mut Random) -> Result<Outcome> {
    let layout = Layout::of(number);
    let told = number % 8 < 4;
    let (desk, mounted) = fresh(lab, empty, &number.to_string())?;
    let mut running = desk.start(desk.command(layout, &[]), "cut")?;
    if told {
        let step = 10 * (1 + random.below(12));
        running.until("a saved checkpoint", || Ok(acknowledged(&desk.said("cut")?) >= step))?;
        std::thread::sleep(random.moment(Duration::from_millis(2)));
    } else {
        std::thread::sleep(random.moment(Duration::from_millis(600)));
    }
    let (mounted, acknowledged) = cut(&desk, running, mounted)?;
    let from = resume::goes_on(lab, &desk, layout, acknowledged)?;
    drop(mounted);
    desk.clear()?;
    let met = if told { "just after a save was told" } else { "at random" };
    Ok(vec![met.into(), resume::went(from, acknowledged).into()])
}

/// The control: a program that flushes nothing, cut after it has told of its first save.
fn loses(lab: &Lab, empty: &Path, number: usize) -> Result<bool> {
    let (desk, mounted) = fresh(lab, empty, &format!("control-{number}"))?;
    let program = desk.command(Layout::of(0), &[]);
    let mut running = desk.start(strace::broken(&program, NEVER_FLUSHED, "retval=0", "1+"), "cut")?;
    running.until("a saved checkpoint", || Ok(acknowledged(&desk.said("cut")?) > 0))?;
    let (mounted, acknowledged) = cut(&desk, running, mounted)?;
    let lost = desk.published() < acknowledged;
    drop(mounted);
    desk.clear()?;
    Ok(lost)
}

fn fresh(lab: &Lab, empty: &Path, name: &str) -> Result<(Desk, Mount)> {
    let desk = lab.desk(name)?;
    let image = desk.path("disk.img");
    fs::copy(empty, &image).with_context(|| format!("cannot write {}", image.display()))?;
    let mounted = Mount::image(&image, &desk.disk())?;
    Ok((desk, mounted))
}

/// The disk after the cut, and the last step whose checkpoint was told of before it.
fn cut(desk: &Desk, mut running: Process, before: Mount) -> Result<(Mount, u64)> {
    running.stop()?;
    let acknowledged = acknowledged(&running.said()?);
    let after = desk.path("cut.img");
    copy_of_a_moment(&desk.path("disk.img"), &after)?;
    running.kill()?;
    drop(before);
    Ok((Mount::image(&after, &desk.disk())?, acknowledged))
}

/// The kernel may still write back: a copy is of one moment if afterwards the file is still the same.
fn copy_of_a_moment(image: &Path, to: &Path) -> Result<()> {
    for _ in 0..100 {
        fs::copy(image, to).with_context(|| format!("cannot write {}", to.display()))?;
        let same = Command::new("cmp").arg("-s").args([image, to]).status().context("cmp does not start")?;
        if same.success() {
            return Ok(());
        }
    }
    bail!("{} never rests", image.display())
}
