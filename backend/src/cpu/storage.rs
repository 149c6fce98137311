//! bf16 and f16 are storage: a kernel sees them widened to f32, and what it wrote is rounded when it is done, to nearest
//! and ties to even. So no kernel knows of them, and every tensor of an operation may have a float type of its own.
use super::pool::{Pool, Scratch, pieces, pieces_mut};
use crate::{DType, Element, In, Out};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::{Deref, DerefMut};

/// Elements that are worth a worker's while.
const TILE: usize = 1 << 14;

/// What a kernel reads of a view.
pub enum Read<'a, E> {
    /// The memory itself.
    Here(&'a [E]),
    /// A wider copy.
    Widened(Scratch<'a, E>),
}

/// What a kernel writes of a view; the end of it is when what was stored wider is rounded.
pub enum Write<'a, E: Store> {
    /// The memory itself.
    Here(&'a mut [E]),
    /// A wider copy, where it goes, and who carries it there.
    Widened(Scratch<'a, E>, Narrow<'a>, &'a Pool),
}

pub enum Narrow<'a> {
    /// Rounded to seven bits of fraction.
    Bf16(&'a mut [bf16]),
    /// Rounded to ten bits of fraction.
    F16(&'a mut [f16]),
}

/// What kernels are written over, and how it comes out of views.
pub trait Store: Element {
    fn read<'a>(_: &'a Pool, x: In<'a>) -> Read<'a, Self> {
        Read::Here(x.of())
    }
    fn write<'a>(_: &'a Pool, y: Out<'a>) -> Write<'a, Self> {
        Write::Here(y.of())
    }
    /// Only what was widened is ever rounded.
    fn round(_: &Pool, _: &[Self], _: &mut Narrow) {
        unreachable!("{:?} is never widened to", Self::DTYPE)
    }
}
impl Store for u32 {}
impl Store for f64 {}
impl Store for f32 {
    fn read<'a>(pool: &'a Pool, x: In<'a>) -> Read<'a, f32> {
        match x.dtype() {
            DType::BF16 => Read::Widened(widened(pool, x.of::<bf16>())),
            DType::F16 => Read::Widened(widened(pool, x.of::<f16>())),
            DType::F32 | DType::F64 | DType::U32 => Read::Here(x.of()),
        }
    }
    fn write<'a>(pool: &'a Pool, y: Out<'a>) -> Write<'a, f32> {
        match y.dtype() {
            DType::BF16 => {
                let narrow = y.of::<bf16>();
                Write::Widened(widened(pool, narrow), Narrow::Bf16(narrow), pool)
            }
            DType::F16 => {
                let narrow = y.of::<f16>();
                Write::Widened(widened(pool, narrow), Narrow::F16(narrow), pool)
            }
            DType::F32 | DType::F64 | DType::U32 => Write::Here(y.of()),
        }
    }
    fn round(pool: &Pool, wide: &[f32], narrow: &mut Narrow) {
        match narrow {
            Narrow::Bf16(narrow) => rounded(pool, wide, narrow),
            Narrow::F16(narrow) => rounded(pool, wide, narrow),
        }
    }
}

fn widened<'a, H: Sync>(pool: &'a Pool, x: &[H]) -> Scratch<'a, f32>
where
    [H]: HalfFloatSliceExt,
{
    let mut wide = pool.scratch(x.len());
    pool.over(
        (pieces(x, TILE), pieces_mut(&mut wide, TILE)),
        #[inline(always)]
        |_, (x, wide)| x.convert_to_f32_slice(wide),
    );
    wide
}

fn rounded<H: Send>(pool: &Pool, wide: &[f32], y: &mut [H])
where
    [H]: HalfFloatSliceExt,
{
    pool.over(
        (pieces(wide, TILE), pieces_mut(y, TILE)),
        #[inline(always)]
        |_, (wide, y)| y.convert_from_f32_slice(wide),
    );
}

impl<E: Store> Deref for Read<'_, E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        match self {
            Read::Here(x) => x,
            Read::Widened(x) => x,
        }
    }
}
impl<E: Store> Deref for Write<'_, E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        match self {
            Write::Here(y) => y,
            Write::Widened(y, ..) => y,
        }
    }
}
impl<E: Store> DerefMut for Write<'_, E> {
    fn deref_mut(&mut self) -> &mut [E] {
        match self {
            Write::Here(y) => y,
            Write::Widened(y, ..) => y,
        }
    }
}
impl<E: Store> Drop for Write<'_, E> {
    fn drop(&mut self) {
        if let Write::Widened(wide, narrow, pool) = self {
            E::round(pool, wide, narrow);
        }
    }
}
