//! Host values in and out of views of any float type.
use crate::{Backend, DType, View};
use half::{bf16, f16};

/// Host values of a view.
pub fn download<E: crate::Element>(dev: &mut dyn Backend, view: View) -> Vec<E> {
    assert_eq!(view.dtype, E::DTYPE, "download of {view:?}");
    let mut out = vec![E::zeroed(); view.len];
    dev.download(view, bytemuck::cast_slice_mut(&mut out));
    out
}

/// Writes host values into a view.
pub fn upload<E: crate::Element>(dev: &mut dyn Backend, src: &[E], view: View) {
    assert_eq!((view.dtype, view.len), (E::DTYPE, src.len()), "upload to {view:?}");
    dev.upload(bytemuck::cast_slice(src), view);
}

/// As f32: rounded if the view holds f64.
pub fn download_floats(dev: &mut dyn Backend, view: View, out: &mut [f32]) {
    assert_eq!(view.len, out.len(), "download of {view:?}");
    match view.dtype {
        DType::F32 => dev.download(view, bytemuck::cast_slice_mut(out)),
        DType::F64 => convert(&download::<f64>(dev, view), out, |x| x as f32),
        DType::BF16 => convert(&download::<bf16>(dev, view), out, f32::from),
        DType::F16 => convert(&download::<f16>(dev, view), out, f32::from),
        DType::U32 => panic!("{view:?} holds no floats"),
    }
}

fn convert<E: Copy>(from: &[E], to: &mut [f32], f: impl Fn(E) -> f32) {
    to.iter_mut().zip(from).for_each(|(y, x)| *y = f(*x));
}

/// Rounded to the view's type, to nearest and ties to even.
pub fn upload_floats(dev: &mut dyn Backend, src: &[f32], view: View) {
    match view.dtype {
        DType::F32 => upload(dev, src, view),
        DType::F64 => upload(dev, &src.iter().map(|&x| x as f64).collect::<Vec<_>>(), view),
        DType::BF16 => upload(dev, &src.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>(), view),
        DType::F16 => upload(dev, &src.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>(), view),
        DType::U32 => panic!("{view:?} holds no floats"),
    }
}
