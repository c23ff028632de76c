//! torchvision's `adjust_hue` on Pillow images: to Pillow's mode HSV with 8 bits, a shift, and back.

use super::source::Source;

/// What a hue means for the way back, [`hue_table`].
#[derive(Debug, Clone, Copy)]
struct Hue {
    /// Which of the largest, the smallest and the middle level red, green and blue are.
    order: [u8; 3],
    /// How far the middle level is from the largest, relative to the smallest.
    share: f64,
}

/// What levels of hue and saturation mean.
struct Tables {
    hues: [Hue; 256],
    saturations: [f32; 256],
}

/// Adds `shift` to the hue of all pixels, modulo 256.
///
/// Saturation and hue lose bits on the way there and back, so a shift of 0 changes pixels too.
pub(super) fn shift(from: Source<'_>, shift: u8, to: &mut [u8]) {
    let table = Tables {
        hues: hue_table(shift),
        saturations: std::array::from_fn(|level| (level as f64 / 255.0) as f32),
    };
    // In place, for the compiler would make vectors of it, which are slower.
    from.copy(to);
    for pixel in to.as_chunks_mut().0 {
        *pixel = shifted(*pixel, &table);
    }
}

/// For each hue before the shift. Pillow's `hsv2rgb`: the circle has six sectors.
fn hue_table(shift: u8) -> [Hue; 256] {
    std::array::from_fn(|hue| {
        let hue = (hue as u8).wrapping_add(shift);
        let place = f64::from(hue) * 6.0 / 255.0;
        let sector = place.floor();
        let fraction = (place - sector) as f32;
        // 0 is the largest level, 1 the smallest, 2 the one in the middle.
        let orders = [
            [0, 2, 1],
            [2, 0, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 1, 0],
            [0, 1, 2],
        ];
        let sector = sector as usize % 6;
        Hue {
            order: orders[sector],
            share: match sector % 2 {
                0 => 1.0 - f64::from(fraction),
                _ => f64::from(fraction),
            },
        }
    })
}

#[inline(always)]
fn shifted([r, g, b]: [u8; 3], table: &Tables) -> [u8; 3] {
    let (largest, smallest) = (r.max(g).max(b), r.min(g).min(b));
    // Pillow's `rgb2hsv_row`.
    let range = f32::from(largest - smallest);
    let saturation = (f64::from(range / f32::from(largest)) * 255.0) as u8;
    // Grey has a saturation of 0, and so have a few dark colours with nearly equal channels.
    if largest == smallest || saturation == 0 {
        return [largest; 3];
    }
    // The sum is exact: at most 3 * 255 in 16 bits.
    let sum = u16::from(r) + u16::from(g) + u16::from(b);
    let middle = (sum - u16::from(largest) - u16::from(smallest)) as u8;
    // Pillow subtracts two such shares, of which one is that of the smallest level, 1.
    let share = f64::from(f32::from(largest - middle) / range) - 1.0;
    // Without branches, which a processor cannot foresee.
    let is_red = r == largest;
    let which = usize::from(is_red) * 2 + usize::from(g == largest && !is_red);
    let next = [g, r, b][which];
    let sector = [4.0, 2.0, 0.0][which];
    let share = [share, -share][usize::from(next == smallest)];
    let hue = (sector + share) as f32;
    let turns = f64::from(hue) / 6.0 + 1.0;
    let hue = (if turns < 1.0 { turns } else { turns - 1.0 }) as f32;
    let hue = &table.hues[usize::from((f64::from(hue) * 255.0) as u8)];
    // And back.
    let saturation = table.saturations[usize::from(saturation)];
    let value = f64::from(largest);
    let smallest = round(value * (1.0 - f64::from(saturation)));
    // Pillow rounds some of these products to f32, which changes none of the 2^24 results.
    let middle = round(value * (1.0 - f64::from(saturation) * hue.share));
    let levels = [largest, smallest, middle, 0];
    hue.order.map(|level| levels[usize::from(level & 3)])
}

/// Rounds half away from zero, from 0 to 255.
#[inline(always)]
fn round(number: f64) -> u8 {
    // Wrong for the largest number below 0.5 alone, which none of the 2^24 colours gives.
    (number + 0.5) as u8
}
