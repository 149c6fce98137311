//! On what a command computes: `device = "auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
use crate::environment::{kernel_cache, var};
use crate::job::{self, human};
use anyhow::{Result, anyhow, bail};
use cuda::{Card, F32Products, Lib, Search, Site};
use exec::{Rank, World};
use indicatif::ProgressBar;
use schedule::RankPrograms;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// A card, if there is one.
    #[default]
    Auto,
    Cpu,
    Card(usize),
}

impl FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> Result<Device, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(Device::Auto),
            ("cpu", _) => Ok(Device::Cpu),
            ("cuda", _) => Ok(Device::Card(0)),
            (_, Some(Ok(ordinal))) => Ok(Device::Card(ordinal)),
            _ => Err(format!("{text:?} is no device; try \"auto\", \"cpu\", \"cuda\" or \"cuda:1\"")),
        }
    }
}
impl TryFrom<String> for Device {
    type Error = String;
    fn try_from(text: String) -> Result<Device, String> {
        text.parse()
    }
}
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Device::Auto => write!(f, "auto"),
            Device::Cpu => write!(f, "cpu"),
            Device::Card(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

#[derive(clap::Args)]
pub struct DeviceArg {
    /// Compute on: auto (a card if there is one), cpu, cuda or cuda:N; also INTERNEVO_DEVICE, or `device` in the run file
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
}

impl DeviceArg {
    /// The command line's word, that of the environment, or that of a file.
    pub fn or(&self, file: Device) -> Result<Device> {
        let named = var("INTERNEVO_DEVICE").filter(|text| !text.is_empty());
        let named = named.map(|text| text.parse().map_err(|e| anyhow!("INTERNEVO_DEVICE: {e}"))).transpose()?;
        Ok(self.device.or(named).unwrap_or(file))
    }
}

impl DeviceArg {
    /// For a command that has no run file.
    pub fn open(&self) -> Result<On> {
        On::open(self.or(Device::Auto)?, Numerics::default())
    }
}

/// How products are done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numerics {
    pub f32: F32Products,
    /// Nothing that is timed has a say in the bits.
    pub deterministic: bool,
}

/// Where ranks are.
pub enum On {
    Cpu,
    Card(Site),
}

impl On {
    pub fn open(device: Device, numerics: Numerics) -> Result<On> {
        let search = search();
        let ordinal = match device {
            Device::Cpu => None,
            Device::Card(ordinal) => Some(ordinal),
            Device::Auto => search.load(Lib::Driver).is_ok_and(|_| Card::count().is_ok_and(|n| n > 0)).then_some(0),
        };
        let Some(ordinal) = ordinal else {
            if numerics.f32 == F32Products::Tf32 {
                bail!("precision.params = \"tf32\" is of a card's products; the CPU has \"f32\"");
            }
            return Ok(On::Cpu);
        };
        let site = Site::open(&search, ordinal, kernel_cache(), numerics.f32, numerics.deterministic);
        let site = site.map_err(|e| match device {
            Device::Auto => {
                anyhow!("there is a card, but it cannot be used: {e}; or compute on the CPU with --device cpu")
            }
            _ => anyhow!("device {device}: {e}"),
        })?;
        Ok(On::Card(site))
    }

    pub fn is_card(&self) -> bool {
        matches!(self, On::Card(_))
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            On::Cpu => format!("CPU, {} cores", job::cores()),
            On::Card(site) => {
                let card = &site.card;
                let free = human(card.free());
                format!("card {}, {}, {free} free; attention by {}", card.ordinal, card.name, site.attention)
            }
        }
    }

    /// Every rank on a thread. `aloud`: progress is shown.
    pub fn launch<T: Send>(
        &self,
        world: &World,
        programs: Vec<RankPrograms>,
        aloud: bool,
        body: impl Fn(&mut Rank) -> T + Sync,
    ) -> Result<Vec<T>> {
        match self {
            On::Cpu => Ok(world.launch(programs, body)),
            On::Card(site) => {
                let site = &settled(site, world, &programs);
                let bar = if aloud { ProgressBar::no_length() } else { ProgressBar::hidden() };
                bar.set_message("compiling kernels");
                let done = |of: usize| {
                    bar.set_length(of as u64);
                    bar.inc(1);
                    if bar.position() == of as u64 {
                        bar.finish_and_clear();
                    }
                };
                world.launch_on_card(site, programs, &done, body).map_err(|e| anyhow!(e))
            }
        }
    }

    /// One rank on this thread.
    pub fn solo(&self, world: &World, programs: RankPrograms) -> Result<Rank> {
        match self {
            On::Cpu => Ok(world.solo(programs)),
            On::Card(site) => {
                let site = settled(site, world, std::slice::from_ref(&programs));
                world.solo_on_card(&site, programs).map_err(|e| anyhow!(e))
            }
        }
    }
}

/// Told, if it is not what was said before.
fn settled(site: &Site, world: &World, programs: &[RankPrograms]) -> Site {
    let settled = world.settle(site, programs);
    if settled.attention != site.attention {
        eprintln!("note: attention by {}", settled.attention);
    }
    settled
}

/// Where NVIDIA's libraries may be.
pub fn search() -> Search {
    Search::new(&var)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_spelled_one_way() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Card(0)));
        for text in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            assert!(text.parse::<Device>().unwrap_err().contains("cuda:1"), "{text}");
        }
    }
}
