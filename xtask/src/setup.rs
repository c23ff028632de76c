//! `cargo xtask setup`: a libtorch at `.libtorch/torch`, found if possible, installed if not.

mod libtorch;
mod nvrtc;
mod tools;

use std::cell::LazyCell;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use self::libtorch::{Libtorch, RELEASE};
pub use self::nvrtc::nvrtc;
use self::tools::Room;
use crate::workspace::Workspace;

/// Find libtorch 2.11, or install it into .libtorch/, and link .libtorch/torch to it.
///
/// Looked for in this order: the environment variable LIBTORCH (a folder with `include` and
/// `lib`), what .libtorch/torch leads to already, the `torch` of the Python in use. If none of
/// these will do, pip installs the wheels into .libtorch/: 1.3 GB; with an NVIDIA driver on the
/// machine the CUDA libraries too, 4 GB in all. Nothing is installed outside this checkout.
#[derive(clap::Args)]
pub struct Arguments {}

/// Where a libtorch came from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Origin {
    Variable,
    Link,
    Python,
    Installed,
}

/// What pip is asked for when it installs libtorch for one kind of machine.
struct Set {
    /// The folder in .libtorch/. Each kind has its own, so that neither is ever half replaced.
    folder: &'static str,
    /// The packages beside torch.
    libraries: &'static [&'static str],
    /// What it needs on the disk, its downloads included.
    bytes: u64,
}

/// For the CPU: all that `libtorch_cpu.so` is linked to and a system does not have.
const CPU: Set = Set {
    folder: "site-cpu",
    libraries: &["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"],
    bytes: 2_000_000_000,
};

/// For NVIDIA GPUs: what the wheel's metadata asks for, less what only Python code uses.
const CUDA: Set = Set {
    folder: "site-cuda",
    libraries: &[
        "cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver,cusparse,nvjitlink,nvrtc,nvtx]==13.0.2",
        "nvidia-cudnn-cu13==9.19.0.56",
        "nvidia-cusparselt-cu13==0.8.0",
        "nvidia-nccl-cu13==2.28.9",
        "nvidia-nvshmem-cu13==3.4.5",
    ],
    bytes: 6_000_000_000,
};

/// Runs the subcommand.
pub fn run(workspace: &Workspace, _: &Arguments) -> Result<()> {
    ensure(workspace, None)
}

/// The room that a first build in a profile (`debug` or `release`) will need.
pub fn room_to_build(workspace: &Workspace, profile: &str) -> Option<Room> {
    let bytes = if profile == "debug" {
        4_000_000_000
    } else {
        1_500_000_000
    };
    let room = Room {
        path: workspace.target.clone(),
        bytes,
        purpose: "the build",
    };
    (!workspace.rsflow(profile).exists()).then_some(room)
}

/// Leaves `.libtorch/torch` leading to a good libtorch, and a machine that can build with it.
/// Everything that is missing is said at once, before anything that takes long.
pub fn ensure(workspace: &Workspace, build: Option<Room>) -> Result<()> {
    let driver = LazyCell::new(tools::nvidia_driver);
    let named = named_by_user(workspace, env::var_os("LIBTORCH"));
    let found = find(workspace, named.as_deref(), python_torch, &|libtorch| {
        // Looking for the driver takes a while where there is none: only if it matters.
        libtorch.cuda || !*driver
    });

    let mut missing: Vec<String> = tools::compiler().into_iter().collect();
    let mut rooms: Vec<Room> = build.into_iter().collect();
    let set = if matches!(found, Ok(None)) && *driver {
        &CUDA
    } else {
        &CPU
    };
    match &found {
        Ok(Some(_)) => {}
        Ok(None) => {
            missing.extend(tools::pip());
            let path = workspace.libtorch_folder();
            rooms.push(Room {
                path,
                bytes: set.bytes,
                purpose: "libtorch",
            });
        }
        Err(error) => missing.push(format!("{error:#}")),
    }
    missing.extend(tools::disks(&rooms));
    match missing.as_slice() {
        [] => {}
        [one] => bail!("{one}"),
        many => bail!(
            "{} things are missing:\n  - {}",
            many.len(),
            many.join("\n  - ")
        ),
    }

    let (libtorch, origin) = match found? {
        Some(found) => found,
        None => (install(workspace, set)?, Origin::Installed),
    };
    link(workspace, &libtorch.folder)?;
    let origin = match origin {
        Origin::Variable => "named by LIBTORCH",
        Origin::Link => "already in place",
        Origin::Python => "from the Python in use",
        Origin::Installed => "installed here",
    };
    eprintln!(
        "setup: {libtorch}, {origin}: .libtorch/torch -> {}",
        libtorch.folder.display()
    );
    if !libtorch.cuda && *driver {
        eprintln!("setup: an NVIDIA driver is here, but this libtorch is for the CPU alone");
    }
    Ok(())
}

