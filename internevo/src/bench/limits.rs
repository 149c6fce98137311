//! What a device could do at most: what operations are measured against, in the same run and with the same clock as they.
use crate::config::Precision;
use crate::device::On;
use crate::doctor::Sizes;
use anyhow::{Result, anyhow};
use backend::{Backend, Copies, Cpu, DType, Op, Region, Sizes as Regions, View, draw};
use cuda::measure::{self, Replay};
use std::time::Instant;

pub struct Limits {
    /// Bytes a second that a copy reads and writes.
    pub copy: f64,
    /// Operations a second: of a large product, or of arithmetic in registers.
    pub arithmetic: f64,
    /// As its maker promises.
    pub nominal: Option<f64>,
}

/// Rounds of arithmetic alone on a CPU.
const SPIN: usize = 300_000;
/// On a CPU, copies of tensors have so many bytes together.
const BEYOND_CACHES: usize = 256 << 20;

impl Limits {
    pub fn measure(on: &On, precision: Precision, threads: usize, quick: bool) -> Result<Limits> {
        let sizes = if quick { Sizes::QUICK } else { Sizes::FULL };
        match on {
            On::Cpu => {
                let len = if quick { 1 << 20 } else { BEYOND_CACHES / 8 };
                let x = View { region: Region::Act, dtype: DType::F32, offset: 0, len };
                let copy = Op::Copy { x, y: View { offset: x.bytes(), ..x } };
                let seconds = time(on, copy, threads, |dev, _, place| draw(dev, place))?;
                let units = Cpu::new(Regions::default(), threads);
                let spin = |_| {
                    let (began, flops) = (Instant::now(), units.spin(SPIN));
                    flops / began.elapsed().as_secs_f64()
                };
                let arithmetic = (0..5).map(spin).fold(0.0, f64::max);
                Ok(Limits { copy: 2.0 * x.bytes() as f64 / seconds, arithmetic, nominal: None })
            }
            On::Card(site) => {
                let err = |e: String| anyhow!(e);
                let copy = measure::copy(site, sizes.copy_on(site)).map_err(err)?;
                let arithmetic = measure::product(site, precision.dtype(), sizes.product).map_err(err)?;
                let tf32 = precision.products() == cuda::F32Products::Tf32;
                let nominal = cuda::nominal(&site.card.name, precision.dtype(), tf32);
                Ok(Limits { copy, arithmetic, nominal })
            }
        }
    }
}

/// Seconds of an operation, the median, on copies of its tensors that no cache holds. `put` fills a tensor, which is the third
/// argument here.
pub fn time(on: &On, op: Op, threads: usize, put: impl FnMut(&mut dyn Backend, View, View)) -> Result<f64> {
    match on {
        On::Cpu => Ok(on_cpu(op, threads, put)),
        On::Card(site) => {
            let times = Replay::new(site, op, put).map_err(|e| anyhow!(e))?.times();
            Ok(times[times.len() / 2])
        }
    }
}

fn on_cpu(op: Op, threads: usize, mut put: impl FnMut(&mut dyn Backend, View, View)) -> f64 {
    let copies = Copies::new(op, BEYOND_CACHES);
    let mut dev = Cpu::new(copies.sizes(), threads);
    for copy in 0..copies.number {
        copies.views().into_iter().for_each(|view| put(&mut dev, view, copies.place(copy, view)));
    }
    let mut turn = 0..;
    let mut round = |many: usize| {
        let began = Instant::now();
        turn.by_ref().take(many).for_each(|copy| dev.run(copies.op(copy)));
        began.elapsed().as_secs_f64() / many as f64
    };
    let many = (0.005 / round(1).max(1e-9)).clamp(1.0, 200.0) as usize;
    let mut times = [(); 5].map(|()| round(many));
    times.sort_by(f64::total_cmp);
    times[2]
}
