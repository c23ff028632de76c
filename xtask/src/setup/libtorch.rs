//! What a folder with libtorch in it must look like.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The release that is installed. Any 2.11 that is found will do.
pub const RELEASE: &str = "2.11.0";

/// The series that the bindings are written for.
const SERIES: (u32, u32) = (2, 11);

/// A libtorch that rsflow can be built with.
///
/// The C++ ABI needs no look: since 2.7 no official build has had the old one.
#[derive(Debug, Clone, PartialEq)]
pub struct Libtorch {
    /// The folder with `include` and `lib` in it, links resolved.
    pub folder: PathBuf,
    /// Its version as it gives it itself, such as `2.11.0+cu130`.
    pub version: String,
    /// Whether it can use an NVIDIA GPU, judging by its folder.
    pub cuda: bool,
}

impl Libtorch {
    /// Reads a folder; the error says what is wrong with it.
    pub fn inspect(path: &Path) -> Result<Self> {
        let shown = path.display();
        let folder = path
            .canonicalize()
            .with_context(|| format!("{shown} cannot be opened"))?;
        let header = [
            "include/torch/headeronly/version.h",
            "include/torch/csrc/api/include/torch/version.h",
        ]
        .iter()
        .find_map(|name| version_of_header(&fs::read_to_string(folder.join(name)).ok()?));
        let build = fs::read_to_string(folder.join("build-version")).ok();
        let build = build.as_deref().map(|text| text.trim().to_owned());
        let python = fs::read_to_string(folder.join("version.py")).ok();
        let python = python.as_deref().and_then(version_of_python);

        // Each source counts: one install over another can leave headers of one version with
        // libraries of the other.
        let known = [&build, &python, &header].into_iter().flatten();
        for version in known.clone() {
            ensure!(
                series(version) == Some(SERIES),
                "{shown} holds libtorch {version}, but rsflow needs {}.{}",
                SERIES.0,
                SERIES.1,
            );
        }
        // The bindings go by this file where there is one, and then want the exact release.
        if let Some(version) = &build {
            ensure!(
                version.split('+').next() == Some(RELEASE),
                "{shown} holds libtorch {version}, but the bindings need exactly {RELEASE}",
            );
        }
        let version = known.into_iter().next().cloned();
        let version = version.with_context(|| format!("{shown} holds no libtorch"))?;
        ensure!(
            header.is_some(),
            "{shown} has no C++ headers (include/torch)"
        );
        let library = folder.join("lib/libtorch_cpu.so");
        ensure!(library.is_file(), "{shown} has no lib/libtorch_cpu.so");

        // The wheel has its part for CUDA in any case. Whether that can be loaded depends on the
        // packages beside it, of which the CPU alone needs one or two. Elsewhere (containers,
        // conda) those libraries belong to the system, and then there is no such folder.
        let beside = folder
            .parent()
            .map(|site| site.join("nvidia"))
            .unwrap_or_default();
        let reduced = beside.join("cu13").exists() && !beside.join("cudnn").exists();
        let cuda = folder.join("lib/libtorch_cuda.so").is_file() && !reduced;
        Ok(Self {
            folder,
            version,
            cuda,
        })
    }
}

impl fmt::Display for Libtorch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "libtorch {} ({})",
            self.version,
            if self.cuda { "CPU and CUDA" } else { "CPU" }
        )
    }
}

/// `2.11.0a0+git123` -> `(2, 11)`.
fn series(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The version in torch's `version.py`.
fn version_of_python(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("__version__"))?;
    let quoted = line.trim_start_matches([' ', '=']).trim();
    Some(quoted.trim_matches(['\'', '"']).to_owned())
}

