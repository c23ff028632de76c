//! `cargo xtask package`: an archive that runs on machines without Rust, Python and this checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::workspace::Workspace;

/// Libraries of the system that are copied, too: small systems lack them. glibc is the machine's own.
const OF_THE_SYSTEM: [&str; 2] = ["libstdc++.so.6", "libgcc_s.so.1"];

/// What is copied from the checkout, and where it lies in the archive.
const FILES: [(&str, &str); 9] = [
    ("README.md", "README.md"),
    ("ARCHITECTURE.md", "ARCHITECTURE.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("CONTRIBUTING.md", "CONTRIBUTING.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("docs/deploy/Dockerfile", "Dockerfile"),
    ("docs/deploy/rsflow.service", "rsflow.service"),
    ("serve/c/rsflow_net.h", "include/rsflow_net.h"),
];

/// Folders whose files are copied, those in folders below them are not. The pages link to each other.
const FOLDERS: [&str; 2] = ["docs", "recipes"];

/// Where shells look for the scripts that complete a program's options, below the folder `share` of what is installed.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/rsflow"),
    ("zsh", "zsh/site-functions/_rsflow"),
    ("fish", "fish/vendor_completions.d/rsflow.fish"),
];

/// The place of libtorch beside the program, as its run path begins.
const RUN_PATH: &str = "$ORIGIN/../lib";

/// Make an archive to copy to other machines: program, libtorch, C library, recipes, pages, man pages, completions.
///
/// The machine needs Linux on x86-64 with a glibc not older than this one's, and nothing else. The archive
/// computes on CPUs; docs/deploy.md says how to use GPUs. Before it is kept, the copied program is started.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder in which the archive is made [default: target/package]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Leave the files in a folder, do not pack them
    #[arg(long)]
    folder: bool,
    /// Take the debug build that `cargo xtask test` has made, in place of a release build
    #[arg(long)]
    debug: bool,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let profile = if arguments.debug { "debug" } else { "release" };
    setup::ensure(workspace, setup::room_to_build(workspace, profile))?;
    let program = workspace.build_package(profile)?;
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("rsflow-{version}-linux-x86_64");
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| workspace.target.join("package"));
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    let libraries = fill(workspace, &program, &folder)?;
    let packed = folder.join("bin/rsflow");
    shorten_run_path(&packed)?;
    shorten_run_path(&folder.join("lib/librsflow_net.so"))?;
    check(&packed, &folder.join("lib"))?;
    share(&packed, &folder.join("share"))?;
    for library in libraries {
        let size = fs::metadata(folder.join("lib").join(&library))?.len();
        println!("{:8.1} MB  lib/{library}", size as f64 / 1e6);
    }
    let size = fs::metadata(&packed)?.len();
    println!("{:8.1} MB  bin/rsflow", size as f64 / 1e6);
    if arguments.folder {
        println!("{}", folder.display());
        return Ok(());
    }
    let archive = out.join(format!("{name}.tar.gz"));
    // Half an archive must not look like one.
    let partial = out.join(format!("{name}.tar.gz.partial"));
    eprintln!("packing {}", archive.display());
    let packed = Command::new("tar")
        .args(["--create", "--gzip", "--owner=0", "--group=0", "--file"])
        .arg(&partial)
        .arg("--directory")
        .arg(&out)
        .arg(&name)
        .status()
        .context("cannot start tar; --folder leaves the files unpacked")?;
    if !packed.success() {
        let _ = fs::remove_file(&partial);
        bail!("tar failed; is there room in {}?", out.display());
    }
    fs::rename(&partial, &archive)?;
    let size = fs::metadata(&archive)?.len();
    println!("{:8.1} MB  {}", size as f64 / 1e6, archive.display());
    Ok(())
}

/// Copies everything. Returns the names of the libraries.
fn fill(workspace: &Workspace, program: &Path, folder: &Path) -> Result<Vec<String>> {
    let lib = folder.join("lib");
    for part in ["bin", "lib", "include", "licenses"].iter().chain(&FOLDERS) {
        let part = folder.join(part);
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to)
            .map(drop)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    };
    copy(program, folder.join("bin/rsflow"))?;
    for (from, to) in FILES {
        copy(&workspace.root.join(from), folder.join(to))?;
    }
    for part in FOLDERS {
        for file in fs::read_dir(workspace.root.join(part))? {
            let file = file?;
            if file.file_type()?.is_file() {
                copy(&file.path(), folder.join(part).join(file.file_name()))?;
            }
        }
    }
    let mut names = Vec::new();
    for library in needed(program)? {
        let name = library.file_name().context("a library without a name")?;
        let name = name.to_string_lossy().into_owned();
        let system = ["/lib", "/usr/lib", "/lib64"];
        let of_the_system = system.iter().any(|root| library.starts_with(root));
        if of_the_system && !OF_THE_SYSTEM.contains(&name.as_str()) {
            continue;
        }
        copy(&library, lib.join(&name))?;
        names.push(name);
    }
    let ours = "librsflow_net.so";
    let built = program.with_file_name(ours);
    copy(&built, lib.join(ours))?;
    names.push(ours.to_owned());
    licenses(workspace, &folder.join("licenses"))?;
    Ok(names)
}

