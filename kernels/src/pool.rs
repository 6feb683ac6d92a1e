//! Splitting one output over threads.

/// A band of adjacent columns of a row-major matrix that one task may write.
#[derive(Debug)]
pub(crate) struct Band<'a> {
    data: &'a mut [f32],
    width: usize,
    start: usize,
    end: usize,
}

impl<'a> Band<'a> {
    /// All columns of `data`, which has rows of `width` values.
    pub(crate) fn whole(data: &'a mut [f32], width: usize) -> Self {
        Self {
            data,
            width,
            start: 0,
            end: width,
        }
    }

    /// The first column of the band.
    #[inline(always)]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// The band's part of row `row`.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.width..][self.start..self.end]
    }
}
