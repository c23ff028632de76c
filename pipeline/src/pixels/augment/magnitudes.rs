//! The strengths of torchvision's augmentations: bins between no change and a largest one.

/// `torch.linspace(start, end, bins)[bin]` in f32: from either end to the middle, with the fused
/// multiply-add that PyTorch uses on processors with AVX2. `bins` is at least 2 and `bin` less.
#[must_use]
pub fn linspace(start: f32, end: f32, bins: u32, bin: u32) -> f32 {
    let step = (end - start) / (bins - 1) as f32;
    if bin < bins / 2 {
        step.mul_add(bin as f32, start)
    } else {
        step.mul_add(-((bins - 1 - bin) as f32), end)
    }
}

/// Bits that posterizing keeps: 8 in the first bin and `8 - dropped` in the last, rounded half to even.
#[must_use]
pub(super) fn bits(dropped: u32, bins: u32, bin: u32) -> u8 {
    let per_bit = (f64::from(bins - 1) / f64::from(dropped)) as f32;
    (8.0 - bin as f32 / per_bit).round_ties_even() as u8
}
