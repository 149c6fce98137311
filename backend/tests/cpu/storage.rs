//! bf16 and f16: every value is kept, every f32 is rounded to the nearest, and every operation on them is that on f32,
//! rounded at its end.
use crate::device::{Device, draw};
use crate::examples::{Example, Tensor, examples};
use backend::{DType, Op};
use half::{bf16, f16};

const NARROW: [DType; 2] = [DType::BF16, DType::F16];

/// A format of sixteen bits as IEEE 754 defines it, in f64.
struct Format {
    dtype: DType,
    fraction: u32,
    bias: i32,
    /// As `half` rounds one number.
    half: fn(f32) -> u16,
}
const FORMATS: [Format; 2] = [
    Format { dtype: DType::BF16, fraction: 7, bias: 127, half: |x| bf16::from_f32(x).to_bits() },
    Format { dtype: DType::F16, fraction: 10, bias: 15, half: |x| f16::from_f32(x).to_bits() },
];

impl Format {
    fn infinity(&self) -> u16 {
        0x7FFF >> self.fraction << self.fraction
    }
    /// The value of a code without its sign. At infinity, where the next binade would begin.
    fn magnitude(&self, code: u16) -> f64 {
        let (exponent, fraction) = ((code >> self.fraction) as i32, (code & ((1 << self.fraction) - 1)) as f64);
        let one = 2.0_f64.powi(self.fraction as i32);
        let fraction = if exponent == 0 { fraction } else { one + fraction };
        fraction / one * 2.0_f64.powi(exponent.max(1) - self.bias)
    }
    fn value(&self, code: u16) -> f64 {
        let magnitude = match code & 0x7FFF {
            code if code < self.infinity() => self.magnitude(code),
            code if code == self.infinity() => f64::INFINITY,
            _ => f64::NAN,
        };
        if code < 0x8000 { magnitude } else { -magnitude }
    }
    /// To nearest, and of two equally near to the even code.
    fn rounded(&self, x: f32) -> u16 {
        let magnitude = f64::from(x.abs());
        // The first code above, by halves.
        let (mut above, mut end) = (0, self.infinity() + 1);
        while above < end {
            let middle = (above + end) / 2;
            if self.magnitude(middle) <= magnitude { above = middle + 1 } else { end = middle }
        }
        let code = if above > self.infinity() {
            self.infinity()
        } else {
            let (down, up) = (magnitude - self.magnitude(above - 1), self.magnitude(above) - magnitude);
            if down < up || (down == up && above % 2 == 1) { above - 1 } else { above }
        };
        if x.is_sign_negative() { code | 0x8000 } else { code }
    }
    fn is_nan(&self, code: u16) -> bool {
        code & 0x7FFF > self.infinity()
    }
}

#[test]
fn every_value_survives_f32() {
    for format in FORMATS {
        let dev = &mut Device::new(DType::F32, 2);
        let codes: Vec<u16> = (0..=u16::MAX).collect();
        let x = match format.dtype {
            DType::BF16 => dev.put(&codes.iter().map(|&code| bf16::from_bits(code)).collect::<Vec<_>>()),
            _ => dev.put(&codes.iter().map(|&code| f16::from_bits(code)).collect::<Vec<_>>()),
        };
        let (wide, back) = (dev.poison(codes.len()), dev.stored(format.dtype, &vec![0.0; codes.len()]));
        dev.run(Op::Copy { x, y: wide }, []);
        dev.run(Op::Copy { x: wide, y: back }, []);
        for ((&code, wide), back) in codes.iter().zip(dev.get(wide)).zip(dev.bits16(back)) {
            let value = format.value(code);
            if value.is_nan() {
                assert!(wide.is_nan() && format.is_nan(back), "{:?} {code:#x}", format.dtype);
            } else {
                assert_eq!((wide.to_bits(), back), (value.to_bits(), code), "{:?} {code:#x}", format.dtype);
            }
        }
    }
}

