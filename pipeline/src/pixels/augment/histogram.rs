//! Changes of each level that depend on the whole image: Pillow's `ImageOps.autocontrast` and
//! `ImageOps.equalize`, which work on each channel alone.

type Histogram = [u32; 256];
type Table = [u8; 256];

/// Stretches each channel, so that its darkest level becomes 0 and its brightest 255.
pub(super) fn auto_contrast(bytes: &mut [u8]) {
    let tables = histograms(bytes).map(|histogram| {
        let is_used = |&level: &usize| histogram[level] > 0;
        let darkest = (0..256).find(is_used).unwrap_or(0);
        let brightest = (0..256).rfind(is_used).unwrap_or(0);
        if brightest <= darkest {
            return unchanged();
        }
        let scale = 255.0 / (brightest - darkest) as f64;
        let offset = -(darkest as f64) * scale;
        // Truncates and clips.
        table(|level| (level as f64 * scale + offset) as u8)
    });
    map(bytes, &tables);
}

/// Makes each channel's levels as evenly used as a table can.
pub(super) fn equalize(bytes: &mut [u8]) {
    let tables = histograms(bytes).map(|histogram| {
        let pixels: u32 = histogram.iter().sum();
        let brightest = histogram.iter().rfind(|&&count| count > 0);
        // All pixels but the brightest are spread over 255 steps.
        let step = (pixels - brightest.copied().unwrap_or(0)) / 255;
        if step == 0 {
            return unchanged();
        }
        let mut below = step / 2;
        table(|level| {
            let equalized = (below / step).min(255) as u8;
            below += histogram[level];
            equalized
        })
    });
    map(bytes, &tables);
}

fn table(level: impl FnMut(usize) -> u8) -> Table {
    std::array::from_fn(level)
}

fn unchanged() -> Table {
    table(|level| level as u8)
}

/// How often each level occurs in red, green and blue.
fn histograms(bytes: &[u8]) -> [Histogram; 3] {
    // Four of each, because neighbours are often equal and an addition waits for the one before.
    let mut parts = [[[0; 256]; 3]; 4];
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        let (pixels, _) = block.as_chunks::<3>();
        for (part, [r, g, b]) in parts.iter_mut().zip(pixels) {
            part[0][usize::from(*r)] += 1;
            part[1][usize::from(*g)] += 1;
            part[2][usize::from(*b)] += 1;
        }
    }
    for [r, g, b] in rest.as_chunks::<3>().0 {
        parts[0][0][usize::from(*r)] += 1;
        parts[0][1][usize::from(*g)] += 1;
        parts[0][2][usize::from(*b)] += 1;
    }
    let [mut sums, others @ ..] = parts;
    for other in &others {
        let other = other.as_flattened();
        for (sum, count) in sums.as_flattened_mut().iter_mut().zip(other) {
            *sum += count;
        }
    }
    sums
}

/// Replaces the levels of each channel by its table.
fn map(bytes: &mut [u8], [red, green, blue]: &[Table; 3]) {
    let (pixels, _) = bytes.as_chunks_mut::<3>();
    for [r, g, b] in pixels {
        *r = red[usize::from(*r)];
        *g = green[usize::from(*g)];
        *b = blue[usize::from(*b)];
    }
}
