//! Effects on the process as a whole are `src/process`'s alone: a library that printed, ended the
//! program or changed its environment would surprise whoever else uses it.

use std::fs;
use std::path::{Path, PathBuf};

/// What has an effect on the process, and the files that may name it.
const EFFECTS: &[(&str, &[&str])] = &[
    ("set_var(", &["src/process/"]),
    ("setenv(", &[]),
    ("putenv(", &[]),
    ("process::exit", &[]),
    ("_exit(", &["src/process/"]),
    ("process::abort", &[]),
    ("signal_hook", &["src/process/"]),
    ("pre_exec(", &["src/process/"]),
    ("setaffinity", &["src/process/"]),
    ("tokio::signal", &[]),
    ("ctrl_c", &[]),
    ("print!(", &[]),
    ("println!(", &[]),
    ("stderr()", &["src/"]),
    ("stdout()", &["src/commands/mod.rs", "src/process/"]),
    ("std::cerr", &[]),
    ("std::cout", &[]),
    ("tracing_subscriber", &["src/process/"]),
    ("set_num_threads(", &["model/src/nn/compute/process.rs"]),
    ("cudnn_set_benchmark(", &["model/src/nn/compute/process.rs"]),
    (
        "set_arithmetic(",
        &[
            "model/src/nn/compute/process.rs",
            "model/src/nn/native.rs",
            "model/native/shim.cpp",
        ],
    ),
    (
        "keep_freed_memory(",
        &[
            "model/src/nn/compute/process.rs",
            "model/src/nn/native.rs",
            "model/native/shim.cpp",
        ],
    ),
    ("mallopt(", &["model/native/shim.cpp"]),
    ("compute::apply(", &["src/process/", "serve/c/src/lib.rs"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = |of: &str| path.extension().is_some_and(|extension| extension == of);
        if path.is_dir() {
            sources(&path, found);
        } else if source("rs") || source("cpp") || source("h") {
            found.push(path);
        }
    }
}

/// The effects that a file has and may not have. Comments and strings count, too: better one word
/// changed than an effect not seen.
fn faults(file: &str, text: &str) -> Vec<String> {
    let forbidden = EFFECTS.iter().filter(|(effect, allowed)| {
        text.contains(effect) && !allowed.iter().any(|place| file.starts_with(place))
    });
    forbidden
        .map(|(effect, _)| format!("{file}: {effect}"))
        .collect()
}

#[test]
fn effects_on_the_process_are_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [
        "src",
        "graph/src",
        "pipeline/src",
        "model/src",
        "model/native",
        "serve/src",
    ] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "{} files were found", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(root).unwrap().display().to_string();
            // The only comment that names one says why it is not used.
            let text = fs::read_to_string(file).unwrap();
            faults(&name, &text.replace("(`eprintln!` would panic)", ""))
        })
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn an_effect_elsewhere_is_found() {
    for text in [
        "eprintln!(\"so far\");",
        "std::process::exit(130)",
        "unsafe { std::env::set_var(name, value) }",
        "tch::set_num_threads(1)",
        "native::keep_freed_memory();",
    ] {
        assert!(!faults("graph/src/plan/mod.rs", text).is_empty(), "{text}");
    }
    assert_eq!(
        faults("src/process/mod.rs", "libc::_exit(130)"),
        Vec::<String>::new()
    );
}
