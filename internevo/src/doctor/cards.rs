//! The cards of this machine, and how fast they are beside others of their name.
use super::row;
use crate::device::{Device, search};
use crate::environment::kernel_cache;
use crate::job::human;
use backend::DType;
use cuda::{Card, F32Products, Lib, Nvml, Site, State, measure, usual};
use serde::Serialize;
use std::time::Duration;

/// How large measurements are.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Bytes of a copy, and of what the host sends.
    copy: usize,
    send: usize,
    /// Rows and columns of the factors of a product.
    pub product: usize,
    /// Large enough to be compared.
    telling: bool,
}

impl Sizes {
    pub const FULL: Sizes = Sizes { copy: 2 << 30, send: 256 << 20, product: 8192, telling: true };
    pub const QUICK: Sizes = Sizes { copy: 8 << 20, send: 4 << 20, product: 512, telling: false };

    /// What others have taken is not there.
    pub fn copy_on(self, site: &Site) -> usize {
        self.copy.min(site.card.free() / 8).next_multiple_of(1 << 20)
    }
}

#[derive(Clone, Serialize)]
pub struct CardReport {
    pub ordinal: usize,
    name: String,
    /// 90 for compute capability 9.0.
    arch: u32,
    memory_bytes: usize,
    free_bytes: usize,
    multiprocessors: u32,
    l2_bytes: usize,
    bus: Option<String>,
    /// Why it cannot be worked on.
    pub unusable: Option<String>,
    state: Option<Told>,
    measured: Option<Measured>,
    /// What should be looked at.
    notes: Vec<String>,
}

/// What NVML tells, while the card computes if it is measured.
#[derive(Clone, Serialize)]
struct Told {
    clock_mhz: Option<[u32; 2]>,
    memory_clock_mhz: Option<[u32; 2]>,
    power_w: Option<[f64; 2]>,
    temperature: Option<u32>,
    mig: Option<bool>,
    held_back_by: Vec<&'static str>,
}

#[derive(Clone, Serialize)]
struct Measured {
    /// Read and written.
    copy_bytes_per_s: f64,
    product_flops: f64,
    upload_bytes_per_s: f64,
    launch_s: f64,
}

/// Below this part of what is usual a card is called slow.
const SLOW: f64 = 0.9;

/// `Err`: why none can be seen.
pub fn all(asked: Device, sizes: Sizes, nvml: Option<&Nvml>) -> Result<Vec<CardReport>, String> {
    search().load(Lib::Driver).map_err(|missing| missing.to_string())?;
    (0..Card::count()?).map(|ordinal| report(ordinal, asked, sizes, nvml)).collect()
}

fn report(ordinal: usize, asked: Device, sizes: Sizes, nvml: Option<&Nvml>) -> Result<CardReport, String> {
    let card = Card::open(ordinal)?;
    let state = || nvml.zip(card.bus.as_ref()).map(|(nvml, bus)| nvml.state(bus));
    let mut report = CardReport {
        ordinal,
        name: card.name.clone(),
        arch: card.facts.arch,
        memory_bytes: card.memory,
        free_bytes: card.free(),
        multiprocessors: card.facts.multiprocessors,
        l2_bytes: card.l2,
        bus: card.bus.clone(),
        unusable: None,
        state: state().map(told),
        measured: None,
        notes: vec![],
    };
    let wanted = match asked {
        Device::Auto => true,
        Device::Cpu => false,
        Device::Card(number) => number == ordinal,
    };
    if !wanted {
        return Ok(report);
    }
    let site = Site::open(&search(), ordinal, kernel_cache(), F32Products::Full, false);
    match site.and_then(|site| measured(&site, sizes, &state)) {
        Ok((measured, at_work)) => {
            report.state = at_work.map(told).or(report.state);
            if sizes.telling {
                report.compare(&measured);
            }
            report.measured = Some(measured);
        }
        Err(why) => report.unusable = Some(why),
    }
    Ok(report)
}

