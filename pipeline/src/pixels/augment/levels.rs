//! Changes of each level alone that need no table: Pillow's `ImageOps` and timm's `solarize_add`.

/// Keeps the upper `bits`.
pub(super) fn posterize(bytes: &mut [u8], bits: u8) {
    let mask = !(0xff_u32 >> bits.min(8)) as u8;
    for level in bytes {
        *level &= mask;
    }
}

/// Inverts levels from `from` on.
pub(super) fn solarize(bytes: &mut [u8], from: u16) {
    let Ok(from) = u8::try_from(from) else {
        return;
    };
    for level in bytes {
        *level = if *level < from { *level } else { !*level };
    }
}

/// Adds to levels below 128, up to 255.
pub(super) fn solarize_add(bytes: &mut [u8], add: u8) {
    for level in bytes {
        let added = level.saturating_add(add);
        *level = if *level < 128 { added } else { *level };
    }
}

pub(super) fn invert(bytes: &mut [u8]) {
    for level in bytes {
        *level = !*level;
    }
}
