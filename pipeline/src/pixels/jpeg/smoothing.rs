//! Block smoothing: coefficients that no scan of a progressive JPEG has coded are estimated from the DC
//! coefficients of the 25 blocks around them, as in libjpeg-turbo (`decompress_smooth_data`; section K.8
//! of ITU-T T.81 describes it for 9 blocks).

use super::huffman::NATURAL_ORDER;
use super::progressive::Coefficients;
use super::tables::QuantTable;

/// The weights of the DC coefficients around a block, in units of 1 / 256.
type Kernel = [[i32; 5]; 5];

/// For the coefficients 1 to 5 in zigzag order, of components with some AC coefficients.
const WITH_AC: [Kernel; 5] = [
    [ZERO, ZERO, [-7, 50, 0, -50, 7], ZERO, ZERO],
    [one(-7), one(50), ZERO, one(-50), one(7)],
    [one(-1), one(13), one(-24), one(13), one(-1)],
    [
        [0, -1, 0, 1, 0],
        [-1, 10, 0, -10, 1],
        ZERO,
        [1, -10, 0, 10, -1],
        [0, 1, 0, -1, 0],
    ],
    [ZERO, ZERO, [-1, 13, -24, 13, -1], ZERO, ZERO],
];

/// For the coefficients 0 to 9, of components without any AC coefficient: close to a Gaussian.
const WITHOUT_AC: [Kernel; 10] = [
    [
        [-2, -6, -8, -6, -2],
        [-6, 6, 42, 6, -6],
        [-8, 42, 152, 42, -8],
        [-6, 6, 42, 6, -6],
        [-2, -6, -8, -6, -2],
    ],
    [
        [-1, -1, 0, 1, 1],
        [-3, 13, 0, -13, 3],
        [-3, 38, 0, -38, 3],
        [-3, 13, 0, -13, 3],
        [-1, -1, 0, 1, 1],
    ],
    [
        [-1, -3, -3, -3, -1],
        [-1, 13, 38, 13, -1],
        ZERO,
        [1, -13, -38, -13, 1],
        [1, 3, 3, 3, 1],
    ],
    [
        one(1),
        [0, 2, 7, 2, 0],
        [0, -5, -14, -5, 0],
        [0, 2, 7, 2, 0],
        one(1),
    ],
    [
        [-1, 0, 0, 0, 1],
        [0, 9, 0, -9, 0],
        ZERO,
        [0, -9, 0, 9, 0],
        [1, 0, 0, 0, -1],
    ],
    [
        ZERO,
        [0, 2, -5, 2, 0],
        [1, 7, -14, 7, 1],
        [0, 2, -5, 2, 0],
        ZERO,
    ],
    [
        ZERO,
        [0, 1, 0, -1, 0],
        [0, 2, 0, -2, 0],
        [0, 1, 0, -1, 0],
        ZERO,
    ],
    [ZERO, [0, 1, -3, 1, 0], ZERO, [0, -1, 3, -1, 0], ZERO],
    [
        ZERO,
        [0, 1, 0, -1, 0],
        [0, -3, 0, 3, 0],
        [0, 1, 0, -1, 0],
        ZERO,
    ],
    [ZERO, [0, 1, 2, 1, 0], ZERO, [0, -1, -2, -1, 0], ZERO],
];

const ZERO: [i32; 5] = [0; 5];

const fn one(weight: i32) -> [i32; 5] {
    [0, 0, weight, 0, 0]
}

/// That an image is smoothed.
pub(super) struct Smoothing(());

impl Smoothing {
    /// Whether an image needs smoothing: some of the first AC coefficients of some component are not
    /// fully known. None of the quantization steps involved may be zero.
    pub(super) fn new(components: &[Coefficients]) -> Option<Self> {
        let mut is_useful = false;
        for component in components {
            let QuantTable(quant) = component.quant.as_ref()?;
            let mut first = NATURAL_ORDER[..WITHOUT_AC.len()].iter();
            if first.any(|&place| quant[usize::from(place)] == 0) {
                return None;
            }
            is_useful |= component.al[1..WITHOUT_AC.len()] != [Some(0); WITHOUT_AC.len() - 1];
        }
        is_useful.then_some(Self(()))
    }

    /// Replaces coefficients of a block that are zero and not fully known.
    pub(super) fn apply(
        &self,
        component: &Coefficients,
        QuantTable(quant): &QuantTable,
        at: (u32, u32),
        block: &mut [i16; 64],
    ) {
        let known = &component.al[1..WITHOUT_AC.len()];
        let without_ac = known.iter().all(Option::is_none);
        let kernels = if without_ac {
            1..WITHOUT_AC.len()
        } else {
            1..WITH_AC.len() + 1
        };
        let is_wanted = |k: usize| component.al[k] != Some(0);
        if !kernels.clone().any(is_wanted) {
            return;
        }
        let around = dc_around(component, at);
        let estimate = |kernel: &Kernel, step: u16| {
            let weighted = kernel.as_flattened().iter().zip(around.as_flattened());
            let sum: i32 = weighted.map(|(weight, dc)| weight * dc).sum();
            let sum = i64::from(quant[0]) * i64::from(sum);
            let step = i64::from(step);
            let magnitude = ((step << 7) + sum.abs()) / (step << 8);
            (magnitude as i32, sum < 0)
        };
        for k in kernels {
            let place = usize::from(NATURAL_ORDER[k]);
            if !is_wanted(k) || block[place] != 0 {
                continue;
            }
            let kernel = if without_ac {
                &WITHOUT_AC[k]
            } else {
                &WITH_AC[k - 1]
            };
            let (mut magnitude, is_negative) = estimate(kernel, quant[place]);
            if let Some(al) = component.al[k] {
                // The known bits are zero.
                magnitude = magnitude.min((1 << al) - 1);
            }
            block[place] = if is_negative { -magnitude } else { magnitude } as i16;
        }
        if without_ac {
            let (magnitude, is_negative) = estimate(&WITHOUT_AC[0], quant[0]);
            block[0] = if is_negative { -magnitude } else { magnitude } as i16;
        }
    }
}

/// The DC coefficients of the blocks around one, which is in the middle. Beyond the edges the nearest one
/// is repeated.
fn dc_around(component: &Coefficients, (column, row): (u32, u32)) -> [[i32; 5]; 5] {
    let last = component.size().0 - 1;
    let columns = [
        column.saturating_sub(2),
        column.saturating_sub(1),
        column,
        (column + 1).min(last),
        (column + 2).min(last),
    ];
    rows_around(component, row).map(|row| columns.map(|column| component.dc(column, row).into()))
}

/// The rows of blocks around one, with libjpeg-turbo's rules for the edges. It numbers the rows by the
/// height of the MCU at hand, which is smaller in the last row of MCUs if that is not full. So the row
/// below the last one may be one that only fills up the MCU, and the last row may lack the rows above.
fn rows_around(component: &Coefficients, row: u32) -> [u32; 5] {
    let mcu = component.mcu_rows;
    let height = component.size().1;
    let mcus = height.div_ceil(mcu);
    let (mcu_row, within) = (row / mcu, row % mcu);
    let rows_in_mcu = match height % mcu {
        left @ 1.. if mcu_row == mcus - 1 => left,
        _ => mcu,
    };
    let number = mcu_row * rows_in_mcu + within;
    let numbers = rows_in_mcu * mcus;
    let above = row - number.min(1);
    let below = row + u32::from(number + 1 < numbers);
    [
        if number > 1 { row - 2 } else { above },
        above,
        row,
        below,
        if number + 2 < numbers { row + 2 } else { below },
    ]
}
