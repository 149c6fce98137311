//! When checkpoints are written, what of them is taken, and what happens to broken ones.
mod common;
use common::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

const TRAIN: &str = "train run.toml --set checkpoint.every=2 --set checkpoint.keep_last=9";

fn flip_last_bit(desk: &Desk, file: &str) {
    let file = OpenOptions::new().read(true).write(true).open(desk.path(file)).unwrap();
    let at = file.metadata().unwrap().len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Nothing but the sum of all ranks can see it: sizes, headers and the manifest are whole.
#[test]
fn a_bit_that_flipped_on_the_disk_sends_the_run_to_an_older_checkpoint() {
    let desk = Desk::golden("llama_mha");
    desk.ok(&format!("{TRAIN} --set name=straight"));
    for layout in ["", " --ranks 2 --set parallel.pipeline.size=2"] {
        desk.ok(&format!("{TRAIN} --fresh --set train.steps=6"));
        for file in ["step_6/training/optimizer.safetensors", "step_4/model.safetensors"] {
            flip_last_bit(&desk, &format!("runs/golden/checkpoints/{file}"));
        }
        let problems = desk.run("checkpoint verify runs/golden/checkpoints/step_6");
        assert_eq!(problems.code, Some(1), "{}", problems.out);
        assert!(problems.out.contains("of tensor exp_avg_sq."), "{}", problems.out);
        let outcome = desk.run(&format!("{TRAIN} --resume{layout}"));
        assert_eq!(outcome.code, Some(0), "{}", outcome.err);
        for said in [
            "of tensor exp_avg_sq.",
            "going back to step 4",
            "step_4/model.safetensors: bytes ",
            "going back to step 2",
        ] {
            assert!(outcome.err.contains(said), "{said}: {}", outcome.err);
        }
        if layout.is_empty() {
            assert_eq!(desk.results("golden"), desk.results("straight"));
            assert!(desk.state("golden", 10) == desk.state("straight", 10));
        }
        assert!(desk.checkpoints().contains(&"golden/checkpoints/step_6.abandoned".into()));
    }
    for step in [2, 4, 6, 8, 10] {
        flip_last_bit(&desk, &format!("runs/straight/checkpoints/step_{step}/model.safetensors"));
    }
    desk.run(&format!("{TRAIN} --set name=straight --set train.steps=12 --resume")).refused(&[
        "none of the checkpoints is whole",
        "step_2/model.safetensors: bytes ",
        "--fresh",
    ]);
}

#[test]
fn a_checkpoint_is_the_same_in_the_background() {
    let desk = Desk::golden("llama_mha");
    let layout = "--ranks 2 --set parallel.zero.stage=1";
    desk.ok(&format!("{TRAIN} --set checkpoint.background=false --set name=waits {layout}"));
    let outcome = desk.run(&format!("{TRAIN} --set name=goes_on {layout}"));
    assert!(outcome.err.contains("step_10 in ") && outcome.err.contains("training stopped for"), "{}", outcome.err);
    for step in [2, 4, 6, 8, 10] {
        assert!(desk.state("waits", step) == desk.state("goes_on", step), "step {step}");
        for file in ["training/state.json", "config.json"] {
            let [a, b] =
                ["waits", "goes_on"].map(|run| desk.read(&format!("runs/{run}/checkpoints/step_{step}/{file}")));
            assert!(a == b, "{file} of step {step}");
        }
    }
    assert_eq!(desk.results("waits"), desk.results("goes_on"));
    desk.ok("checkpoint verify runs/waits runs/goes_on/checkpoints/step_4");
}

#[test]
fn snapshots_come_between_and_are_resumed_from() {
    let desk = Desk::golden("llama_mha");
    let train =
        "train run.toml --set checkpoint.every=4 --set checkpoint.snapshot_every=1 --set checkpoint.keep_last=1";
    desk.ok(&format!("{train} --set checkpoint.keep_every=8 --set name=straight"));
    let kept = ["snapshot_7", "snapshot_9", "step_10", "step_8"].map(|c| format!("straight/checkpoints/{c}"));
    assert_eq!(desk.checkpoints(), kept);
    desk.ok(&format!("{train} --set train.steps=8"));
    fs::remove_dir_all(desk.path("runs/golden/checkpoints/step_8")).unwrap();
    let resumed = desk.run(&format!("{train} --resume"));
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert_eq!(desk.results("golden"), desk.results("straight"));
    assert!(desk.state("golden", 10) == desk.state("straight", 10));
}

#[test]
fn the_stop_file_saves_and_stops() {
    let desk = Desk::golden("llama_mha");
    desk.write("halt", "4");
    // What an earlier run left there is forgotten.
    desk.ok("train run.toml --set name=straight --set checkpoint.stop_file=halt");
    assert_eq!(desk.text("halt"), "0\n");
    let mut running = desk.start("train run.toml --set train.steps=100000");
    running.until_rows(&desk, "golden", 1);
    desk.write("runs/golden/stop", "-800");
    running.until_rows(&desk, "golden", 801);
    desk.write("runs/golden/stop", "1200");
    let (code, err) = running.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("stopped at step 1200 of 100000"), "{err}");
    let saved = ["step_10", "step_1200", "step_800"].map(|c| c.to_string());
    let found = desk.checkpoints().into_iter().filter_map(|c| Some(c.rsplit_once('/')?.1.to_string()));
    assert_eq!(found.collect::<std::collections::BTreeSet<_>>(), saved.into());
}