/// The folder that the user's own LIBTORCH names.
///
/// Cargo sets the variable for us too, from `.cargo/config.toml`, when the user has none. That
/// value names our link, which is looked at anyway.
fn named_by_user(workspace: &Workspace, value: Option<OsString>) -> Option<PathBuf> {
    let named = PathBuf::from(value.filter(|value| !value.is_empty())?);
    let link = workspace.libtorch_link();
    // The checkout may be known by two paths; the link itself must not be followed.
    let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    let same_folder = folder(&named).is_some_and(|named| Some(named) == folder(&link));
    let ours = named == link || (same_folder && named.file_name() == link.file_name());
    (!ours).then_some(named)
}

/// Looks in all places where a libtorch may be. `None`: one must be installed. An error: the
/// user has decided for one that will not do, which is for the user to change.
///
/// `python` tells where Python's torch is; `suits` whether a libtorch is enough for this machine.
fn find(
    workspace: &Workspace,
    named: Option<&Path>,
    python: impl Fn() -> Option<PathBuf>,
    suits: &dyn Fn(&Libtorch) -> bool,
) -> Result<Option<(Libtorch, Origin)>> {
    if let Some(named) = named {
        let libtorch = Libtorch::inspect(named).context(
            "LIBTORCH names a folder that will not do (unset it, and setup finds or installs one)",
        )?;
        return Ok(Some((libtorch, Origin::Variable)));
    }

    let link = workspace.libtorch_link();
    let own_folder = link
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir());
    match Libtorch::inspect(&link) {
        // A folder in place of the link was put there by hand, for a reason.
        Ok(libtorch) if own_folder || suits(&libtorch) => {
            return Ok(Some((libtorch, Origin::Link)));
        }
        Err(error) if own_folder => return Err(error.context("move .libtorch/torch away")),
        _ => {}
    }

    if let Some(folder) = python() {
        match Libtorch::inspect(&folder) {
            Ok(libtorch) if suits(&libtorch) => return Ok(Some((libtorch, Origin::Python))),
            Ok(libtorch) => eprintln!("setup: passing over Python's {libtorch}, to have CUDA"),
            Err(error) => eprintln!("setup: passing over Python's torch: {error:#}"),
        }
    }

    let installed = [&CUDA, &CPU].map(|set| workspace.libtorch_folder().join(set.folder));
    let mut installed = installed
        .iter()
        .filter_map(|site| Libtorch::inspect(&site.join("torch")).ok());
    Ok(installed
        .find(suits)
        .map(|libtorch| (libtorch, Origin::Installed)))
}

/// The folder of Python's torch. Only its place is asked for: importing it takes seconds.
fn python_torch() -> Option<PathBuf> {
    const ASK: &str = "import importlib.util as u; s = u.find_spec('torch'); \
                       print(s.submodule_search_locations[0] if s and s.origin else '')";
    let output = tools::python(&["-c", ASK])
        .ok()
        .filter(|output| output.status.success())?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim())).filter(|folder| folder.is_absolute())
}

/// Installs the wheels into a folder of .libtorch/, which appears when it is whole.
fn install(workspace: &Workspace, set: &Set) -> Result<Libtorch> {
    let folder = workspace.libtorch_folder();
    let site = folder.join(set.folder);
    let stage = folder.join("installing");
    let _lock = lock(&folder)?;
    if let Ok(libtorch) = Libtorch::inspect(&site.join("torch")) {
        return Ok(libtorch);
    }

    eprintln!(
        "setup: installing libtorch {RELEASE} into {}",
        site.display()
    );
    clear(&stage)?;
    let torch = format!("torch=={RELEASE}");
    // In two steps, because torch's other dependencies are for Python programs.
    let installed = pip(&stage, &["--no-deps", &torch])
        .and_then(|()| pip(&stage, set.libraries))
        .and_then(|()| Libtorch::inspect(&stage.join("site/torch")));
    if installed.is_ok() {
        clear(&site)?;
        fs::rename(stage.join("site"), &site)?;
    }
    clear(&stage)?;
    installed?;
    Libtorch::inspect(&site.join("torch"))
}

