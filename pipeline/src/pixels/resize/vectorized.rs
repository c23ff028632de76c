//! Plain code, compiled for the vector instructions of the processor.

/// The instructions that [`vectorized`] compiles for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pixels) enum Instructions {
    /// Those that every processor has.
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// The best that this processor has.
    #[inline]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
        {
            return Self::Avx512;
        } else if is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Plain
    }
}

/// Calls a function, compiled for what the processor has beyond the oldest x86-64:
/// `vectorized!(function(argument: Type, ...) -> Output)`, where the arguments are variables.
///
/// The function must be `#[inline(always)]`, as must all that it calls in its loops: only what is inlined is
/// compiled anew. The results are the same: the compiler neither fuses nor reorders operations on
/// floating-point numbers.
macro_rules! vectorized {
    ($function:ident($($name:ident: $kind:ty),*) $(-> $output:ty)?) => {{
        use $crate::pixels::resize::Instructions;
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2($($name: $kind),*) $(-> $output)? {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
        fn avx512($($name: $kind),*) $(-> $output)? {
            $function($($name),*)
        }
        match Instructions::detect() {
            Instructions::Plain => $function($($name),*),
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { avx2($($name),*) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { avx512($($name),*) },
        }
    }};
}

pub(in crate::pixels) use vectorized;