/// The libraries that a program loads when it starts, as the dynamic linker finds them here.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output();
    let listed = listed.context("cannot start ldd, which lists the libraries")?;
    ensure!(
        listed.status.success(),
        "ldd failed on {}",
        program.display()
    );
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    // `name => path (address)`; the kernel's and the linker have no arrow.
    let paths = text.lines().filter_map(|line| line.split_once("=> "));
    let paths = paths.filter_map(|(_, path)| path.split(" (").next());
    Ok(paths.map(|path| PathBuf::from(path.trim())).collect())
}

/// The licences of libtorch and the libraries that come with it, and of the crates that the program consists of.
fn licenses(workspace: &Workspace, folder: &Path) -> Result<()> {
    let libtorch = workspace.libtorch_link().canonicalize();
    let libtorch = libtorch.context("there is no libtorch")?;
    let site = libtorch.parent().unwrap_or(&libtorch);
    for entry in fs::read_dir(site)? {
        let path = entry?.path();
        if path.extension().is_some_and(|of| of == "dist-info") {
            copy_licenses(&path, folder)?;
        }
    }
    let listed = workspace
        .cargo()
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .output()
        .context("cannot start cargo")?;
    ensure!(listed.status.success(), "cargo metadata failed");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let crates = listed["packages"].as_array().into_iter().flatten();
    // Ours have their licence in the archive already.
    for package in crates.filter(|package| !package["source"].is_null()) {
        let manifest = package["manifest_path"].as_str().map(Path::new);
        if let Some(root) = manifest.and_then(Path::parent).filter(|root| root.is_dir()) {
            copy_licenses(root, folder)?;
        }
    }
    Ok(())
}

/// Copies the files of a package that are licences by their names, with the package's name before them.
fn copy_licenses(package: &Path, folder: &Path) -> Result<()> {
    let of = package.file_name().unwrap_or_default().to_string_lossy();
    let roots = [package.to_path_buf(), package.join("licenses")];
    for root in roots.iter().filter(|root| root.is_dir()) {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let upper = name.to_uppercase();
            let is_one = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "UNLICENSE"];
            if path.is_file() && is_one.iter().any(|start| upper.starts_with(start)) {
                fs::copy(&path, folder.join(format!("{of}-{name}")))?;
            }
        }
    }
    Ok(())
}

