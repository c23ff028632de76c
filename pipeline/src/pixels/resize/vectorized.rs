//! Plain code, compiled for the vector instructions of the processor.

/// The instructions that [`vectorized`] compiles for, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
        let found = Self::of_processor();
        #[cfg(test)]
        let found = found.min(tests::LIMIT.get());
        found
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn of_processor() -> Self {
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi");
        if has_avx512 {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") {
            Self::Avx2
        } else {
            Self::Plain
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    fn of_processor() -> Self {
        Self::Plain
    }
}

/// Calls a function, compiled for what the processor has beyond the oldest x86-64:
/// `vectorized!(function(argument: Type, ...) -> Output)`, where the arguments are variables.
///
/// The function must be `#[inline(always)]`, as must all that it calls in its loops: only what is inlined is
/// compiled anew. The results are the same: the compiler neither fuses nor reorders operations on
/// floating-point numbers.
///
/// A function that is written for AVX-512 by hand takes its place there: `vectorized!(function(...), avx512:
/// other)`.
macro_rules! vectorized {
    ($function:ident $arguments:tt $(-> $output:ty)?) => {
        vectorized!($function $arguments $(-> $output)?, avx512: $function)
    };
    ($function:ident($($name:ident: $kind:ty),*) $(-> $output:ty)?, avx512: $avx512:path) => {{
        use $crate::pixels::resize::Instructions;
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn in_avx2($($name: $kind),*) $(-> $output)? {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
        fn in_avx512($($name: $kind),*) $(-> $output)? {
            $avx512($($name),*)
        }
        match Instructions::detect() {
            Instructions::Plain => $function($($name),*),
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { in_avx2($($name),*) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { in_avx512($($name),*) },
        }
    }};
}

pub(in crate::pixels) use vectorized;

#[cfg(test)]
pub(in crate::pixels) mod tests {
    use std::cell::Cell;

    use super::Instructions;

    #[cfg(target_arch = "x86_64")]
    pub const ALL: &[Instructions] = &[
        Instructions::Plain,
        Instructions::Avx2,
        Instructions::Avx512,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    pub const ALL: &[Instructions] = &[Instructions::Plain];

    thread_local! {
        /// The most that this thread's calls use.
        pub static LIMIT: Cell<Instructions> = const { Cell::new(ALL[ALL.len() - 1]) };
    }
}
