//! From component planes to rows of RGB: components at half the resolution are interpolated (libjpeg's
//! "fancy upsampling"), others are replicated, then YCbCr is converted in 16-bit fixed point. Every value equals libjpeg's, and
//! so Pillow's.

/// Upsamples rows of a component. Holds scratch memory only.
#[derive(Debug, Default)]
pub(super) struct Upsampler {
    /// Weighted sums of two source rows, or the source row itself; with a neighbour at both ends.
    sums: Vec<u16>,
    /// The two output samples of each source sample.
    pairs: Vec<[u8; 2]>,
    row: Vec<u8>,
}

/// The source rows of an output row, with a neighbour at both ends.
#[derive(Clone, Copy)]
pub(super) struct SourceRows<'a> {
    /// The nearer source row.
    pub near: &'a [u8],
    /// With vertical subsampling: the farther source row.
    pub far: Option<&'a [u8]>,
}

impl Upsampler {
    /// libjpeg-turbo's `h1v2_fancy_upsample`: weights 3/4 and 1/4 for the nearer and the farther row.
    /// The bias of 1 where the farther row is above, and 2 where it is below, rounds halves down and up
    /// in turn.
    pub(super) fn h1v2_fancy(&mut self, near: &[u8], far: &[u8], above: bool) -> &[u8] {
        self.row.clear();
        let bias = if above { 1 } else { 2 };
        let both = near.iter().zip(far);
        self.row.extend(
            both.map(|(&near, &far)| ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8),
        );
        &self.row
    }

    /// libjpeg's `h2v1_fancy_upsample` (biases 1 and 2) and `h2v2_fancy_upsample` (biases 8 and 7).
    /// The biases are an alternating dither: the left and the right output column round halves in
    /// opposite directions, so that the image does not get brighter on average. Returns two columns
    /// for each of `source` except its first and last, which are neighbours only.
    pub(super) fn h2_fancy(&mut self, source: SourceRows) -> &[u8] {
        self.sums.clear();
        let near = source.near.iter();
        let (bias, shift) = match source.far {
            None => {
                self.sums.extend(near.map(|&near| u16::from(near)));
                ((1, 2), 2)
            }
            Some(far) => {
                let both = near.zip(far);
                self.sums
                    .extend(both.map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
                ((8, 7), 4)
            }
        };
        self.pairs.resize(self.sums.len().saturating_sub(2), [0; 2]);
        triangle_filter(&self.sums, bias, shift, &mut self.pairs);
        self.pairs.as_flattened()
    }

    /// libjpeg's `int_upsample`, without interpolation: each sample `times` times.
    pub(super) fn replicate(&mut self, source: &[u8], times: usize) -> &[u8] {
        self.row.clear();
        let repeated = |&sample| std::iter::repeat_n(sample, times);
        self.row.extend(source.iter().flat_map(repeated));
        &self.row
    }
}

/// The triangle filter: for each inner sum, the values a quarter of the way to its left and to its
/// right neighbour.
fn triangle_filter(sums: &[u16], bias: (u16, u16), shift: u32, pairs: &mut [[u8; 2]]) {
    for (pair, window) in pairs.iter_mut().zip(sums.windows(3)) {
        let middle = 3 * window[1];
        let left = (middle + window[0] + bias.0) >> shift;
        let right = (middle + window[2] + bias.1) >> shift;
        *pair = [left as u8, right as u8];
    }
}

/// Converts a row of YCbCr to RGB.
pub(super) fn rgb_from_ycbcr(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { avx2::rgb_from_ycbcr(y, cb, cr, rgb) };
        return;
    }
    plain(y, cb, cr, rgb);
}

fn plain(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let colours = cb.iter().zip(cr);
    for ((pixel, &y), (&cb, &cr)) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(y).zip(colours) {
        *pixel = ycbcr_to_rgb([y, cb, cr]);
    }
}

/// Coefficients in 16-bit fixed point: 1.402, -0.344136, -0.714136 and 1.772.
const RED_BY_CR: i32 = 91_881;
const GREEN_BY_CB: i32 = -22_554;
const GREEN_BY_CR: i32 = -46_802;
const BLUE_BY_CB: i32 = 116_130;
const HALF: i32 = 1 << 15;

