//! Who started this process, as which rank of how many, and where rank 0 is to be met.
//!
//! Launchers tell it in environment variables. [`detect`] is a pure function of them: it is handed a way to look a
//! variable up, since only crate `internevo` reads the environment. What half-agrees is an error and never a guess: a
//! process that takes itself for alone would train the whole model again, beside all the others.
//!
//! [`nodes`] reads Slurm's lists of hosts; [`crate::store`] is what ranks do once they know where to meet.
mod nodes;

pub use nodes::expand;

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// How a variable is looked up.
pub type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Set by `internevo launch` for the processes it starts: its own process id.
pub const MARK: &str = "INTERNEVO_LAUNCHED_BY";
/// The secret of a job, see [`crate::store::Secret`].
pub const SECRET: &str = "INTERNEVO_JOB_SECRET";

/// Where ranks meet if nobody says anything, as in PyTorch.
const PORT: u16 = 29500;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `RANK` and `WORLD_SIZE`: torchrun, and whatever speaks its variables.
    Torchrun,
    OpenMpi,
    /// MPICH, Intel MPI and others that start processes with PMI.
    Pmi,
    Slurm,
    /// `internevo launch`.
    Internevo,
    /// No launcher.
    Alone,
}

/// What a launcher says about this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    pub kind: Kind,
    pub rank: usize,
    pub world: usize,
    /// Among the ranks of this host.
    pub local_rank: usize,
    /// Ranks of this host, if the launcher tells.
    pub local_world: Option<usize>,
    /// What the launcher calls the job; empty if it has no name for it.
    pub job: String,
    /// Where rank 0 listens; empty if ranks are on several hosts and nobody says on which it is.
    pub address: String,
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{set} is set and {missing} is not: set both, or none for a single process")]
    Half { set: String, missing: String },
    #[error("{name} = {value:?} is not {what}")]
    Unreadable { name: String, value: String, what: &'static str },
    #[error("{name} = {value} is not below {limit_name} = {limit}")]
    OutOfRange { name: String, value: usize, limit_name: String, limit: usize },
    #[error("{name} = {value:?}: {why}")]
    Nodes { name: String, value: String, why: String },
    #[error(
        "torchrun's own store listens on MASTER_PORT = 65535 and ranks meet one port above: choose a lower --master-port"
    )]
    NoPortAbove,
    #[error(
        "{launch}: its ranks are on several hosts and rank 0's is not known; set MASTER_ADDR to the host of rank 0, for all ranks"
    )]
    Where { launch: Box<Launch> },
    #[error(
        "{launch}, but {engine} says rank {rank} of {world}: start the program with the launcher that belongs to {engine}"
    )]
    Engine { launch: Box<Launch>, engine: String, rank: usize, world: usize },
}

/// Reads what the launcher of this process has set. The first that is there counts: a launcher's own variables stand
/// before those of the system that it may have been started by.
pub fn detect(vars: Vars) -> Result<Launch, LaunchError> {
    let vars = &|name: &str| vars(name).filter(|value| !value.is_empty());
    if let Some([rank, world]) = pair(vars, "RANK", "WORLD_SIZE")? {
        return by_torchrun(vars, rank, world);
    }
    if let Some([rank, world]) = pair(vars, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")? {
        let local = ["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"];
        return by_mpi(vars, Kind::OpenMpi, [rank, world], local, vars("PMIX_NAMESPACE"));
    }
    // Before Slurm: MPICH's mpiexec in an allocation starts its helpers with srun, and ranks inherit their variables.
    if let Some([rank, world]) = pair(vars, "PMI_RANK", "PMI_SIZE")? {
        return by_mpi(vars, Kind::Pmi, [rank, world], ["MPI_LOCALRANKID", "MPI_LOCALNRANKS"], None);
    }
    if in_step(vars)? {
        return by_slurm(vars);
    }
    meet(vars, Kind::Alone, [0, 1], [Some(0), Some(1)], String::new(), None)
}

