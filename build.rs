//! Lets the programs of this package find libtorch when they start.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    // In an archive that was made to be copied, libtorch lies beside the program.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    // In the checkout, the path as given comes first: `.libtorch/torch` is a link, and a program that follows it
    // needs no new build when setup points it elsewhere. Where the link led on the day of the
    // build comes second: a program outlives the checkout that built it.
    for path in [std::path::absolute(&libtorch), libtorch.canonicalize()]
        .into_iter()
        .flatten()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}/lib", path.display());
    }
}