#[test]
fn rounding_is_to_nearest_and_even() {
    for format in FORMATS {
        let mut cases: Vec<f32> =
            vec![f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 0.0, 65504.0, 65519.996, 65520.0];
        // Every value, every tie, and the numbers beside the ties.
        for code in 0..format.infinity() {
            let (low, high) = (format.magnitude(code), format.magnitude(code + 1));
            let tie = ((low + high) / 2.0) as f32;
            cases.extend([low as f32, tie, tie.next_up(), tie.next_down()]);
        }
        cases.extend(draw(1, 20_000).iter().map(|x| (*x as f32) * 10.0));
        cases.extend(draw(2, 20_000).iter().map(|x| f32::from_bits((x.abs() * 5e8) as u32)));
        cases.retain(|x| !x.is_nan());
        cases.extend(cases.clone().iter().map(|x| -x));

        let dev = &mut Device::new(DType::F32, 2);
        let (x, y) = (dev.put(&cases), dev.stored(format.dtype, &vec![0.0; cases.len()]));
        dev.run(Op::Copy { x, y }, []);
        for (&x, got) in cases.iter().zip(dev.bits16(y)) {
            let expected = format.rounded(x);
            assert_eq!(got, expected, "{:?} of {x:e}", format.dtype);
            assert_eq!((format.half)(x), expected, "`half`, {:?} of {x:e}", format.dtype);
        }
        let nans: Vec<f32> = [0x7F80_0001, 0x7FC0_0000, 0xFF80_0001, 0xFFFF_FFFF].map(f32::from_bits).into();
        let (x, y) = (dev.put(&nans), dev.stored(format.dtype, &[0.0; 4]));
        dev.run(Op::Copy { x, y }, []);
        assert!(dev.bits16(y).into_iter().all(|code| format.is_nan(code)), "a NaN stays one");
    }
}

/// Rounded to a float type.
fn narrowed(dtype: DType, x: &[f64]) -> Vec<f64> {
    match dtype {
        DType::BF16 => x.iter().map(|&x| bf16::from_f32(x as f32).into()).collect(),
        DType::F16 => x.iter().map(|&x| f16::from_f32(x as f32).into()).collect(),
        DType::F32 | DType::F64 | DType::U32 => x.to_vec(),
    }
}

/// The operation on tensors stored in `floats` equals that on the same numbers in f32, rounded at its end.
fn check(dev: &mut Device, example: &Example, floats: &[DType]) -> Vec<Vec<f64>> {
    let rounded = |(tensor, float): (&Tensor, &DType)| match tensor {
        Tensor::Float(x) => Tensor::Float(narrowed(*float, x)),
        Tensor::Double(x) => Tensor::Double(x.clone()),
        Tensor::Int(x) => Tensor::Int(x.clone()),
    };
    let wide: Vec<Tensor> = example.tensors.iter().zip(floats).map(rounded).collect();
    let expected = example.run_on(dev, &wide, &vec![DType::F32; wide.len()]);
    let got = example.run_on(dev, &example.tensors, floats);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let float = matches!(example.tensors[i], Tensor::Float(_));
        let expected = if float { narrowed(floats[i], expected) } else { expected.clone() };
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(got.iter().zip(&expected).all(same), "{}, tensor {i} of {floats:?}", example.name);
    }
    got
}

#[test]
fn every_operation_is_that_on_f32_rounded() {
    let dev = &mut Device::new(DType::F32, 2);
    for (seed, example) in examples(67, 33).iter().enumerate() {
        let n = example.tensors.len();
        for float in NARROW {
            check(dev, example, &vec![float; n]);
        }
        // Any types at all, side by side.
        for mix in 0..4 {
            let any = |x: &f64| [DType::F32, DType::BF16, DType::F16][(x.abs() * 1e4) as usize % 3];
            check(dev, example, &draw(7 * seed as u64 + mix, n).iter().map(any).collect::<Vec<_>>());
        }
    }
}

/// As a training step has them: activations in 16 bits; statistics and added-up gradients of weights in f32, unrounded.
#[test]
fn gradients_of_weights_stay_in_f32() {
    let dev = &mut Device::new(DType::F32, 2);
    let all = examples(67, 33);
    for narrow in NARROW {
        let (wide, ids) = (DType::F32, DType::U32);
        let cases: [(&str, &[DType], &[usize]); 6] = [
            ("embedding backward", &[ids, narrow, wide], &[2]),
            ("linear backward weight", &[narrow, narrow, wide], &[2]),
            ("bias backward", &[narrow, wide], &[1]),
            ("rmsnorm backward", &[narrow, narrow, wide, narrow, narrow, wide], &[5]),
            ("layernorm backward", &[narrow, narrow, wide, narrow, narrow, wide, wide], &[5, 6]),
            ("head norm backward", &[narrow, narrow, wide, narrow, wide], &[4]),
        ];
        for (name, floats, gradients) in cases {
            let find = |e: &&Example| e.name.starts_with(name) && e.name.ends_with("acc true");
            let tensors = check(dev, all.iter().find(find).expect(name), floats);
            for &i in gradients {
                assert_ne!(narrowed(narrow, &tensors[i]), tensors[i], "{name}: tensor {i} was rounded to {narrow:?}");
            }
        }
    }
}
