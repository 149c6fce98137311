//! A checkpoint on its way to the disk, while training goes on.
//!
//! Training stops for the copy out of a rank's memory; a thread of each rank then sums and writes what was copied. Between
//! steps rank 0 asks all how far they are. When all are done a thread of it completes the checkpoint, and when that is on
//! the disk the ranks hear so: it is *saved*. What fails is tried again from the same copy.
use super::shard::{self, Copied};
use super::{Origin, Progress, about, saved};
use crate::control::Control;
use crate::job::human;
use crate::train::Run;
use anyhow::{Result, bail};
use checkpoint::{CheckpointError, Keep, Kind, Save, Share};
use exec::Rank;
use model::{Decoder, Family, models};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// So often a save is tried.
const ATTEMPTS: u32 = 3;
/// Snapshots that are kept.
const SNAPSHOTS: usize = 2;

/// For the log: level and text.
pub type Lines = Vec<(&'static str, String)>;

pub struct Saver<'a> {
    run: &'a Run<'a>,
    under_way: Option<UnderWay>,
    /// Memory of the last copy.
    values: Vec<f32>,
    /// Saves in a row that were given up.
    failures: u32,
    /// Why, of the last one.
    failure: Option<String>,
}

/// What a rank has in hand of a save.
struct UnderWay {
    path: PathBuf,
    /// None: it is written out of the rank's memory, and training waits.
    copied: Option<Arc<Copied>>,
    writing: Option<JoinHandle<Result<String, CheckpointError>>>,
    /// What this rank has written, or why it could not; told once.
    written: Option<Result<String, String>>,
    began: Instant,
    stopped: Duration,
    leader: Option<Leader>,
}

/// What rank 0 has besides.
struct Leader {
    save: Option<Save>,
    /// Of each rank.
    written: Vec<Option<Result<String, String>>>,
    committing: Option<JoinHandle<Result<Option<String>, CheckpointError>>>,
    state: Value,
    about: Value,
    attempt: u32,
}

/// What rank 0 says of the save under way.
#[derive(Serialize, Deserialize)]
enum News {
    Writing,
    /// With what could not be done besides.
    Saved(Option<String>),
    Again {
        draft: PathBuf,
        why: String,
    },
    GivenUp {
        why: String,
    },
}

impl<'a> Saver<'a> {
    pub fn new(run: &'a Run) -> Saver<'a> {
        Saver { run, under_way: None, values: vec![], failures: 0, failure: None }
    }

    /// Begins the checkpoint of a step; nothing else is under way.
    pub fn begin(
        &mut self,
        rank: &mut Rank,
        control: &mut Control,
        (kind, step): (Kind, u64),
        (origin, progress): (&Origin, Progress),
    ) -> Result<Lines> {
        assert!(self.under_way.is_none(), "two saves at once");
        let run = self.run;
        let path = kind.folder(&run.folder.checkpoints(), step);
        let mut save = None;
        let draft: Result<PathBuf, String> = control.agree(|| {
            let begun = create(run, &path).map_err(|error| format!("{error:#}"));
            Ok(begun.map(|begun| save.insert(begun).path().into()))
        })?;
        let draft = match draft {
            Ok(draft) => draft,
            Err(why) => return self.given_up(&path, &why),
        };
        let began = Instant::now();
        rank.finish()?; // gathers may still be under way
        let values = std::mem::take(&mut self.values);
        let copied = run.config.checkpoint.background.then(|| Arc::new(Copied::of(rank, values)));
        let leader = control.leads().then(|| Leader {
            save,
            written: vec![None; run.job.plan.mesh.world()],
            committing: None,
            state: saved(run, origin, step, progress, rank.loss_scale()),
            about: about(run, step),
            attempt: 1,
        });
        let stopped = began.elapsed();
        let mut under_way = UnderWay { path, copied, writing: None, written: None, began, stopped, leader };
        under_way.write(rank, draft);
        self.under_way = Some(under_way);
        Ok(vec![])
    }

    /// Hears how the save under way is doing; with `wait`, until it has come to an end.
    pub fn settle(&mut self, rank: &mut Rank, control: &mut Control, wait: bool) -> Result<Lines> {
        let mut lines = vec![];
        while let Some(under_way) = &mut self.under_way {
            let words = control.gather(under_way.word(wait))?;
            let news = control.agree(|| {
                under_way.leader.as_mut().expect("rank 0 leads").judge(self.run, words, wait, &under_way.path)
            })?;
            match news {
                News::Writing => return Ok(lines),
                News::Again { draft, why } => {
                    lines.push((
                        "WARNING",
                        format!("{} is not saved yet: {why}; trying again", under_way.path.display()),
                    ));
                    under_way.write(rank, draft);
                }
                News::Saved(besides) => {
                    let done = self.under_way.take().expect("it is under way");
                    lines.push(("INFO", done.told()));
                    lines.extend(besides.map(|why| ("WARNING", why)));
                    self.values = done.values();
                    (self.failures, self.failure) = (0, None);
                }
                News::GivenUp { why } => {
                    let done = self.under_way.take().expect("it is under way");
                    let path = done.path.clone();
                    self.values = done.values();
                    lines.extend(self.given_up(&path, &why)?);
                }
            }
        }
        Ok(lines)
    }

    /// Why the last save came to nothing, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn given_up(&mut self, path: &Path, why: &str) -> Result<Lines> {
        self.failures += 1;
        self.failure = Some(why.into());
        let most = self.run.config.checkpoint.max_failures;
        if self.failures > most {
            bail!("{} could not be saved: {why}", path.display());
        }
        let (path, n) = (path.display(), self.failures);
        let line = format!("{path} could not be saved: {why} (failure {n} in a row; checkpoint.max_failures = {most})");
        Ok(vec![("ERROR", line)])
    }
}

