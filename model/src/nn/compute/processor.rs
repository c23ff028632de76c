//! What a processor is good at.

use anyhow::{Result, bail};

/// Environment variable that overrides whether bfloat16 is found to be fast: `yes` or `no`. It changes what
/// `Auto` selects on the CPU and nothing else. Tests set it, so that a machine of one kind shows what fails on the
/// other.
pub const CPU_BFLOAT16: &str = "RSFLOW_CPU_BFLOAT16";

/// Whether this processor multiplies bfloat16 faster than float32, unless [`CPU_BFLOAT16`] overrides it: with AMX,
/// or with AMD's AVX512-BF16. Measured, steps of ResNet18 and ResNet50 at 128 to 64 pixels in bfloat16, as multiples
/// of their speed in float32: 2.2 and 1.9 with AMX, 1.6 for ResNet18 on an EPYC, but 0.75 and 0.76 on a Xeon
/// without AMX. Intel's AVX512-BF16 has one multiplier for each two of float32.
///
/// # Errors
/// [`CPU_BFLOAT16`] is set to anything but `yes` or `no`.
pub fn cpu_bfloat16_is_fast() -> Result<bool> {
    let Some(overruled) = std::env::var_os(CPU_BFLOAT16) else {
        #[cfg(target_arch = "x86_64")]
        return Ok(std::arch::is_x86_feature_detected!("avx512bf16") && (has_amx() || !is_intels()));
        #[cfg(not(target_arch = "x86_64"))]
        return Ok(false);
    };
    match overruled.to_str() {
        Some("yes") => Ok(true),
        Some("no") => Ok(false),
        _ => bail!(
            "the environment variable {CPU_BFLOAT16} must be `yes` or `no`, not {overruled:?}; unset \
             it to detect what the processor has"
        ),
    }
}

/// The maker, which leaf 0 of CPUID spells in three registers.
#[cfg(target_arch = "x86_64")]
fn is_intels() -> bool {
    let name = cpuid(0);
    [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes) == [*b"Genu", *b"ineI", *b"ntel"]
}

/// Whether this processor has AMX with bfloat16, and the system lets programs use it.
pub fn has_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const TILES: u32 = 1 << 24;
        const BFLOAT16: u32 = 1 << 22;
        cpuid(0).eax >= 7 && cpuid(7).edx & (TILES | BFLOAT16) == TILES | BFLOAT16 && keeps_tiles()
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the system saves the registers of AMX when it switches between programs.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn keeps_tiles() -> bool {
    const SAYS: u32 = 1 << 27;
    const TILES: u64 = 3 << 17;
    // SAFETY: the processor has the instruction, since the system says that it uses it.
    cpuid(1).ecx & SAYS != 0 && unsafe { std::arch::x86_64::_xgetbv(0) } & TILES == TILES
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, unused_unsafe)]
fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 has the instruction; newer compilers know that.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, 0) }
}
