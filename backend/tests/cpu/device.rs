//! A device for tests: host vectors in, operations, host vectors out. Every output lies in memory full of NaN before the
//! operation writes it, so whatever an operation should not read shows. The operations stand in `ops`. Which device it is
//! says the test: these files are those of the CPU's and of the card's tests.
use crate::under_test;
use backend::{
    Backend, Cpu, DType, Element, Heads, Isa, Op, REGIONS, Region, Scores, Slopes, View, download, upload,
    upload_floats,
};

pub struct Device {
    inner: Box<dyn Backend>,
    pub float: DType,
    /// Bytes handed out for the operation at hand.
    used: usize,
    /// Where the memory of an operation begins.
    pub base: usize,
}

impl Device {
    pub fn new(float: DType, threads: usize) -> Device {
        Device::with_isa(float, threads, Isa::best())
    }
    pub fn with_isa(float: DType, threads: usize, isa: Isa) -> Device {
        let mut sizes = [0; REGIONS.len()];
        sizes[Region::Act as usize] = 48 << 20;
        Device::on(under_test::device(sizes, threads, isa), float)
    }
    /// What other devices are compared with.
    pub fn on_cpu(float: DType) -> Device {
        let mut sizes = [0; REGIONS.len()];
        sizes[Region::Act as usize] = 48 << 20;
        Device::on(Box::new(Cpu::new(sizes, 2)), float)
    }
    pub fn on(inner: Box<dyn Backend>, float: DType) -> Device {
        Device { inner, float, used: 0, base: 0 }
    }

    fn view(&mut self, dtype: DType, len: usize) -> View {
        let offset = self.base + self.used;
        self.used = (self.used + len * dtype.bytes()).next_multiple_of(8);
        View { region: Region::Act, dtype, offset, len }
    }
    pub fn put<E: Element>(&mut self, x: &[E]) -> View {
        let view = self.view(E::DTYPE, x.len());
        upload(&mut *self.inner, x, view);
        view
    }
    /// Numbers in a float type, rounded to it.
    pub fn stored(&mut self, dtype: DType, x: &[f64]) -> View {
        if dtype == DType::F64 {
            return self.put(x);
        }
        let view = self.view(dtype, x.len());
        upload_floats(&mut *self.inner, &x.iter().map(|&x| x as f32).collect::<Vec<f32>>(), view);
        view
    }
    /// Numbers in the float type of the device.
    pub fn float(&mut self, x: &[f64]) -> View {
        self.stored(self.float, x)
    }
    pub fn double(&mut self, x: &[f64]) -> View {
        self.put(x)
    }
    pub fn int(&mut self, x: &[u32]) -> View {
        self.put(x)
    }
    pub fn poison(&mut self, len: usize) -> View {
        self.float(&vec![f64::NAN; len])
    }
    /// (fresh memory, or what is to be added to; `acc`)
    pub fn into(&mut self, into: Option<&[f64]>, len: usize) -> (View, bool) {
        match into {
            Some(x) => (self.float(x), true),
            None => (self.poison(len), false),
        }
    }

    /// As `run`, and the memory is kept for another operation on the same tensors.
    pub fn run_on<const N: usize>(&mut self, op: Op, out: [View; N]) -> [Vec<f64>; N] {
        self.inner.run(op);
        out.map(|view| self.get(view))
    }
    /// Runs the operation and brings some of its tensors back. The memory is free for the next one.
    pub fn run<const N: usize>(&mut self, op: Op, out: [View; N]) -> [Vec<f64>; N] {
        self.inner.run(op);
        self.used = 0;
        out.map(|view| self.get(view))
    }
    pub fn get(&mut self, view: View) -> Vec<f64> {
        let inner = &mut *self.inner;
        match view.dtype {
            DType::F32 => download::<f32>(inner, view).into_iter().map(f64::from).collect(),
            DType::F64 => download(inner, view),
            DType::BF16 => download::<half::bf16>(inner, view).into_iter().map(f64::from).collect(),
            DType::F16 => download::<half::f16>(inner, view).into_iter().map(f64::from).collect(),
            DType::U32 => download::<u32>(inner, view).into_iter().map(f64::from).collect(),
        }
    }
    /// The bytes themselves, for what is no number of its own.
    pub fn bits16(&mut self, view: View) -> Vec<u16> {
        let mut out = vec![0; view.len];
        self.inner.download(view, bytemuck::cast_slice_mut(&mut out));
        out
    }
}

/// Reproducible numbers of roughly unit variance, all exact in f32.
pub fn draw(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..len).map(|_| ((uniform() + uniform() + uniform() - 1.5) * 2.0) as f32 as f64).collect()
}

/// `len` indices below `n`, repeating.
pub fn indices(seed: u64, len: usize, n: usize) -> Vec<u32> {
    draw(seed, len).iter().map(|x| (x.abs() * 1e4) as u32 % n as u32).collect()
}

pub fn scaled(x: Vec<f64>, by: f64) -> Vec<f64> {
    x.into_iter().map(|x| x * by).collect()
}

pub fn heads(n: usize, kv: usize, dim: usize) -> Heads {
    Heads { n, kv, dim }
}

/// ALiBi of all heads.
pub fn alibi(heads: Heads) -> Option<Slopes> {
    Some(Slopes { first: 0, of: heads.n })
}

/// Scores of plain attention.
pub fn plain(heads: Heads) -> Scores {
    Scores { scale: 1.0 / (heads.dim as f64).sqrt(), cap: None, window: None, alibi: None }
}

/// Each way of making scores alone, then all of them: windows below, at and above a tile of 64 queries.
pub fn scores(heads: Heads) -> Vec<Scores> {
    let plain = plain(heads);
    let mut out = vec![
        plain,
        Scores { scale: 0.7, ..plain },
        Scores { cap: Some(1.5), ..plain },
        Scores { alibi: alibi(heads), ..plain },
        Scores { scale: 0.9, cap: Some(2.0), window: Some(5), alibi: alibi(heads) },
    ];
    out.extend([1, 3, 64, 65, 100, 1000].map(|window| Scores { window: Some(window), ..plain }));
    out
}

/// Cosines and sines of positions 0 .. p.
pub fn rope_table(p: usize, dim: usize) -> Vec<f64> {
    let row = |position: usize| {
        let angle = move |i: usize| position as f64 * 1e4_f64.powf(-2.0 * i as f64 / dim as f64);
        (0..dim / 2).map(move |i| angle(i).cos()).chain((0..dim / 2).map(move |i| angle(i).sin()))
    };
    (0..p).flat_map(row).collect()
}

/// max |a - b| / max |b|; infinite if anything is not a number.
pub fn error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let max = |x: &mut dyn Iterator<Item = f64>| {
        x.fold(0.0, |m: f64, x| if x.is_finite() { m.max(x.abs()) } else { f64::INFINITY })
    };
    let scale = max(&mut b.iter().copied());
    let off = max(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if off == 0.0 { 0.0 } else { off / scale }
}
