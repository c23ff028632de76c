//! What must be on the machine before anything long is started.
//!
//! Each check returns `None`, or one sentence that says what is missing and the way out.

use std::env;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The oldest pip that knows the platform tag of the wheel (`manylinux_2_28`).
const OLDEST_PIP: (u32, u32) = (20, 3);

/// Is there a C++ compiler, and can it compile what the bindings are written in?
pub fn compiler() -> Option<String> {
    const WAY_OUT: &str = "install one (Debian, Ubuntu: `apt install g++`)";
    if let Ok(named) = env::var("CXX")
        && !named.trim().is_empty()
    {
        return match try_compiler(&named) {
            Compiler::Works => None,
            Compiler::Absent => Some(format!(
                "CXX is set to `{named}`, which is not there; {WAY_OUT}"
            )),
            Compiler::Fails(why) => Some(format!(
                "CXX is set to `{named}`, which cannot compile C++17 ({why}); {WAY_OUT}"
            )),
        };
    }
    // Cargo's build scripts look for `c++` and for nothing else.
    match try_compiler("c++") {
        Compiler::Works => None,
        Compiler::Fails(why) => Some(format!(
            "the C++ compiler `c++` cannot compile C++17 ({why}); {WAY_OUT}"
        )),
        Compiler::Absent => {
            let mut others = ["g++", "clang++"].into_iter();
            Some(
                match others.find(|other| try_compiler(other) == Compiler::Works) {
                    Some(other) => {
                        format!("the C++ compiler is not called `c++` here; `export CXX={other}`")
                    }
                    None => format!("there is no C++ compiler (`c++`); {WAY_OUT}"),
                },
            )
        }
    }
}

/// What became of an attempt to use a compiler.
#[derive(Debug, PartialEq)]
enum Compiler {
    Works,
    Absent,
    Fails(String),
}