/// Leaves of a file's run path what holds on every machine, [`RUN_PATH`] or the folder it lies in: the rest are
/// folders of this machine. The text is ended early, in place; nothing moves.
fn shorten_run_path(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let starts = [format!("\0{RUN_PATH}:"), "\0$ORIGIN:".to_owned()];
    let found = starts.iter().find_map(|start| {
        let start = start.as_bytes();
        let at = bytes.windows(start.len()).position(|part| part == start)?;
        Some(at + start.len() - 1)
    });
    let from = found.with_context(|| format!("{} has no run path of ours", file.display()))?;
    let length = bytes[from..].iter().position(|byte| *byte == 0);
    let length = length.context("a run path without an end")?;
    bytes[from..from + length].fill(0);
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// Starts the copied program with nothing of this machine's environment.
fn check(program: &Path, lib: &Path) -> Result<()> {
    let started = Command::new(program).arg("--version").env_clear().output();
    let started = started.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(
        started.status.success(),
        "{} does not start: {}",
        program.display(),
        String::from_utf8_lossy(&started.stderr).trim()
    );
    let mut loaded = needed(program)?;
    loaded.extend(needed(&lib.join("librsflow_net.so"))?);
    let lib = lib.canonicalize()?;
    let is_torch = |path: &&PathBuf| path.to_string_lossy().contains("libtorch");
    for path in loaded.iter().filter(is_torch) {
        let path = path.canonicalize()?;
        ensure!(
            path.starts_with(&lib),
            "the copied program loads {}, not its own",
            path.display()
        );
    }
    Ok(())
}

/// Has the copied program write what it says of itself to readers of manuals and to shells.
fn share(program: &Path, share: &Path) -> Result<()> {
    let ask = |arguments: &[&str]| -> Result<Vec<u8>> {
        let words = arguments.join(" ");
        let asked = Command::new(program).args(arguments).env_clear().output();
        let asked = asked.with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(
            asked.status.success() && (words.starts_with("man") || !asked.stdout.is_empty()),
            "`rsflow {words}` failed: {}",
            String::from_utf8_lossy(&asked.stderr).trim()
        );
        Ok(asked.stdout)
    };
    let pages = share.join("man/man1");
    let named = pages
        .to_str()
        .context("the path of the archive is no text; --out names another folder")?;
    ask(&["man", "--out", named])?;
    for (shell, place) in COMPLETIONS {
        let script = ask(&["completions", shell])?;
        let file = share.join(place);
        let folder = file.parent().unwrap_or(share);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, script))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// As a file of the archive is called in the Dockerfile and in links.
    fn is_in_the_archive(path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folders = ["bin", "lib", "include", "licenses", "share"];
        let copied = FOLDERS.iter().any(|folder| {
            let within = path
                .strip_prefix(folder)
                .and_then(|it| it.strip_prefix('/'));
            path == *folder
                || within.is_some_and(|name| {
                    !name.contains('/') && root().join(folder).join(name).is_file()
                })
        });
        copied || folders.contains(&path) || FILES.iter().any(|(_, to)| *to == path)
    }

    #[test]
    fn the_dockerfile_copies_what_the_archive_has() {
        const KNOWN: [&str; 9] = [
            "FROM",
            "ARG",
            "COPY",
            "USER",
            "EXPOSE",
            "VOLUME",
            "HEALTHCHECK",
            "ENTRYPOINT",
            "CMD",
        ];
        let text = fs::read_to_string(root().join("docs/deploy/Dockerfile")).unwrap();
        let text = text.replace("\\\n", " ");
        let lines = text.lines().map(str::trim);
        let lines: Vec<&str> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        assert!(lines[0].starts_with("FROM "), "{}", lines[0]);
        let mut copied = 0;
        for line in lines {
            let (instruction, rest) = line.split_once(' ').unwrap();
            assert!(KNOWN.contains(&instruction), "{line}");
            if let "ENTRYPOINT" | "CMD" = instruction {
                let words: Vec<String> = serde_json::from_str(rest).unwrap();
                assert!(!words.is_empty(), "{line}");
            }
            if instruction == "COPY" {
                let mut words: Vec<&str> = rest.split_whitespace().collect();
                words.pop();
                assert!(words.iter().all(|path| is_in_the_archive(path)), "{line}");
                copied += words.len();
            }
        }
        assert!(copied >= 2);
    }

    #[test]
    fn links_of_the_archive_lead_to_what_it_has() {
        let mut pages: Vec<String> = FILES.iter().map(|(from, _)| (*from).to_owned()).collect();
        for entry in fs::read_dir(root().join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            pages.push(format!("docs/{name}"));
        }
        let mut count = 0;
        for page in pages.iter().filter(|page| page.ends_with(".md")) {
            assert!(is_in_the_archive(page), "{page}");
            let text = fs::read_to_string(root().join(page)).unwrap();
            for target in text.split("](").skip(1).chain(text.split("src=\"").skip(1)) {
                let end = target.find([')', '"', ' ', '#']).unwrap();
                let target = &target[..end];
                if target.is_empty() || target.starts_with("http") {
                    continue;
                }
                let (folder, _) = page.rsplit_once('/').unwrap_or(("", ""));
                let path = match target.strip_prefix("../") {
                    Some(above) => above.to_owned(),
                    None => format!("{folder}/{target}")
                        .trim_start_matches('/')
                        .to_owned(),
                };
                assert!(is_in_the_archive(&path), "{page}: {target}");
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
        for absent in ["docs/none.md", "docs/deploy/Dockerfile", "Cargo.toml"] {
            assert!(!is_in_the_archive(absent), "{absent}");
        }
    }

    #[test]
    fn shells_and_man_get_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("rsflow");
        let script = |last: &str| {
            let text = format!("#!/bin/sh\n{last}\n");
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            share(&program, &folder.path().join("share"))
        };
        script(r#"[ "$1" != man ] && echo "$@" || [ "$2" = --out ]"#).unwrap();
        for (place, text) in [
            ("bash-completion/completions/rsflow", "completions bash\n"),
            ("zsh/site-functions/_rsflow", "completions zsh\n"),
            (
                "fish/vendor_completions.d/rsflow.fish",
                "completions fish\n",
            ),
        ] {
            let file = folder.path().join("share").join(place);
            assert_eq!(fs::read_to_string(file).unwrap(), text);
        }
        for (last, words) in [
            ("echo reason >&2; exit 1", "`rsflow man --out"),
            (r#"[ "$1" = man ]"#, "`rsflow completions bash` failed"),
            ("true", "`rsflow completions bash` failed"),
        ] {
            let error = script(last).unwrap_err().to_string();
            assert!(error.contains(words), "{last}: {error}");
        }
    }

    #[test]
    fn a_run_path_keeps_what_holds_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        let cases = [
            (
                "a\0$ORIGIN/../lib:/home/me/lib:/x\0b",
                "a\0$ORIGIN/../lib\0",
            ),
            ("a\0$ORIGIN:/home/me/lib\0b", "a\0$ORIGIN\0"),
        ];
        for (before, start) in cases {
            fs::write(&file, before).unwrap();
            shorten_run_path(&file).unwrap();
            let after = fs::read_to_string(&file).unwrap();
            assert_eq!(after.len(), before.len());
            assert!(
                after.starts_with(start) && after.ends_with("\0b"),
                "{after:?}"
            );
            assert!(!after.contains("home"), "{after:?}");
        }
        fs::write(&file, "nothing").unwrap();
        assert!(shorten_run_path(&file).is_err());
    }
}
