//! What a machine can do, as data: a file of `profiles/` or one of your own.
use backend::{DType, Op, View};
use plan::RankId;
use serde::Deserialize;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// Of a rank's device.
    pub flops_per_s: Flops,
    pub memory_bytes_per_s: f64,
    /// Of every operation, beside its work.
    pub operation_latency_s: f64,
    /// Ranks with neighbouring numbers share a machine.
    pub ranks_per_machine: usize,
    pub inside: Link,
    pub between: Link,
}

/// Dense peak by the type of the operands.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flops {
    pub bf16: f64,
    pub f16: f64,
    pub f32: f64,
    pub f64: f64,
}

/// How fast a rank's device sends, and receives at the same time.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub bytes_per_s: f64,
    pub latency_s: f64,
}

/// Those of `profiles/`.
const KNOWN: [(&str, &str); 3] = [
    ("h100", include_str!("../../profiles/h100.toml")),
    ("h200", include_str!("../../profiles/h200.toml")),
    ("cpu", include_str!("../../profiles/cpu.toml")),
];

impl Profile {
    /// One of `profiles/`, by its file's name.
    pub fn known(name: &str) -> Option<Profile> {
        let (_, text) = KNOWN.iter().find(|(known, _)| *known == name)?;
        Some(Profile::parse(text).expect("what is compiled in has been read by a test"))
    }
    pub fn names() -> Vec<&'static str> {
        KNOWN.iter().map(|(name, _)| *name).collect()
    }

    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = toml::from_str(text).map_err(|e| e.to_string())?;
        let Flops { bf16, f16, f32, f64 } = profile.flops_per_s;
        let (inside, between) = (profile.inside, profile.between);
        let speeds = [
            ("flops_per_s.bf16", bf16),
            ("flops_per_s.f16", f16),
            ("flops_per_s.f32", f32),
            ("flops_per_s.f64", f64),
            ("memory_bytes_per_s", profile.memory_bytes_per_s),
            ("inside.bytes_per_s", inside.bytes_per_s),
            ("between.bytes_per_s", between.bytes_per_s),
            ("ranks_per_machine", profile.ranks_per_machine as f64),
        ];
        if let Some((key, value)) = speeds.into_iter().find(|(_, speed)| !speed.is_finite() || *speed <= 0.0) {
            return Err(format!("{key} = {value}: must be more than 0"));
        }
        let latencies = [
            ("operation_latency_s", profile.operation_latency_s),
            ("inside.latency_s", inside.latency_s),
            ("between.latency_s", between.latency_s),
        ];
        match latencies.into_iter().find(|(_, latency)| !(0.0..1.0).contains(latency)) {
            Some((key, value)) => Err(format!("{key} = {value}: must be seconds, at least 0 and less than 1")),
            None => Ok(profile),
        }
    }

    /// Seconds of an operation: its arithmetic or its bytes, whichever takes longer (Williams et al. 2009, the roofline).
    pub fn operation(&self, op: &Op) -> f64 {
        let (reads, writes) = op.views();
        let bytes: usize = reads.iter().chain(&writes).map(View::bytes).sum();
        let peak = self.flops_per_s.of(reads.iter().chain(&writes).map(|view| view.dtype));
        self.operation_latency_s + (op.flops() / peak).max(self.memory_s(bytes))
    }

    /// What is written or read once.
    pub fn memory_s(&self, bytes: usize) -> f64 {
        bytes as f64 / self.memory_bytes_per_s
    }

    /// The slowest link among members of a group.
    pub fn link(&self, group: &[RankId]) -> Link {
        let machine = |rank: &RankId| rank.0 / self.ranks_per_machine;
        let together = group.iter().all(|rank| machine(rank) == machine(&group[0]));
        if together { self.inside } else { self.between }
    }
}

impl Flops {
    /// Of an operation on tensors of these types: the narrowest are what is multiplied, statistics beside them are wider.
    fn of(&self, types: impl Iterator<Item = DType>) -> f64 {
        let floats = types.filter(|dtype| *dtype != DType::U32);
        match floats.min_by_key(|dtype| dtype.bytes()).unwrap_or(DType::F32) {
            DType::BF16 => self.bf16,
            DType::F16 => self.f16,
            DType::F32 | DType::U32 => self.f32,
            DType::F64 => self.f64,
        }
    }
}
