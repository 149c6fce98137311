//! What the commands that read a run file have in common.
use crate::config::RunConfig;
use crate::device::{Device, DeviceArg, Numerics, On};
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
    /// Compute on: auto (a card if there is one), cpu, cuda or cuda:N; also INTERNEVO_DEVICE, or `device` in the run file
    // No `DeviceArg`: clap does not see that a group is there which has another in it, and `schedule` can do without one.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
}

impl RunFile {
    pub fn ranks(&self) -> usize {
        self.ranks.unwrap_or(1).into()
    }

    pub fn load(&self) -> Result<RunConfig> {
        RunConfig::load(&self.config, &self.set)
    }

    /// Where the run computes.
    pub fn open(&self, config: &RunConfig) -> Result<On> {
        let numerics =
            Numerics { f32: config.precision.params.products(), deterministic: config.precision.deterministic };
        On::open(DeviceArg { device: self.device }.or(config.device)?, numerics)
    }
}
