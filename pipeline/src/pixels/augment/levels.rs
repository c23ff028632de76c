//! Changes of each level alone that need no table: Pillow's `ImageOps` and timm's `solarize_add`.

use super::source::Source;
use crate::pixels::resize::vectorized;

/// Keeps the upper `bits`.
pub(super) fn posterize(from: Source<'_>, bits: u8, to: &mut [u8]) {
    #[inline(always)]
    fn all(from: Source<'_>, mask: u8, to: &mut [u8]) {
        from.map(|level| level & mask, to);
    }
    let mask = !(0xff_u32 >> bits.min(8)) as u8;
    vectorized!(all(from: Source<'_>, mask: u8, to: &mut [u8]));
}

/// Inverts levels from `first` on.
pub(super) fn solarize(from: Source<'_>, first: u16, to: &mut [u8]) {
    #[inline(always)]
    fn all(from: Source<'_>, first: u8, to: &mut [u8]) {
        from.map(|level| if level < first { level } else { !level }, to);
    }
    let Ok(first) = u8::try_from(first) else {
        return from.copy(to);
    };
    vectorized!(all(from: Source<'_>, first: u8, to: &mut [u8]));
}

/// Adds to levels below 128, up to 255.
pub(super) fn solarize_add(from: Source<'_>, add: u8, to: &mut [u8]) {
    #[inline(always)]
    fn all(from: Source<'_>, add: u8, to: &mut [u8]) {
        let change = |level: u8| {
            let added = level.saturating_add(add);
            if level < 128 { added } else { level }
        };
        from.map(change, to);
    }
    vectorized!(all(from: Source<'_>, add: u8, to: &mut [u8]));
}

pub(super) fn invert(from: Source<'_>, to: &mut [u8]) {
    from.map(|level| !level, to);
}