impl Launch {
    /// Whether all ranks share this host, if the launcher tells.
    pub fn one_host(&self) -> Option<bool> {
        self.local_world.map(|local| local == self.world)
    }

    /// Where to meet, for ranks that will.
    pub fn endpoint(&self) -> Result<(&str, u16), LaunchError> {
        match self.address.as_str() {
            "" => Err(LaunchError::Where { launch: self.clone().into() }),
            address => Ok((address, self.port)),
        }
    }

    /// An engine that counts ranks itself, as MPI does, must count as the launcher does.
    pub fn agrees(&self, engine: &str, rank: usize, world: usize) -> Result<(), LaunchError> {
        if (rank, world) == (self.rank, self.world) {
            return Ok(());
        }
        Err(LaunchError::Engine { launch: self.clone().into(), engine: engine.into(), rank, world })
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "started as rank {} of {} by {}", self.rank, self.world, self.kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::Torchrun => "torchrun (RANK, WORLD_SIZE)",
            Kind::OpenMpi => "mpirun (Open MPI)",
            Kind::Pmi => "mpirun (PMI)",
            Kind::Slurm => "srun (Slurm)",
            Kind::Internevo => "internevo launch",
            Kind::Alone => "nobody (no launcher)",
        })
    }
}

// ---- launchers -----------------------------------------------------------------------------------------------------

fn by_torchrun(vars: Vars, rank: usize, world: usize) -> Result<Launch, LaunchError> {
    let local = [number(vars, "LOCAL_RANK")?, number(vars, "LOCAL_WORLD_SIZE")?];
    let (kind, job) = match vars(MARK) {
        Some(launcher) => (Kind::Internevo, launcher),
        None => (Kind::Torchrun, vars("TORCHELASTIC_RUN_ID").unwrap_or_default()),
    };
    let mut launch = meet(vars, kind, [rank, world], local, job, None)?;
    // torchrun's agent keeps a store of its own on MASTER_PORT, as long as the job lives.
    if vars("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        launch.port = launch.port.checked_add(1).ok_or(LaunchError::NoPortAbove)?;
    }
    Ok(launch)
}

fn by_mpi(
    vars: Vars,
    kind: Kind,
    world: [usize; 2],
    [rank_name, size_name]: [&str; 2],
    job: Option<String>,
) -> Result<Launch, LaunchError> {
    let local = [number(vars, rank_name)?, number(vars, size_name)?];
    // `srun --mpi=pmi2` speaks PMI and leaves the rest to the variables of its step.
    if local == [None, None] && kind == Kind::Pmi && in_step(vars)? {
        let step = by_slurm(vars)?;
        step.agrees("PMI", world[0], world[1])?;
        return Ok(Launch { kind, ..step });
    }
    // mpirun in an allocation puts its first ranks on the first host.
    let node = first_node(vars, &["SLURM_JOB_NODELIST", "SLURM_NODELIST"])?;
    meet(vars, kind, world, local, job.unwrap_or_default(), node)
}

/// A batch script and the shell of `salloc` see the variables of an allocation, but are no ranks: a step makes ranks.
fn in_step(vars: Vars) -> Result<bool, LaunchError> {
    /// Slurm numbers its own steps (batch, interactive, extern) down from the largest number.
    const OWN: u32 = 0xffff_fff0;
    Ok(number::<u32>(vars, "SLURM_STEP_ID")?.is_some_and(|step| step < OWN))
}