impl UnderWay {
    /// This rank's share, by a thread where there is a copy.
    fn write(&mut self, rank: &mut Rank, draft: PathBuf) {
        let model = rank.plan.model.clone();
        let share = move |draft: &Path| Share::of(draft, &model, directory(&model), true);
        match &self.copied {
            Some(copied) => {
                let copied = copied.clone();
                let write = move || {
                    let mut share = share(&draft);
                    copied.write(&mut share)?;
                    drop(copied);
                    share.finish()
                };
                self.writing = Some(thread::spawn(write));
            }
            None => {
                let mut share = share(&draft);
                let written = shard::write(rank, &mut share).and_then(|()| share.finish());
                self.written = Some(written.map_err(|error| error.to_string()));
            }
        }
    }

    /// For rank 0, once when it is there.
    fn word(&mut self, wait: bool) -> Option<Result<String, String>> {
        if let Some(writing) = self.writing.take_if(|writing| wait || writing.is_finished()) {
            self.written = Some(joined(writing).map_err(|error| error.to_string()));
        }
        self.written.take()
    }

    fn told(&self) -> String {
        let (path, took) = (self.path.display(), self.began.elapsed().as_secs_f64());
        match &self.copied {
            None => format!("saved {path} in {took:.2} s"),
            Some(copied) => {
                let (bytes, stopped) = (copied.bytes(), self.stopped.as_secs_f64());
                let rate = bytes as f64 / stopped / 1e9;
                let copied = human(bytes);
                format!("saved {path} in {took:.2} s; training stopped for {stopped:.3} s ({copied} at {rate:.1} GB/s)")
            }
        }
    }

    fn values(self) -> Vec<f32> {
        let alone = self.copied.and_then(|copied| Arc::try_unwrap(copied).ok());
        alone.map(Copied::into_values).unwrap_or_default()
    }
}

impl Leader {
    fn judge(
        &mut self,
        run: &Run,
        words: Vec<Option<Result<String, String>>>,
        wait: bool,
        path: &Path,
    ) -> Result<News> {
        for (written, word) in self.written.iter_mut().zip(words) {
            *written = written.take().or(word);
        }
        if self.committing.is_none() {
            if self.written.iter().any(Option::is_none) {
                return Ok(News::Writing);
            }
            let save = self.save.take().expect("it is not committed yet");
            for (rank, written) in self.written.iter_mut().enumerate() {
                match written.take().expect("all are there") {
                    Ok(report) => save.add(rank, &report),
                    Err(why) => {
                        drop(save);
                        return Ok(self.again(run, format!("rank {rank}: {why}"), path));
                    }
                }
            }
            let (about, state) = (self.about.clone(), self.state.clone());
            let (checkpoints, c) = (run.folder.checkpoints(), &run.config.checkpoint);
            let keep = Keep { steps: c.keep_last, snapshots: SNAPSHOTS, every: c.keep_every };
            self.committing = Some(thread::spawn(move || {
                save.commit(about, &state)?;
                let pruned = checkpoint::prune(&checkpoints, &keep);
                Ok(pruned.err().map(|error| format!("an older checkpoint could not be removed: {error}")))
            }));
        }
        let Some(committing) = self.committing.take_if(|committing| wait || committing.is_finished()) else {
            return Ok(News::Writing);
        };
        Ok(match joined(committing) {
            Ok(besides) => News::Saved(besides),
            Err(error) => self.again(run, error.to_string(), path),
        })
    }

    fn again(&mut self, run: &Run, why: String, path: &Path) -> News {
        self.attempt += 1;
        self.written.fill(None);
        if self.attempt > ATTEMPTS {
            return News::GivenUp { why };
        }
        match create(run, path) {
            Ok(save) => News::Again { draft: self.save.insert(save).path().into(), why },
            Err(error) => News::GivenUp { why: format!("{why}; then {error:#}") },
        }
    }
}

/// As what transformers has a class for, if it can be.
fn directory(model: &Decoder) -> Family {
    models::directory(model)
}

fn create(run: &Run, path: &Path) -> Result<Save> {
    let model = &run.job.plan.model;
    let save = Save::create(path, model, directory(model), true)?;
    if let Some(tokenizer) = &run.tokenizer {
        tokenizer.save(save.path())?;
    }
    Ok(save)
}

/// A panic is ours to see.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
