//! `internevo convert-config`: InternEvo's own Python config as a run file. And the way for the other commands, which
//! read such a config as it is.
use anyhow::{Context, Result, bail};
use pyconfig::Converted;
use std::path::{Path, PathBuf};

/// Write the run file that equals an InternEvo config.
///
/// The config (configs/7B_sft.py and the like) is read as data: assignments, arithmetic, dict(), f-strings and imports
/// of base configs; nothing in it is executed. What has no effect here, or not quite the same, is noted in comments; what is
/// not supported is refused with its line. `internevo train CONFIG.py` does the same and trains.
///
/// docs/internevo-configs.md lists every key.
#[derive(clap::Args)]
pub struct Args {
    /// The config (Python)
    config: PathBuf,
    /// Where to write the run file (TOML); by default to the terminal
    #[arg(short, long, value_name = "RUN.toml")]
    output: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<()> {
    let converted = convert(&args.config)?;
    let text = converted.text(&args.config.display().to_string());
    match &args.output {
        None => print!("{text}"),
        Some(path) if path.exists() => bail!("{} exists already; remove it, or name another file", path.display()),
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(())
}

fn convert(path: &Path) -> Result<Converted> {
    let read = |path: &Path| std::fs::read(path);
    pyconfig::convert(path, &read).map_err(|problems| match &problems[..] {
        [one] => anyhow::anyhow!("{one}"),
        many => anyhow::anyhow!("{}: {} problems\n  - {}", path.display(), many.len(), many.join("\n  - ")),
    })
}

/// What to call a run file, and its text; of a config that ends in .py, what it is converted to, with the notes on the
/// terminal.
pub fn run_file(path: &Path) -> Result<(String, String)> {
    let name = path.display().to_string();
    if path.extension().is_some_and(|ending| ending == "py") {
        let converted = convert(path)?;
        converted.notes.iter().for_each(|note| eprintln!("note: {note}"));
        let text = converted.text(&name);
        return Ok((format!("{name}, as `internevo convert-config` writes it"), text));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}
