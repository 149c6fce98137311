//! What the commands that read a run file have in common.
use crate::config::RunConfig;
use anyhow::Result;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct RunFile {
    /// The run file (TOML), or an InternEvo config (.py)
    pub config: PathBuf,
    /// Override a key, as in --set train.steps=10
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
    /// Ranks, as threads of this process (default: 1); processes are counted by whoever starts them
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub ranks: Option<u16>,
}

impl RunFile {
    pub fn ranks(&self) -> usize {
        self.ranks.unwrap_or(1).into()
    }

    pub fn load(&self) -> Result<RunConfig> {
        RunConfig::load(&self.config, &self.set)
    }
}