/// With the state in which the card drew the most power.
fn measured(site: &Site, sizes: Sizes, state: &dyn Fn() -> Option<State>) -> Result<(Measured, Option<State>), String> {
    let copy_bytes_per_s = measure::copy(site, sizes.copy_on(site))?;
    let (product_flops, at_work) = std::thread::scope(|scope| {
        let product = scope.spawn(|| measure::product(site, DType::BF16, sizes.product));
        let mut at_work = None;
        let power = |state: &State| state.power.map_or(0.0, |[now, _]| now);
        while !product.is_finished() {
            at_work = state().into_iter().chain(at_work).max_by(|a, b| power(a).total_cmp(&power(b)));
            std::thread::sleep(Duration::from_millis(20));
        }
        (product.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), at_work)
    });
    let measured = Measured {
        copy_bytes_per_s,
        product_flops: product_flops?,
        upload_bytes_per_s: measure::upload(site, sizes.send)?,
        launch_s: measure::launch(site)?,
    };
    Ok((measured, at_work))
}

fn told(state: State) -> Told {
    Told {
        clock_mhz: state.clock,
        memory_clock_mhz: state.memory_clock,
        power_w: state.power,
        temperature: state.temperature,
        mig: state.cut,
        held_back_by: state.held_back,
    }
}

impl CardReport {
    fn compare(&mut self, measured: &Measured) {
        let Some(usual) = usual(&self.name) else { return };
        let pairs = [
            ("copies", measured.copy_bytes_per_s, usual.copy, format!("{:.1} TB/s", usual.copy / 1e12)),
            ("products", measured.product_flops, usual.product, format!("{:.0} TFLOP/s", usual.product / 1e12)),
        ];
        for (what, here, there, text) in pairs {
            if here < SLOW * there {
                let reason = self.reason();
                let part = 100.0 * here / there;
                self.notes.push(format!("slow: {what} at {part:.0} % of {text}, which such a card reaches; {reason}"));
            }
        }
    }

    /// What may make it slow.
    fn reason(&self) -> String {
        match &self.state {
            Some(Told { mig: Some(true), .. }) => "it is cut into parts (MIG), and this is one of them".into(),
            Some(Told { held_back_by, .. }) if !held_back_by.is_empty() => {
                format!("its clocks are held back by {}", held_back_by.join(", "))
            }
            _ => "see whether others use it, and its clocks, limit of power and heat: nvidia-smi -q -d PERFORMANCE"
                .into(),
        }
    }

    pub fn print(&self) {
        let (major, minor) = (self.arch / 10, self.arch % 10);
        let free = human(self.free_bytes);
        row(
            &format!("card {}", self.ordinal),
            format!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, {} of cache, {}, {free} free{}",
                self.name,
                self.multiprocessors,
                human(self.l2_bytes),
                human(self.memory_bytes),
                self.bus.as_ref().map_or(String::new(), |bus| format!(", at {bus}"))
            ),
        );
        if let Some(why) = &self.unusable {
            row("", format!("cannot be used: {why}"));
        }
        if let Some(state) = &self.state {
            row("", state.words());
        }
        if let Some(measured) = &self.measured {
            let usual = usual(&self.name);
            let beside = |text: Option<String>| text.map_or(String::new(), |text| format!(" (such a card: {text})"));
            let tera = |x: f64| format!("{:.3}", x / 1e12);
            let copy = beside(usual.map(|usual| tera(usual.copy)));
            row("  copies", format!("{} TB/s, read and written{copy}", tera(measured.copy_bytes_per_s)));
            let product = beside(usual.map(|usual| format!("{:.0}", usual.product / 1e12)));
            row("  products", format!("{:.1} TFLOP/s, bf16{product}", measured.product_flops / 1e12));
            row("  from the host", format!("{:.1} GB/s, pinned", measured.upload_bytes_per_s / 1e9));
            row("  a launch", format!("{:.1} µs", measured.launch_s * 1e6));
        }
        self.notes.iter().for_each(|note| row("  note", note));
    }
}

impl Told {
    fn words(&self) -> String {
        let mut words = vec![];
        if let Some([now, most]) = self.clock_mhz {
            words.push(format!("{now} of {most} MHz"));
        }
        if let Some([now, most]) = self.memory_clock_mhz {
            words.push(format!("memory {now} of {most} MHz"));
        }
        if let Some([now, most]) = self.power_w {
            words.push(format!("{now:.0} of {most:.0} W"));
        }
        if let Some(degrees) = self.temperature {
            words.push(format!("{degrees} °C"));
        }
        if self.mig == Some(true) {
            words.push("cut into parts (MIG)".into());
        }
        if !self.held_back_by.is_empty() {
            words.push(format!("clocks held back by {}", self.held_back_by.join(", ")));
        }
        if words.is_empty() { "NVML tells nothing about it".into() } else { words.join(", ") }
    }
}
