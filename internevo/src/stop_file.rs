//! `checkpoint.stop_file`: a number in a file ends or saves a run from outside, without a signal and on whichever host.
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub struct StopFile {
    path: PathBuf,
    /// What was said of it last.
    told: Option<String>,
}

/// What the file asks for after a step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub save: bool,
    pub stop: bool,
    /// What is wrong with it.
    pub warning: Option<String>,
}

impl StopFile {
    /// A wish that an earlier run left is forgotten: a resumed run would stop at once.
    pub fn begin(path: &Path) -> Result<StopFile> {
        if path.exists() {
            fs::write(path, "0\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(StopFile { path: path.into(), told: None })
    }

    /// N > 0: save after step N, or now if that is over, and stop. N < 0: save after step -N. 0, or no file: nothing.
    pub fn after(&mut self, step: u64) -> Wish {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Wish::default(),
            Err(e) => return self.warn(format!("cannot read {}: {e}; nothing is stopped by it", self.path.display())),
        };
        match text.trim().parse::<i64>() {
            Ok(n) if n > 0 => Wish { save: step >= n as u64, stop: step >= n as u64, warning: None },
            Ok(n) => Wish { save: n < 0 && step == n.unsigned_abs(), ..Wish::default() },
            // Whoever writes it may have begun.
            Err(_) if text.trim().is_empty() => Wish::default(),
            Err(_) => self.warn(format!(
                "{} holds {:?}, which is no step; write 100 to save and stop after step 100, -100 to save only",
                self.path.display(),
                text.trim()
            )),
        }
    }

    /// Once, until it is another.
    fn warn(&mut self, warning: String) -> Wish {
        let fresh = self.told.as_ref() != Some(&warning);
        self.told = Some(warning.clone());
        Wish { warning: fresh.then_some(warning), ..Wish::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_wish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stop");
        let mut file = StopFile::begin(&path).unwrap();
        assert_eq!(file.after(1), Wish::default());
        // (text, step, save, stop)
        for (text, step, save, stop) in [
            ("0", 3, false, false),
            ("", 3, false, false),
            ("4\n", 3, false, false),
            ("4\n", 4, true, true),
            (" 1 ", 4, true, true),
            ("-4", 3, false, false),
            ("-4", 4, true, false),
            ("-4", 5, false, false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(file.after(step), Wish { save, stop, warning: None }, "{text:?} after {step}");
        }
        fs::write(&path, "now").unwrap();
        assert!(file.after(5).warning.unwrap().contains("\"now\", which is no step"));
        assert_eq!(file.after(6), Wish::default(), "it is said once");
        StopFile::begin(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "0\n");
    }
}
