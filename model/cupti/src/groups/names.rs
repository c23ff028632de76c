//! From the names of kernels to kinds of work, and to names that people can read.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, Symbol};

use super::Group;

/// Parts of names, in lower case. The first line with a part that the name has decides.
const RULES: [(Group, &[&str]); 9] = [
    // Every operator on a list of tensors, which only optimizers, loss scales and averages of weights use.
    (
        Group::Optimizer,
        &[
            "multi_tensor_apply",
            "amp_update_scale",
            "non_finite_check",
            "fusedsgd",
            "fusedadam",
        ],
    ),
    // `c1_k1`: one channel in and one out, in each group. `grouped_direct`: few.
    (
        Group::Depthwise,
        &["depthwise", "c1_k1_nhwc", "grouped_direct"],
    ),
    // A convolution of cuDNN that also applies a norm is called `bn_apply_fprop` and stays one.
    (
        Group::Convolution,
        &[
            "bn_apply_fprop",
            "fprop_bn_",
            "dgrad_bn_",
            "wgrad_bn_",
            "kernel_matmul",
            "split_k_kernel",
            "convfwd",
            "convbwd",
        ],
    ),
    (
        Group::Norm,
        &[
            "batch_norm",
            "batchnorm",
            "bn_fw_",
            "bn_bw_",
            "bn_stat",
            "bnstats",
            "layer_norm",
            "layernorm",
            "group_norm",
            "groupnorm",
            "gammabetabackward",
            "rowwisemoments",
            "norm_statistics_",
            "norm_forward_",
            "norm_sums_",
            "norm_backward_",
        ],
    ),
    (
        Group::Pooling,
        &[
            "max_pool",
            "maxpool",
            "avg_pool",
            "averagepool",
            "adaptive_average",
            "adaptivemax",
            "adaptiveavg",
            "pooling_fw",
            "pooling_bw",
            "pool_forward_",
            "pool_backward_",
        ],
    ),
    (
        Group::Copies,
        &[
            "nchwtonhwc",
            "nhwctonchw",
            "addpadding",
            "converttensor",
            "transpose_readwrite",
        ],
    ),
    // libtorch's own parts of convolutions.
    (
        Group::Convolution,
        &["im2col", "col2im", "vol2col", "col2vol"],
    ),
    (
        Group::Elementwise,
        &[
            "elementwise_kernel",
            "elementwise_grid_stride_kernel",
            "native13reduce_kernel",
            "softmax",
            "catarraybatchedcopy",
            "nll_loss",
            "op_tensor_kernel",
        ],
    ),
    // cuDNN, cuBLAS, CUTLASS and all that they bring along.
    (
        Group::Convolution,
        &[
            "gemm",
            "gemv",
            "xmma",
            "nvjet",
            "cutlass",
            "cublas",
            "cudnn",
            "splitkreduce",
            "fprop",
            "dgrad",
            "wgrad",
            "convolve",
            "winograd",
            "fft1d_",
            "fft2d_",
            "fft3d_",
            "vector_fft",
            "regular_fft",
            "flip_filter",
        ],
    ),
];

/// Parts of names of libtorch's own kernels that read and write each value once, in lower case.
const OF_LIBTORCH: [&str; 6] = ["index", "gather", "scatter", "dropout", "masked", "loss"];

/// The kind of work that a kernel does, by its name as CUPTI gives it.
pub fn group_of(name: &str) -> Group {
    let name = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if let Some((group, _)) = RULES.iter().find(|(_, parts)| has(parts)) {
        return *group;
    }
    if name.starts_with("_zn2at6native") && has(&OF_LIBTORCH) {
        return Group::Elementwise;
    }
    Group::Other
}

/// The most characters of a name for people.
const MOST: usize = 100;

/// The name of a kernel for people: demangled, without parameters and the namespaces of libtorch, and cut
/// after 100 characters. A name that is not mangled is only cut.
pub fn demangled(name: &str) -> String {
    let mut text = Limited(String::new());
    let options = DemangleOptions::new()
        .no_params()
        .no_return_type()
        .hide_expression_literal_types();
    let symbol = Symbol::new(name).ok();
    let written = symbol.map(|symbol| symbol.structured_demangle(&mut text, &options));
    // A text that reached its limit is cut anyway.
    let good = written.is_some_and(|result| result.is_ok() || text.0.len() >= Limited::ROOM);
    let text = if good { &text.0 } else { name };
    let mut text = text.to_owned();
    for namespace in [
        "at::native::",
        "(anonymous namespace)::",
        "cudnn::engines_precompiled::",
    ] {
        text = text.replace(namespace, "");
    }
    if text.chars().count() <= MOST {
        return text;
    }
    let start = text.chars().take(MOST - 1);
    start.chain(['…']).collect()
}

/// A text of limited length: some names of CUTLASS become far longer when demangled.
struct Limited(String);

impl Limited {
    const ROOM: usize = 4096;
}

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() < Self::ROOM {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_table;
