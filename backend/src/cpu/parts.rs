//! Tensors cut into parts, which threads may use side by side.

/// What is cut into parts. Tuples of them are cut together.
///
/// # Safety
/// Parts of different numbers share nothing that one of them may write.
pub unsafe trait Parts: Sync {
    type Part;
    fn count(&self) -> usize;
    /// # Safety
    /// `i` is below `count`, and asked for once.
    unsafe fn part(&self, i: usize) -> Self::Part;
}

/// Consecutive pieces of `size` elements; the last may be shorter.
pub fn pieces<E>(x: &[E], size: usize) -> Pieces<'_, E> {
    assert!(size > 0 || x.is_empty());
    Pieces { x, size }
}

/// As `pieces`, to write.
pub fn pieces_mut<E>(x: &mut [E], size: usize) -> PiecesMut<'_, E> {
    assert!(size > 0 || x.is_empty());
    PiecesMut { x: x.as_mut_ptr(), len: x.len(), size, of: std::marker::PhantomData }
}

pub struct Pieces<'a, E> {
    x: &'a [E],
    size: usize,
}
pub struct PiecesMut<'a, E> {
    x: *mut E,
    len: usize,
    size: usize,
    of: std::marker::PhantomData<&'a mut [E]>,
}
// SAFETY: stands for `&mut [E]`, of which threads get disjoint parts.
unsafe impl<E: Send> Sync for PiecesMut<'_, E> {}

// SAFETY: only read.
unsafe impl<'a, E: Sync> Parts for Pieces<'a, E> {
    type Part = &'a [E];
    fn count(&self) -> usize {
        if self.x.is_empty() { 0 } else { self.x.len().div_ceil(self.size) }
    }
    #[inline(always)]
    unsafe fn part(&self, i: usize) -> &'a [E] {
        &self.x[i * self.size..self.x.len().min((i + 1) * self.size)]
    }
}
// SAFETY: pieces of different numbers do not overlap.
unsafe impl<'a, E: Send> Parts for PiecesMut<'a, E> {
    type Part = &'a mut [E];
    fn count(&self) -> usize {
        if self.len == 0 { 0 } else { self.len.div_ceil(self.size) }
    }
    #[inline(always)]
    unsafe fn part(&self, i: usize) -> &'a mut [E] {
        let (start, end) = (i * self.size, self.len.min((i + 1) * self.size));
        assert!(start < end);
        // SAFETY: inside of the slice that `pieces_mut` borrowed for 'a, and by the contract nobody else has this part.
        unsafe { std::slice::from_raw_parts_mut(self.x.add(start), end - start) }
    }
}

macro_rules! tuples {
    ($($t:ident $i:tt),*) => {
        // SAFETY: each of them keeps its promise.
        unsafe impl<$($t: Parts),*> Parts for ($($t,)*) {
            type Part = ($($t::Part,)*);
            fn count(&self) -> usize {
                let counts = [$(self.$i.count()),*];
                assert!(counts.iter().all(|n| *n == counts[0]), "parts go together: {counts:?}");
                counts[0]
            }
            #[inline(always)]
            unsafe fn part(&self, i: usize) -> Self::Part {
                // SAFETY: by the contract of this function.
                unsafe { ($(self.$i.part(i),)*) }
            }
        }
    };
}
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
