//! Builds the C++ shim against libtorch's headers, and lets this package's tests and examples
//! find libtorch without `LD_LIBRARY_PATH`.

use std::path::PathBuf;

const SHIM: [&str; 17] = [
    "native/autograd.cpp",
    "native/optimizers.cpp",
    "native/shim.cpp",
    "native/cpu/buffers.cpp",
    "native/cpu/convolution.cpp",
    "native/cpu/convolution_sets.cpp",
    "native/cpu/inverted.cpp",
    "native/cpu/max_pool.cpp",
    "native/cpu/norm.cpp",
    "native/cpu/pixels.cpp",
    "native/cpu/pointwise.cpp",
    "native/cpu/winograd.cpp",
    "native/dist/dist.cpp",
    "native/dist/nccl.cpp",
    "native/gpu/graph.cpp",
    "native/gpu/kernels.cpp",
    "native/gpu/norm.cpp",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let root = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
    let library = root.join("lib/libtorch_cpu.so");
    // The canonical path: the link in the checkout may come to point elsewhere, the tests that
    // were built against this install should keep loading this install.
    match library.canonicalize() {
        Ok(library) => {
            let folder = library.parent().unwrap_or(&library);
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
            // Without OpenMP libtorch's `parallel_for` is a plain call. Its own library, so that there is one
            // pool of threads.
            println!("cargo:rustc-link-search=native={}", folder.display());
            println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
        }
        Err(_) => {
            println!(
                "cargo:error=libtorch 2.11 not found at {}: run `cargo xtask setup`",
                library.display()
            );
            std::process::exit(1);
        }
    }
    // As torch-sys compiles its own; libtorch's headers are not ours to be warned about.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include("native/dist") // in place of Gloo's headers
        .flag("-fopenmp")
        .flag("-isystem")
        .flag(root.join("include"))
        .flag("-isystem")
        .flag(root.join("include/torch/csrc/api/include"))
        // Of libtorch's headers full debug information takes as long as all else.
        .debug(false)
        // In every profile: loops over registers must be unrolled.
        .opt_level(3)
        .flag_if_supported("-g1")
        // Functions that take vectors are inlined, so how they are passed does not matter.
        .flag_if_supported("-Wno-psabi")
        // GCC 12 says it of libtorch's and of its own headers.
        .flag_if_supported("-Wno-maybe-uninitialized")
        .files(SHIM)
        .compile("rsflow_native");
}