/// Slurm's signal before the end of a job's time: save, stop, queue again.
#[test]
fn sigusr1_saves_and_asks_slurm() {
    let desk = Desk::golden("llama_mha").with("SLURM_JOB_ID", "77");
    desk.write("bin/scontrol", "#!/bin/sh\necho \"$@\" > asked\n");
    fs::set_permissions(desk.path("bin/scontrol"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", desk.path("bin").display(), std::env::var("PATH").unwrap());
    let desk = desk.with("PATH", path);
    let train = "train run.toml --set train.steps=100000 --set checkpoint.requeue=true";
    let mut running = desk.start(train);
    running.until_rows(&desk, "golden", 5);
    running.signal("USR1");
    let (code, err) = running.end();
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(desk.text("asked"), "requeue 77\n");
    let done = desk.metrics("golden").len();
    assert_eq!(desk.checkpoints(), [format!("golden/checkpoints/step_{done}")]);
    // The same command, as Slurm starts it again.
    let desk = desk.with("SLURM_RESTART_COUNT", "1");
    desk.ok(&format!("train run.toml --set train.steps={}", done + 2));
    assert_eq!(desk.metrics("golden").len(), done + 2);
}

#[test]
fn a_new_run_takes_parts_of_a_checkpoint() {
    let desk = Desk::golden("llama_mha");
    desk.ok(&format!("{TRAIN} --set name=old"));
    let losses =
        |run: &str| -> Vec<f64> { desk.metrics(run).iter().map(|row| row["loss"].as_f64().unwrap()).collect() };
    let steps = |run: &str| -> Vec<u64> { desk.metrics(run).iter().map(|row| row["step"].as_u64().unwrap()).collect() };
    let load = |name: &str, content: &str, more: &str| {
        let path = "runs/old/checkpoints/step_4";
        let load = format!("--set checkpoint.load={{path=\"{path}\",content=[{content}]}}");
        desk.run(&format!("train run.toml --set name={name} {load} {more}"))
    };
    assert_eq!(load("all", "\"all\"", "").code, Some(0));
    assert_eq!(desk.results("all"), desk.results("old")[4..]);
    assert!(desk.state("all", 10) == desk.state("old", 10));
    // It goes on from its own checkpoint, and where the data stood stays.
    assert_eq!(load("sampler", "\"model\",\"sampler\"", "--set train.steps=3").code, Some(0));
    assert_eq!(steps("sampler"), [1, 2, 3]);
    assert_eq!(losses("sampler")[0], losses("old")[4], "weights and data of step 5");
    desk.ok("train run.toml --set name=sampler --resume --set train.steps=6");
    assert_eq!(load("straight", "\"model\",\"sampler\"", "--set train.steps=6").code, Some(0));
    assert_eq!(losses("sampler")[3..], losses("straight")[3..]);
    // Weights alone: data from the beginning, at step 1.
    assert_eq!(load("model", "\"model\"", "--set seed=7 --set train.steps=2").code, Some(0));
    assert_eq!(steps("model"), [1, 2]);
    // The step goes on, and with it the learning rate; weights are those of the seed.
    assert_eq!(load("scheduler", "\"scheduler\"", "").code, Some(0));
    assert_eq!(steps("scheduler"), [5, 6, 7, 8, 9, 10]);
    let rates = |run: &str| desk.metrics(run).iter().map(|row| row["lr"].to_string()).collect::<Vec<_>>();
    assert_eq!(rates("scheduler"), rates("old")[4..]);

    load("bad", "\"sampler\"", "--set seed=7").refused(&["seed = 7 differs from the 1024", "data would not go on"]);
    load("bad", "\"scheduler\"", "--set train.micro_batches=7").refused(&["micro-batches of a step = 7"]);
    load("bad", "\"weights\"", "").refused(&["checkpoint.load.content[0]", "\"scheduler\""]);
    load("bad", "", "").refused(&["checkpoint.load.content is empty"]);
    flip_last_bit(&desk, "runs/old/checkpoints/step_4/model.safetensors");
    load("bad", "\"model\"", "").refused(&["checkpoint.load.path", "step_4/model.safetensors: bytes"]);
}
