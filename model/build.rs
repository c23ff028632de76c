//! Lets this package's tests and examples find libtorch without `LD_LIBRARY_PATH`.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let root = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
    let library = root.join("lib/libtorch_cpu.so");
    // The canonical path: the link in the checkout may come to point elsewhere, the tests that
    // were built against this install should keep loading this install.
    match library.canonicalize() {
        Ok(library) => {
            let folder = library.parent().unwrap_or(&library);
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
        }
        Err(_) => {
            println!(
                "cargo:error=libtorch 2.11 not found at {}: run `cargo xtask setup`",
                library.display()
            );
            std::process::exit(1);
        }
    }
}
