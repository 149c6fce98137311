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
    /// Ranks, as threads of this process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub ranks: u16,
}

impl RunFile {
    pub fn load(&self) -> Result<RunConfig> {
        RunConfig::load(&self.config, &self.set)
    }
}