fn by_slurm(vars: Vars) -> Result<Launch, LaunchError> {
    let size = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"].into_iter().find(|name| vars(name).is_some());
    let Some([rank, world]) = pair(vars, "SLURM_PROCID", size.unwrap_or("SLURM_STEP_NUM_TASKS"))? else {
        return Err(LaunchError::Half { set: "SLURM_STEP_ID".into(), missing: "SLURM_PROCID".into() });
    };
    let local = [number(vars, "SLURM_LOCALID")?, tasks_here(vars)?];
    let node = first_node(vars, &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"])?;
    let [job, step] = ["SLURM_JOB_ID", "SLURM_STEP_ID"].map(|name| vars(name).unwrap_or_default());
    meet(vars, Kind::Slurm, [rank, world], local, format!("{job}.{step}"), node)
}

/// The rest is the same for all. Ranks of one host meet on its loopback, whatever its name means to whom; else
/// `MASTER_ADDR` has the last word, before what the launcher says of rank 0's `node`.
fn meet(
    vars: Vars,
    kind: Kind,
    [rank, world]: [usize; 2],
    [local_rank, local_world]: [Option<usize>; 2],
    job: String,
    node: Option<String>,
) -> Result<Launch, LaunchError> {
    let told = vars("MASTER_ADDR").or(node);
    let address = match (local_world, told) {
        (Some(local), _) if local == world => "127.0.0.1".into(),
        (_, Some(address)) => address,
        (Some(_), None) => String::new(),
        (None, None) => "127.0.0.1".into(),
    };
    let port = number(vars, "MASTER_PORT")?.map_or_else(|| port_of(kind, &job), NonZeroU16::get);
    Ok(Launch { kind, rank, world, local_rank: local_rank.unwrap_or(0), local_world, job, address, port })
}

/// Two jobs on one host should not meet: where the launcher has a name for the job the port follows from it.
fn port_of(kind: Kind, job: &str) -> u16 {
    if job.is_empty() || !matches!(kind, Kind::OpenMpi | Kind::Slurm) {
        return PORT;
    }
    // FNV-1a, see http://www.isthe.com/chongo/tech/comp/fnv; below the ports that systems hand out by themselves.
    let hash = job.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    10_000 + (hash % 20_000) as u16
}

// ---- variables -----------------------------------------------------------------------------------------------------

/// Rank and size, both or none.
fn pair(vars: Vars, rank_name: &str, size_name: &str) -> Result<Option<[usize; 2]>, LaunchError> {
    let half = |set: &str, missing: &str| LaunchError::Half { set: set.into(), missing: missing.into() };
    match (number(vars, rank_name)?, number(vars, size_name)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(rank_name, size_name)),
        (None, Some(_)) => Err(half(size_name, rank_name)),
        (Some(rank), Some(size)) if rank < size => Ok(Some([rank, size])),
        (Some(rank), Some(size)) => Err(LaunchError::OutOfRange {
            name: rank_name.into(),
            value: rank,
            limit_name: size_name.into(),
            limit: size,
        }),
    }
}

fn number<T: Number>(vars: Vars, name: &str) -> Result<Option<T>, LaunchError> {
    let Some(value) = vars(name) else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(LaunchError::Unreadable { name: name.into(), value, what: T::WHAT }),
    }
}

trait Number: FromStr {
    const WHAT: &'static str;
}
impl Number for usize {
    const WHAT: &'static str = "a whole number";
}
impl Number for u32 {
    const WHAT: &'static str = "a whole number";
}
impl Number for NonZeroU16 {
    const WHAT: &'static str = "a port (1 to 65535)";
}

/// Slurm's tasks on this host, out of those of each.
fn tasks_here(vars: Vars) -> Result<Option<usize>, LaunchError> {
    const NAME: &str = "SLURM_STEP_TASKS_PER_NODE";
    let (Some(list), Some(node)) = (vars(NAME), number(vars, "SLURM_NODEID")?) else { return Ok(None) };
    match nodes::tasks_of(&list, node) {
        Ok(tasks) => Ok(Some(tasks)),
        Err(why) => Err(LaunchError::Nodes { name: NAME.into(), value: list, why: why.to_string() }),
    }
}

/// The first host of the first list that is there.
fn first_node(vars: Vars, names: &[&str]) -> Result<Option<String>, LaunchError> {
    let Some((name, list)) = names.iter().find_map(|name| Some((name, vars(name)?))) else { return Ok(None) };
    match nodes::first(&list) {
        Ok(node) => Ok(Some(node)),
        Err(why) => Err(LaunchError::Nodes { name: name.to_string(), value: list, why: why.to_string() }),
    }
}