/// Has a compiler check a few lines. A compiler without its standard library's headers is a
/// common sight (`clang` alone), and would only be noticed minutes later.
fn try_compiler(command: &str) -> Compiler {
    const SOURCE: &[u8] =
        b"#include <optional>\n#include <vector>\nstd::optional<std::vector<int>> x;\n";
    let mut words = command.split_whitespace();
    let Some(program) = words.next() else {
        return Compiler::Absent;
    };
    let compiler = Command::new(program)
        .args(words)
        .args(["-std=c++17", "-fsyntax-only", "-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut compiler = match compiler {
        Ok(compiler) => compiler,
        Err(error) if error.kind() == ErrorKind::NotFound => return Compiler::Absent,
        Err(error) => return Compiler::Fails(error.to_string()),
    };
    // A program that reads nothing breaks the pipe; what it returns decides.
    let _ = compiler.stdin.take().expect("was piped").write_all(SOURCE);
    match compiler.wait_with_output() {
        Ok(output) if output.status.success() => Compiler::Works,
        Ok(output) => Compiler::Fails(last_line(&output)),
        Err(error) => Compiler::Fails(error.to_string()),
    }
}

/// Is there a Python with a pip that can install the wheels?
pub fn pip() -> Option<String> {
    let or = "or set LIBTORCH to an unpacked libtorch 2.11.0";
    let output = match python(&["-m", "pip", "--version"]) {
        Ok(output) => output,
        Err(_) => {
            return Some(format!(
                "there is no `python3` to install libtorch with; \
                 install it (Debian, Ubuntu: `apt install python3 python3-pip`), {or}"
            ));
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    match pip_version(&said) {
        Some(version) if output.status.success() && version >= OLDEST_PIP => None,
        Some((major, minor)) if output.status.success() => Some(format!(
            "pip {major}.{minor} is too old to install libtorch with; `python3 -m pip install \
             --upgrade pip`, or do the same in an environment of its own (`python3 -m venv`), {or}"
        )),
        _ => Some(format!(
            "`python3` has no pip to install libtorch with; install it (Debian, Ubuntu: `apt \
             install python3-pip`) or activate an environment that has it (`python3 -m venv`), {or}"
        )),
    }
}

/// `pip 23.0.1 from /usr/lib/...` -> `(23, 0)`.
fn pip_version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said
        .strip_prefix("pip ")?
        .split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Runs Python to its end.
pub fn python(arguments: &[&str]) -> std::io::Result<Output> {
    // Not here: a folder `torch` in the working directory would hide the installed one.
    Command::new("python3")
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
}

/// Is an NVIDIA driver here? Takes up to a second where the answer is not obvious.
pub fn nvidia_driver() -> bool {
    // Where there is no /proc entry, under WSL for one, the driver's own program knows.
    Path::new("/proc/driver/nvidia/version").exists()
        || Command::new("nvidia-smi")
            .arg("-L")
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
}

/// Space that will be needed on a disk.
#[derive(Debug, Clone)]
pub struct Room {
    /// Where; it need not exist yet.
    pub path: PathBuf,
    /// How many bytes.
    pub bytes: u64,
    /// For what, as in "for the build".
    pub purpose: &'static str,
}

/// Is there room for all of these? Those that share a disk are added up.
pub fn disks(rooms: &[Room]) -> Vec<String> {
    let mut disks: Vec<(u64, Room)> = Vec::new();
    for room in rooms.iter().filter(|room| room.bytes > 0) {
        let path = existing(&room.path);
        let Ok(disk) = path.metadata().map(|metadata| metadata.dev()) else {
            continue;
        };
        match disks.iter_mut().find(|(other, _)| *other == disk) {
            Some((_, sum)) => {
                sum.bytes += room.bytes;
                sum.purpose = "libtorch and the build";
            }
            None => disks.push((
                disk,
                Room {
                    path: path.to_path_buf(),
                    ..room.clone()
                },
            )),
        }
    }
    // A file system that does not tell how full it is is given the benefit of the doubt.
    disks
        .iter()
        .filter_map(|(_, room)| lacks(room, free(&room.path)?))
        .collect()
}

/// The nearest folder above that exists already.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
}

/// How many bytes an ordinary user can still write there.
fn free(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What to say when `free` bytes are not enough.
fn lacks(room: &Room, free: u64) -> Option<String> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    (free < room.bytes).then(|| {
        format!(
            "the disk of {} has {:.1} GB free, but {} needs {:.1} GB; make room there",
            room.path.display(),
            gigabytes(free),
            room.purpose,
            gigabytes(room.bytes),
        )
    })
}

/// The last line of what a program had to complain about.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.contains("error"));
    line.map_or_else(|| output.status.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers() {
        let fails = |why: &str| Compiler::Fails(why.to_owned());
        let cases = [
            ("true", Compiler::Works),
            ("env true", Compiler::Works),
            ("", Compiler::Absent),
            ("no-such-compiler", Compiler::Absent),
            ("/no/such/compiler -O2", Compiler::Absent),
            ("false", fails("exit status: 1")),
        ];
        for (command, expected) in cases {
            assert_eq!(try_compiler(command), expected, "{command:?}");
        }
    }

    #[test]
    fn pip_versions() {
        let cases = [
            (
                "pip 23.0.1 from /usr/lib/python3/dist-packages/pip (python 3.11)\n",
                Some((23, 0)),
            ),
            ("pip 20.3.4 from x", Some((20, 3))),
            ("pip 26.0 from x", Some((26, 0))),
            ("pip 26.0b1 from x", Some((26, 0))),
            ("No module named pip", None),
            ("", None),
        ];
        for (said, expected) in cases {
            assert_eq!(pip_version(said), expected, "{said:?}");
        }
    }

    #[test]
    fn room_on_disks() {
        let room = |bytes| Room {
            path: PathBuf::from("/data"),
            bytes,
            purpose: "libtorch",
        };
        assert_eq!(lacks(&room(2_000_000_000), 2_000_000_000), None);
        assert_eq!(
            lacks(&room(2_000_000_000), 1_234_000_000).as_deref(),
            Some("the disk of /data has 1.2 GB free, but libtorch needs 2.0 GB; make room there"),
        );
    }

    #[test]
    fn disks_are_asked_once_and_what_they_need_is_added_up() {
        let scratch = tempfile::tempdir().unwrap();
        let room = |name: &str, bytes| Room {
            path: scratch.path().join(name).join("deeper"),
            bytes,
            purpose: "libtorch",
        };
        // An exabyte is on no disk; half of it twice neither.
        let half = 500_000_000_000_000_000;
        assert_eq!(disks(&[room("a", 1), room("b", 1)]), Vec::<String>::new());
        assert_eq!(disks(&[room("a", 0)]), Vec::<String>::new());
        let said = disks(&[room("a", half), room("b", half)]);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("libtorch and the build needs 1000000000.0 GB"),
            "{said:?}"
        );
    }
}