/// Keeps other setups of this checkout from installing anything, until it is dropped.
fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // The lock goes with the process: one that was killed leaves none behind.
    let lock = File::create(folder.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("setup: waiting for another setup that is installing");
        lock.lock()?;
    }
    Ok(lock)
}

/// Has pip install some packages into the folder `site` of `stage`.
fn pip(stage: &Path, packages: &[&str]) -> Result<()> {
    // Pip unpacks in the folder for temporary files, and a /tmp in memory is soon full.
    let temporary = stage.join("tmp");
    fs::create_dir_all(&temporary)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--target"])
        .arg(stage.join("site"));
    // The libraries are the same for every Python, so any Python here will do to fetch them.
    pip.args(["--only-binary=:all:", "--python-version", "3.12"]);
    if !io::stderr().is_terminal() {
        pip.args(["--quiet", "--progress-bar", "off"]);
    }
    let status = pip
        .args(packages)
        .env("TMPDIR", temporary)
        // By variables, which an older pip does not mind. The first two undo settings of the
        // user's that contradict a folder of our choice.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .context("cannot start python3")?;
    ensure!(
        status.success(),
        "pip could not install {}, for the reason above; \
         it needs the network and a Linux with glibc 2.28 or newer; \
         without them set LIBTORCH to an unpacked libtorch {RELEASE}",
        packages.join(" "),
    );
    Ok(())
}

