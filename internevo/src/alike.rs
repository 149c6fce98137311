//! Processes of a job must have started with the same: with another config a rank would wait for what never comes, or
//! compute something else.
use crate::config::RunConfig;
use crate::control::Control;
use anyhow::{Result, bail};
use schedule::RankPrograms;
use std::hash::{DefaultHasher, Hasher};
use toml::{Table, Value};

pub fn config(control: &mut Control, config: &RunConfig) -> Result<()> {
    check(control, "version of internevo", env!("CARGO_PKG_VERSION").into(), |a, b| {
        (a != b).then(|| format!("{a} there, {b} at rank 0"))
    })?;
    check(control, "config", config.toml(), |ours, theirs| {
        let table = |text: &str| text.parse::<Table>().expect("a config is written as it is read");
        difference("", &table(ours), &table(theirs))
    })
}

/// By a hash: what differs is not cheap to tell.
pub fn programs(control: &mut Control, programs: &[RankPrograms]) -> Result<()> {
    let mut hash = DefaultHasher::new();
    for program in programs.iter().flat_map(|rank| &rank.programs) {
        program.actions.iter().for_each(|action| hash.write(format!("{action:?}").as_bytes()));
    }
    let own = format!("{:016x}", hash.finish());
    check(control, "program or model", own, |a, b| (a != b).then(|| "its actions differ".into()))
}

/// Each rank compares its own with that of rank 0, which hears of all that differ.
fn check(
    control: &mut Control,
    what: &str,
    own: String,
    difference: impl Fn(&str, &str) -> Option<String>,
) -> Result<()> {
    let first = control.agree(|| Ok(own.clone()))?;
    let found = control.gather(difference(&own, &first))?;
    control.agree(|| verdict(what, &found))
}

fn verdict(what: &str, found: &[Option<String>]) -> Result<()> {
    let differ: Vec<(usize, &String)> =
        found.iter().enumerate().filter_map(|(rank, how)| Some((rank, how.as_ref()?))).collect();
    let Some((rank, how)) = differ.first() else { return Ok(()) };
    let ranks: Vec<usize> = differ.iter().map(|(rank, _)| *rank).collect();
    let ranks = if ranks.len() == 1 { format!("rank {rank}") } else { format!("ranks {ranks:?}") };
    bail!("{ranks} started with another {what} than rank 0 ({how}); give all ranks the same run file and options")
}

/// The first key in which two tables differ.
fn difference(prefix: &str, ours: &Table, theirs: &Table) -> Option<String> {
    let keys = ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
    keys.into_iter().find_map(|key| {
        let shown = |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
        match (ours.get(key), theirs.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => difference(&format!("{prefix}{key}."), a, b),
            (a, b) if a == b => None,
            (a, b) => Some(format!("{prefix}{key} = {} there, {} at rank 0", shown(a), shown(b))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_differs() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        for (ours, theirs, how) in [
            ("a = 1\n[t]\nx = [1, 2]", "a = 1\n[t]\nx = [1, 2]", None),
            ("a = 1\n[t]\nx = 1", "a = 1\n[t]\nx = 2", Some("t.x = 1 there, 2 at rank 0")),
            ("a = 1", "a = 1\nb = \"c\"", Some("b = absent there, \"c\" at rank 0")),
            ("t = 1", "[t]\nx = 1", Some("t = 1 there, { x = 1 } at rank 0")),
        ] {
            assert_eq!(difference("", &table(ours), &table(theirs)).as_deref(), how);
        }
    }

    #[test]
    fn all_ranks_that_differ_are_named() {
        let how = || Some("seed = 1 there, 2 at rank 0".to_string());
        for (found, begins) in [
            (vec![None, how(), None], "rank 1 started with another config than rank 0 (seed = 1"),
            (vec![None, how(), how()], "ranks [1, 2] started with another config than rank 0 (seed = 1"),
        ] {
            assert!(verdict("config", &found).unwrap_err().to_string().starts_with(begins));
        }
        verdict("config", &[None, None]).unwrap();
    }
}
