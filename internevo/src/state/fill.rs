//! A rank's memory out of a checkpoint, a directory or the seed: threads read, and sum what the rank tells, while the rank
//! itself puts into its memory what they have read.
use super::shard::{STATES, told};
use crate::config::Content;
use anyhow::Result;
use checkpoint::{Part, Told, Training};
use exec::{Rank, State};
use model::{ParamSpec, Stretch};
use plan::{Plan, RankId};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Elements read at a time.
const PIECE: usize = 1 << 19;
/// Shorter runs are read together with what lies between them: a disk reads it in any case.
const SHORT: usize = 1 << 13;
/// Threads that read files: they wait for the disk more than they compute.
const READERS: usize = 4;

/// Where values come from.
pub trait Source: Sync {
    /// Elements `start ..` of a part of a parameter.
    fn read(&self, of: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()>;
    /// Hears of those that were read and that this rank tells.
    fn tell(&self, _sums: &mut Told, _of: Part, _whole: &ParamSpec, _start: usize, _values: &[f32]) {}
    /// Whether what lies between short runs is better read with them.
    fn is_file(&self) -> bool;
}

impl Source for Training {
    fn read(&self, of: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(Training::read(self, of, &whole.name, start, out)?)
    }
    fn tell(&self, sums: &mut Told, of: Part, whole: &ParamSpec, start: usize, values: &[f32]) {
        Training::tell(self, sums, of, &whole.name, start, values);
    }
    fn is_file(&self) -> bool {
        true
    }
}

/// What this rank has of a checkpoint, by so many threads, and the checksums of what it tells.
pub fn read(rank: &mut Rank, training: &Training, content: &[Content], threads: usize) -> Result<Told> {
    let mut pieces = vec![];
    if Content::Model.is_in(content) {
        pieces.extend(params(rank));
    }
    if Content::Optimizer.is_in(content) {
        // In the order of the file.
        for states in &STATES[1..] {
            for (part, whole) in rank.parts() {
                pieces.extend(cut(rank, *states, part.clone(), whole, rank.stepped(&part)));
            }
        }
    }
    put(rank, training, pieces, threads)
}

/// Parameters of this rank.
pub fn put_params(rank: &mut Rank, from: &dyn Source, threads: usize) -> Result<()> {
    let pieces = params(rank);
    put(rank, from, pieces, threads).map(drop)
}

/// Elements of what a rank has of a parameter's state.
struct Piece {
    state: State,
    of: Part,
    part: ParamSpec,
    whole: ParamSpec,
    range: Range<usize>,
    /// Those that this rank tells.
    told: Range<usize>,
}

fn params(rank: &Rank) -> Vec<Piece> {
    let of = |(part, whole): (ParamSpec, ParamSpec)| {
        let kept = rank.kept(&part);
        cut(rank, STATES[0], part, whole, kept)
    };
    rank.parts().into_iter().flat_map(of).collect()
}

fn cut(rank: &Rank, (state, of): (State, Part), part: ParamSpec, whole: ParamSpec, range: Range<usize>) -> Vec<Piece> {
    let told = told(rank, &part);
    let piece = |start: usize| {
        let range = start..(start + PIECE).min(range.end);
        Piece { state, of, part: part.clone(), whole: whole.clone(), range, told: told.clone() }
    };
    range.clone().step_by(PIECE).map(piece).collect()
}

fn put(rank: &mut Rank, from: &dyn Source, pieces: Vec<Piece>, threads: usize) -> Result<Told> {
    let threads = if from.is_file() { READERS.min(threads + 1) } else { threads };
    let (plan, id) = (rank.plan.clone(), rank.id);
    let (next, spare) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let (ready, filled) = sync_channel(1);
    let work = |ready: SyncSender<(usize, Vec<f32>)>| -> Result<Told> {
        let (mut sums, mut span) = (Told::default(), vec![]);
        while let Some((i, piece)) = next_of(&pieces, &next) {
            let mut values: Vec<f32> = spare.lock().expect("no reader panics").pop().unwrap_or_default();
            values.resize(piece.range.len(), 0.0);
            let read = piece.read(&plan, id, from, &mut sums, (&mut values, &mut span));
            // The others need not go on.
            read.inspect_err(|_| next.store(pieces.len(), Ordering::Relaxed))?;
            ready.send((i, values)).expect("the rank takes what is read");
        }
        Ok(sums)
    };
    thread::scope(|scope| {
        let start = |_| {
            let (work, ready) = (&work, ready.clone());
            scope.spawn(move || work(ready))
        };
        let readers: Vec<_> = (0..threads).map(start).collect();
        drop(ready);
        for (i, values) in filled {
            let Piece { state, part, range, .. } = &pieces[i];
            rank.set(*state, part, range.start, &values);
            spare.lock().expect("no reader panics").push(values);
        }
        let mut all = Told::default();
        for reader in readers {
            all.merge(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

fn next_of<'a>(pieces: &'a [Piece], next: &AtomicUsize) -> Option<(usize, &'a Piece)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    Some((i, pieces.get(i)?))
}

impl Piece {
    /// From where its elements stand in the whole. Rows that fill up the vocabulary are zeros.
    fn read(
        &self,
        plan: &Plan,
        id: RankId,
        from: &dyn Source,
        sums: &mut Told,
        (values, span): (&mut [f32], &mut Vec<f32>),
    ) -> Result<()> {
        let Piece { of, part, whole, range, told, .. } = self;
        let runs = plan.stretches(id, part, whole, range.clone());
        if runs.iter().map(|(_, _, len)| len).sum::<usize>() < values.len() {
            values.fill(0.0);
        }
        let is_file = from.is_file();
        for runs in runs.chunk_by(|a, b| is_file && together(a, b)) {
            match *runs {
                [(here, there, len)] => from.read(*of, whole, there, &mut values[here - range.start..][..len])?,
                [(_, first, _), .., (_, last, len)] => {
                    span.resize(last + len - first, 0.0);
                    from.read(*of, whole, first, span)?;
                    for (here, there, len) in runs {
                        values[here - range.start..][..*len].copy_from_slice(&span[there - first..][..*len]);
                    }
                }
                [] => unreachable!("chunks are not empty"),
            }
        }
        for (here, there, len) in runs {
            let within = |at: usize| at.clamp(here, here + len);
            let own = within(told.start)..within(told.end);
            if !own.is_empty() {
                let values = &values[own.start - range.start..own.end - range.start];
                from.tell(sums, *of, whole, there + own.start - here, values);
            }
        }
        Ok(())
    }
}

/// Two runs of one rank, one after the other, are read as one with the gap between them.
fn together((_, first, len): &Stretch, (_, next, following): &Stretch) -> bool {
    let gap = next.checked_sub(first + len);
    *len.max(following) < SHORT && gap.is_some_and(|gap| gap < SHORT)
}
