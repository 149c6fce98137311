//! What a run leaves of its steps: rows of metrics.jsonl, compared as they are written.
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Whole lines; a file that is not there has none.
pub fn lines(metrics: &Path) -> Result<Vec<String>> {
    let bytes = match fs::read(metrics) {
        Err(error) if error.kind() == ErrorKind::NotFound => vec![],
        other => other.with_context(|| format!("cannot read {}", metrics.display()))?,
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    Ok(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_string).collect())
}

pub fn step(line: &str) -> Result<u64> {
    value(line, "step")?.parse().with_context(|| format!("not a row: {line}"))
}

/// What must be the same, bit for bit: a number is written so that it reads back as itself.
pub fn bits(line: &str) -> Result<String> {
    let values: Vec<&str> =
        ["step", "loss", "grad_norm", "lr", "tokens"].iter().map(|key| value(line, key)).collect::<Result<_>>()?;
    Ok(values.join(" "))
}

/// The text of a number.
fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let after = line.split_once(&format!("\"{key}\":")).map(|(_, after)| after);
    after.and_then(|after| after.split([',', '}']).next()).with_context(|| format!("a row without {key}: {line}"))
}

/// Rows follow one another from `first`, each with the bits of the run that nothing happened to.
pub fn compare(lines: &[String], first: u64, reference: &[String]) -> Result<()> {
    for (line, expected) in lines.iter().zip(first..) {
        let found = step(line)?;
        ensure!(found == expected, "a row of step {found} stands where step {expected} belongs");
        let reference = reference.get(expected as usize - 1).context("the reference has too few steps")?;
        let bits = bits(line)?;
        ensure!(bits == *reference, "a step has other bits:\n  {bits}\nand uninterrupted\n  {reference}");
    }
    Ok(())
}

#[test]
fn rows_are_compared_by_what_does_not_depend_on_the_machine() {
    let row = |step: u64, loss: &str, ms: f64| {
        format!(r#"{{"grad_norm":1.5,"loss":{loss},"lr":0.1,"step":{step},"step_ms":{ms},"tokens":{}}}"#, 7 * step)
    };
    let reference: Vec<String> = (1..4).map(|step| bits(&row(step, "0.25", 1.0)).unwrap()).collect();
    assert_eq!(reference[1], "2 0.25 1.5 0.1 14");
    compare(&[row(2, "0.25", 2.0), row(3, "0.25", 3.0)], 2, &reference).unwrap();
    for wrong in [row(2, "0.26", 1.0), row(3, "0.25", 1.0), row(1, "0.25", 1.0), "{}".into()] {
        assert!(compare(std::slice::from_ref(&wrong), 2, &reference).is_err(), "{wrong}");
    }
    assert!(compare(&[row(4, "0.25", 1.0)], 4, &reference).is_err(), "nothing to compare with");
}
