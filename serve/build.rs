//! Lets the tests of this package find libtorch when they start.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    // As in the command's own build script.
    for path in [std::path::absolute(&libtorch), libtorch.canonicalize()]
        .into_iter()
        .flatten()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}/lib", path.display());
    }
}