/// The version in libtorch's `version.h`.
fn version_of_header(text: &str) -> Option<String> {
    let part = |name: &str| {
        text.lines().find_map(|line| {
            let rest = line
                .trim()
                .strip_prefix("#define")?
                .trim()
                .strip_prefix(name)?;
            rest.trim().parse::<u32>().ok()
        })
    };
    let major = part("TORCH_VERSION_MAJOR")?;
    let minor = part("TORCH_VERSION_MINOR")?;
    Some(format!("{major}.{minor}.{}", part("TORCH_VERSION_PATCH")?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A header as in the release of that version.
    pub fn header(major: u32, minor: u32, patch: u32) -> String {
        format!(
            "#pragma once\n/// Indicates the major version of LibTorch.\n\
             #define TORCH_VERSION_MAJOR {major}\n\n#define TORCH_VERSION_MINOR {minor}\n\n\
             #define TORCH_VERSION_PATCH {patch}\n#define TORCH_VERSION \\\n  \"{major}.{minor}.{patch}\"\n"
        )
    }

    /// A folder that looks like libtorch, from the text of its files.
    pub fn fake(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn versions() {
        let cases = [
            ("2.11.0", Some((2, 11))),
            ("2.11.0+cu130\n", Some((2, 11))),
            ("2.11.1a0+git70d99e9", Some((2, 11))),
            ("2.1.1", Some((2, 1))),
            ("2.110.0", Some((2, 110))),
            ("2", None),
            ("", None),
            ("unknown", None),
        ];
        for (text, expected) in cases {
            assert_eq!(series(text), expected, "{text:?}");
        }
    }

    #[test]
    fn version_py() {
        let cases = [
            (
                "__all__ = ['__version__']\n__version__ = '2.11.0+cu130'\ncuda = 1\n",
                Some("2.11.0+cu130"),
            ),
            ("__version__ = \"2.4.0\"\n", Some("2.4.0")),
            ("debug = False\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(version_of_python(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn version_h() {
        assert_eq!(
            version_of_header(&header(2, 11, 0)).as_deref(),
            Some("2.11.0")
        );
        assert_eq!(
            version_of_header(&header(2, 4, 1)).as_deref(),
            Some("2.4.1")
        );
        assert_eq!(
            version_of_header("#include <torch/headeronly/version.h>\n"),
            None
        );
    }

    #[test]
    fn folders() {
        let good = header(2, 11, 0);
        let old = header(2, 5, 1);
        const H: &str = "include/torch/headeronly/version.h";
        const OLD_H: &str = "include/torch/csrc/api/include/torch/version.h";
        const LIB: &str = "lib/libtorch_cpu.so";
        const CUDA: &str = "lib/libtorch_cuda.so";
        const CUDNN: &str = "../nvidia/cudnn/lib/libcudnn.so.9";
        const CUDART: &str = "../nvidia/cu13/lib/libcudart.so.13";
        // Files, and what is said about them.
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case] = &[
            (&[(H, &good), (LIB, "")], "libtorch 2.11.0 (CPU)"),
            (
                &[
                    (H, &good),
                    (LIB, ""),
                    (CUDA, ""),
                    ("build-version", "2.11.0+cu130\n"),
                ],
                "libtorch 2.11.0+cu130 (CPU and CUDA)",
            ),
            (
                &[(H, &good), (LIB, ""), (CUDA, ""), (CUDART, "")],
                "libtorch 2.11.0 (CPU)",
            ),
            (
                &[(H, &good), (LIB, ""), (CUDA, ""), (CUDART, ""), (CUDNN, "")],
                "libtorch 2.11.0 (CPU and CUDA)",
            ),
            (&[], "holds no libtorch"),
            (&[(H, &good)], "has no lib/libtorch_cpu.so"),
            (
                &[("version.py", "__version__ = '2.11.0'"), (LIB, "")],
                "has no C++ headers",
            ),
            (
                &[(OLD_H, &old), (LIB, "")],
                "holds libtorch 2.5.1, but rsflow needs 2.11",
            ),
            (
                &[
                    (H, &good),
                    ("version.py", "__version__ = '2.9.1'"),
                    (LIB, ""),
                ],
                "holds libtorch 2.9.1",
            ),
            (
                &[(H, &good), ("build-version", "2.11.1"), (LIB, "")],
                "exactly 2.11.0",
            ),
        ];
        let scratch = tempfile::tempdir().unwrap();
        for (index, (files, expected)) in cases.iter().enumerate() {
            let folder = scratch.path().join(index.to_string()).join("torch");
            fs::create_dir_all(&folder).unwrap();
            fake(&folder, files);
            let said = match Libtorch::inspect(&folder) {
                Ok(libtorch) => libtorch.to_string(),
                Err(error) => format!("{error:#}"),
            };
            assert!(
                said.ends_with(expected) || said.contains(expected),
                "{index}: {said}"
            );
        }
        let error = Libtorch::inspect(&scratch.path().join("none")).unwrap_err();
        assert!(
            error.to_string().contains("none cannot be opened"),
            "{error:#}"
        );
    }
}