/// JFIF's conversion in 16-bit fixed point, with libjpeg's rounding.
#[inline]
pub(super) fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((RED_BY_CR * cr + HALF) >> 16);
    let green = y + ((GREEN_BY_CB * cb + GREEN_BY_CR * cr + HALF) >> 16);
    let blue = y + ((BLUE_BY_CB * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Converts a row of CMYK, or of YCCK, whose inks are coded as YCbCr, to RGB by Pillow's rules: stored
/// values are inverted (as Adobe writes them, with or without its marker), and each channel is
/// `black * (1 - ink)` in 8-bit arithmetic.
pub(super) fn rgb_from_cmyk(inks: [&[u8]; 3], black: &[u8], is_ycck: bool, rgb: &mut [u8]) {
    let [first, second, third] = inks;
    let inks = first.iter().zip(second).zip(third).zip(black);
    for (pixel, (((&a, &b), &c), &black)) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(inks) {
        let inks = match is_ycck {
            true => ycbcr_to_rgb([a, b, c]).map(|value| 255 - value),
            false => [a, b, c],
        };
        let left = u32::from(black);
        *pixel = inks.map(|ink| {
            let product = (255 - u32::from(ink)) * left + 128;
            let share = ((product >> 8) + product) >> 8;
            left.saturating_sub(share) as u8
        });
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The same conversion, sixteen pixels at a time.

    use std::arch::x86_64::*;

    use super::{BLUE_BY_CB, GREEN_BY_CB, GREEN_BY_CR, HALF, RED_BY_CR, plain};

    const PIXELS: usize = 16;

    #[target_feature(enable = "avx2")]
    pub(super) fn rgb_from_ycbcr(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
        let (ys, y_rest) = y.as_chunks::<PIXELS>();
        let (cbs, cb_rest) = cb.as_chunks::<PIXELS>();
        let (crs, cr_rest) = cr.as_chunks::<PIXELS>();
        let (rgbs, rgb_rest) = rgb.as_chunks_mut::<{ 3 * PIXELS }>();
        for (((rgb, y), cb), cr) in rgbs.iter_mut().zip(ys).zip(cbs).zip(crs) {
            let (y, cb, cr) = (widen(y), widen(cb), widen(cr));
            let grey = _mm256_set1_epi16(128);
            let (cb, cr) = (_mm256_sub_epi16(cb, grey), _mm256_sub_epi16(cr, grey));
            // The integer parts of the factors are added separately, so that all constants fit into
            // signed 16 bits.
            let red = _mm256_add_epi16(cr, share(cb, cr, 0, RED_BY_CR - 65_536));
            let green = _mm256_sub_epi16(share(cb, cr, GREEN_BY_CB, GREEN_BY_CR + 65_536), cr);
            let twice = _mm256_add_epi16(cb, cb);
            let blue = _mm256_add_epi16(twice, share(cb, cr, BLUE_BY_CB - 2 * 65_536, 0));
            let [red, green, blue] =
                [red, green, blue].map(|part| narrow(_mm256_add_epi16(y, part)));
            interleave(red, green, blue, rgb);
        }
        plain(y_rest, cb_rest, cr_rest, rgb_rest);
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn widen(bytes: &[u8; PIXELS]) -> __m256i {
        // SAFETY: the array has sixteen bytes.
        _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    /// `(by_cb * cb + by_cr * cr + HALF) >> 16`; both factors must fit into signed 16 bits.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn share(cb: __m256i, cr: __m256i, by_cb: i32, by_cr: i32) -> __m256i {
        let factors = _mm256_set1_epi32(by_cr << 16 | by_cb & 0xffff);
        let sum = |pairs| {
            let products = _mm256_madd_epi16(pairs, factors);
            _mm256_srai_epi32(_mm256_add_epi32(products, _mm256_set1_epi32(HALF)), 16)
        };
        // Unpacking and packing both work within 128-bit halves, so the order is kept.
        _mm256_packs_epi32(
            sum(_mm256_unpacklo_epi16(cb, cr)),
            sum(_mm256_unpackhi_epi16(cb, cr)),
        )
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn narrow(words: __m256i) -> __m128i {
        let bytes = _mm256_packus_epi16(words, words);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(bytes))
    }

    /// Interleaves three channels of sixteen values into sixteen pixels.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn interleave(red: __m128i, green: __m128i, blue: __m128i, rgb: &mut [u8; 3 * PIXELS]) {
        for (part, order) in ORDER.iter().enumerate() {
            let [r, g, b] = [(red, 0), (green, 1), (blue, 2)].map(|(channel, which)| {
                // SAFETY: the array has sixteen bytes.
                let order = unsafe { _mm_loadu_si128(order[which].as_ptr().cast()) };
                _mm_shuffle_epi8(channel, order)
            });
            let bytes = _mm_or_si128(_mm_or_si128(r, g), b);
            // SAFETY: `part` is below 3, so the sixteen bytes are within the 48.
            unsafe { _mm_storeu_si128(rgb.as_mut_ptr().add(part * PIXELS).cast(), bytes) };
        }
    }

    /// Shuffle indices for each 16-byte part of the output and each channel; 0x80 gives zero.
    const ORDER: [[[u8; PIXELS]; 3]; 3] = order();

    const fn order() -> [[[u8; PIXELS]; 3]; 3] {
        let mut order = [[[0x80; PIXELS]; 3]; 3];
        let mut at = 0;
        while at < 3 * PIXELS {
            order[at / PIXELS][at % 3][at % PIXELS] = (at / 3) as u8;
            at += 1;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectorized_conversion_equals_the_plain_one() {
        // Every pair of Cb and Cr, many values of Y, and a remainder of less than a vector.
        let all: Vec<[u8; 3]> = (0..=u16::MAX)
            .map(|i| [(i / 7) as u8, i as u8, (i >> 8) as u8])
            .chain([[1, 2, 3]; 13])
            .collect();
        let plane = |channel: usize| all.iter().map(|p| p[channel]).collect::<Vec<u8>>();
        let mut found = vec![0; 3 * all.len()];
        rgb_from_ycbcr(&plane(0), &plane(1), &plane(2), &mut found);
        let expected: Vec<u8> = all.iter().flat_map(|&pixel| ycbcr_to_rgb(pixel)).collect();
        assert!(found == expected);
    }

    #[test]
    fn fancy_upsampling_interpolates_as_libjpeg() {
        let mut upsampler = Upsampler::default();
        let (near, far) = ([10, 10, 50, 90, 90], [30, 30, 30, 30, 30]);
        let alone = SourceRows {
            near: &near,
            far: None,
        };
        assert_eq!(upsampler.h2_fancy(alone), [10, 20, 40, 60, 80, 90]);
        assert_eq!(
            upsampler.h1v2_fancy(&near, &far, true),
            [15, 15, 45, 75, 75]
        );
        // Sums 60, 60, 180, 300, 300.
        let both = SourceRows {
            near: &near,
            far: Some(&far),
        };
        assert_eq!(upsampler.h2_fancy(both), [15, 22, 38, 52, 68, 75]);
        assert_eq!(
            upsampler.replicate(&near[1..3], 3),
            [10, 10, 10, 50, 50, 50]
        );
    }
}
