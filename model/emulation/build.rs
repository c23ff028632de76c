//! Compiles the text of the GPU kernels as C++.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=emulation.cpp");
    println!("cargo:rerun-if-changed=../native/gpu");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag_if_supported("-Wno-unknown-pragmas")
        .flag_if_supported("-Wno-psabi")
        .file("emulation.cpp")
        .compile("rsflow_emulation");
}