/// Removes a folder, if it is there.
fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Makes `.libtorch/torch` lead to a folder; at no moment is it absent or half made.
fn link(workspace: &Workspace, target: &Path) -> Result<()> {
    let link = workspace.libtorch_link();
    if link.canonicalize().is_ok_and(|now| now == target) {
        return Ok(());
    }
    let folder = workspace.libtorch_folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Within the folder by a relative path: then a checkout can be moved.
    let folder = folder.canonicalize()?;
    let fresh = folder.join(format!("torch.new-{}", process::id()));
    let linked = symlink(target.strip_prefix(&folder).unwrap_or(target), &fresh)
        .and_then(|()| fs::rename(&fresh, &link));
    if linked.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    linked.with_context(|| {
        format!(
            "cannot make {} a link (if it is a folder, move it away)",
            link.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::libtorch::tests::{fake, header};
    use super::*;

    /// A checkout in a scratch folder, which goes when the first of the two does.
    fn checkout() -> (tempfile::TempDir, Workspace) {
        let scratch = tempfile::tempdir().unwrap();
        // Resolved, because the folder for temporary files may be a link.
        let root = scratch.path().canonicalize().unwrap();
        let target = root.join("target");
        (scratch, Workspace { root, target })
    }

    /// Makes a folder that looks like libtorch 2.`minor`, with or without CUDA.
    fn fake_libtorch(folder: &Path, minor: u32, cuda: bool) {
        let header = header(2, minor, 0);
        fake(
            folder,
            &[
                ("include/torch/headeronly/version.h", &header),
                ("lib/libtorch_cpu.so", ""),
            ],
        );
        if cuda {
            fake(folder, &[("lib/libtorch_cuda.so", "")]);
        }
    }

    #[test]
    fn the_users_own_variable_is_told_from_ours() {
        let (_scratch, workspace) = checkout();
        let root = workspace.root.clone();
        fs::create_dir_all(root.join(".libtorch")).unwrap();
        symlink(&root, root.join("alias")).unwrap();
        // The value of LIBTORCH, and whether it is the user's.
        let cases = [
            (None, false),
            (Some(PathBuf::new()), false),
            (Some(root.join(".libtorch/torch")), false),
            (Some(root.join("alias/.libtorch/torch")), false),
            (Some(root.join(".libtorch/site-cpu/torch")), true),
            (Some(PathBuf::from("/elsewhere/torch")), true),
            (Some(PathBuf::from("torch")), true),
        ];
        for (value, users) in cases {
            let named = named_by_user(&workspace, value.clone().map(PathBuf::into_os_string));
            assert_eq!(named, value.clone().filter(|_| users), "{value:?}");
        }
    }

    #[test]
    fn the_order_of_places() {
        // What is in each place: the minor version, and whether it has CUDA.
        #[derive(Default)]
        struct Places {
            named: Option<(u32, bool)>,
            link: Option<(u32, bool)>,
            python: Option<(u32, bool)>,
            installed: Option<(u32, bool)>,
        }
        let good = Some((11, false));
        let cuda = Some((11, true));
        let old = Some((5, true));
        let none = Places::default;
        // The places, whether there is an NVIDIA driver, and what is found ("!": an error).
        let cases = [
            (none(), false, "none"),
            (
                Places {
                    named: good,
                    link: good,
                    python: good,
                    ..none()
                },
                false,
                "Variable",
            ),
            (
                Places {
                    named: good,
                    link: cuda,
                    ..none()
                },
                true,
                "Variable",
            ),
            (
                Places {
                    named: old,
                    link: good,
                    ..none()
                },
                false,
                "!",
            ),
            (
                Places {
                    link: good,
                    python: good,
                    ..none()
                },
                false,
                "Link",
            ),
            (
                Places {
                    link: old,
                    python: good,
                    ..none()
                },
                false,
                "Python",
            ),
            (
                Places {
                    link: old,
                    python: old,
                    ..none()
                },
                false,
                "none",
            ),
            (
                Places {
                    python: good,
                    installed: good,
                    ..none()
                },
                false,
                "Python",
            ),
            (
                Places {
                    installed: good,
                    ..none()
                },
                false,
                "Installed",
            ),
            (
                Places {
                    link: good,
                    python: cuda,
                    ..none()
                },
                true,
                "Python",
            ),
            (
                Places {
                    link: good,
                    installed: good,
                    ..none()
                },
                true,
                "none",
            ),
            (
                Places {
                    link: cuda,
                    ..none()
                },
                true,
                "Link",
            ),
        ];
        for (index, (places, driver, expected)) in cases.into_iter().enumerate() {
            let (_scratch, workspace) = checkout();
            let make = |name: &str, place: Option<(u32, bool)>| {
                let folder = workspace.root.join(name);
                place.map(|(minor, cuda)| {
                    fake_libtorch(&folder, minor, cuda);
                    folder
                })
            };
            let named = make("named", places.named);
            if let Some(folder) = make("linked", places.link) {
                link(&workspace, &folder).unwrap();
            }
            let python = make("python", places.python);
            make(".libtorch/site-cpu/torch", places.installed);
            let found = find(
                &workspace,
                named.as_deref(),
                || python.clone(),
                &|libtorch| libtorch.cuda || !driver,
            );
            let found = match found {
                Ok(found) => found.map_or("none".to_owned(), |(_, origin)| format!("{origin:?}")),
                Err(_) => "!".to_owned(),
            };
            assert_eq!(found, expected, "case {index}");
        }
    }

    #[test]
    fn a_folder_in_place_of_the_link_is_the_users() {
        let (_scratch, workspace) = checkout();
        let place = workspace.libtorch_link();
        fake_libtorch(&place, 11, false);
        let (_, origin) = find(&workspace, None, || None, &|_| false)
            .unwrap()
            .unwrap();
        assert_eq!(origin, Origin::Link);
        fake_libtorch(&place, 5, false);
        let error = find(&workspace, None, || None, &|_| true).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("move .libtorch/torch away: "),
            "{error:#}"
        );
        assert!(link(&workspace, &workspace.root).is_err());
    }

    #[test]
    fn links_are_replaced_and_relative_inside_the_folder() {
        let (_scratch, workspace) = checkout();
        let place = workspace.libtorch_link();
        let inside = workspace.libtorch_folder().join("site-cpu/torch");
        let outside = workspace.root.join("elsewhere");
        for folder in [&inside, &outside] {
            fs::create_dir_all(folder).unwrap();
        }
        let missing = workspace.root.join("gone");
        let steps = [
            (&missing, &missing),
            (&outside, &outside),
            (&inside, &PathBuf::from("site-cpu/torch")),
        ];
        for (target, expected) in steps {
            link(&workspace, target).unwrap();
            assert_eq!(fs::read_link(&place).unwrap(), *expected);
        }
        // Nothing is left over beside the link.
        assert_eq!(
            fs::read_dir(workspace.libtorch_folder()).unwrap().count(),
            2
        );
    }
}
