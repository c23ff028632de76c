//! Lets the library and its tests find libtorch.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
    if let Some(libtorch) = libtorch.and_then(|path| path.canonicalize().ok()) {
        // In an archive that was made to be copied, libtorch lies beside the library.
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}/lib", libtorch.display());
    }
}
