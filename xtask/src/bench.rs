//! `cargo xtask bench`: our speed, alone or beside another program's on the same machine.

mod augment;
mod rounds;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::setup;
use crate::workspace::Workspace;
use rounds::{HEADER, Measured, in_turn, measure};

/// A training step that is measured, at sizes that a CPU can do: those of [`RECIPE`].
#[derive(Clone, Copy)]
struct Step {
    /// What other programs call it.
    arch: &'static str,
    /// The same for the recipe.
    network: &'static str,
    batch: &'static str,
}

/// What the steps are those of, but for the network and the batch.
const RECIPE: &str = "recipes/imagenette_resnet18.ron";
const SIZES: &str = "128 112 96 80 64";
const CLASSES: &str = "10";

const STEPS: &[Step] = &[
    Step {
        arch: "resnet18",
        network: "ResNet(depth: 18)",
        batch: "32",
    },
    Step {
        arch: "resnet50",
        network: "ResNet(depth: 50)",
        batch: "16",
    },
    Step {
        arch: "mobilenet_v2",
        network: "MobileNetV2()",
        batch: "32",
    },
];

/// Networks whose step is measured against that of one in full precision, on the same images.
const QUANTIZED: &[(Step, &str)] = &[
    (
        Step {
            arch: "resnet18_w2a32",
            network: "QuantizedResNet(depth: 18, mode: WeightsOnly, weight_bits: 2)",
            batch: "32",
        },
        "ResNet(depth: 18)",
    ),
    (
        Step {
            arch: "resnet18_w2a2",
            network: "QuantizedResNet(depth: 18, mode: PreActivation, weight_bits: 2, activation_bits: 2)",
            batch: "32",
        },
        "ResNet(depth: 18)",
    ),
    (
        Step {
            arch: "resnet50_w2a2",
            network: "QuantizedResNet(depth: 50, mode: PreActivation, weight_bits: 2, activation_bits: 2)",
            batch: "16",
        },
        "ResNet(depth: 50)",
    ),
];

impl Step {
    /// The arguments of our program.
    fn arguments(&self, network: &str, set: &[String]) -> Vec<String> {
        let network = format!("trainer.network={network}");
        let mut arguments = ["bench", RECIPE, "--only", "step", "--batch", self.batch]
            .map(str::to_owned)
            .to_vec();
        for value in std::iter::once(&network).chain(set) {
            arguments.extend(["--set".to_owned(), value.clone()]);
        }
        arguments
    }

    /// The other program's command with its placeholders filled in.
    fn command(&self, template: &str) -> String {
        filled(
            template,
            &[
                ("{arch}", self.arch),
                ("{batch}", self.batch),
                ("{sizes}", SIZES),
                ("{classes}", CLASSES),
            ],
        )
    }
}

/// A way of loading images that is measured, in images per second on two workers.
struct Load {
    name: &'static str,
    sizes: &'static [&'static str],
}

const LOADS: &[Load] = &[
    Load {
        name: "five sizes",
        sizes: &["224", "192", "160", "128", "96"],
    },
    Load {
        name: "one size",
        sizes: &["224"],
    },
];

/// As many as the smallest machine that is worth measuring on has.
const WORKERS: &str = "2";

/// Set up, and measure: what the graph engine costs per item and hop, loading of images, training
/// steps, and those of quantized networks against the same in full precision. Loading, augmentations and
/// steps can be put beside other programs'.
///
/// Each step is run several times and the median is shown, with the peak resident memory. With
/// `--against` the two programs take turns, so that a machine which slows down slows both, and the
/// table shows how many times faster ours is: by the medians, and round by round.
#[derive(clap::Args)]
pub struct Arguments {
    /// A shell command to measure against; it must print a line with `N images/s`. In it `{arch}`,
    /// `{batch}`, `{sizes}` and `{classes}` stand for those of each step: "python step.py --arch
    /// {arch} --batch {batch} --sizes {sizes} --classes {classes}"
    #[arg(long, value_name = "COMMAND")]
    against: Option<String>,

    /// A folder of class folders to measure loading with; without it, loading is not measured
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,

    /// A loader to measure against, as a shell command that prints `N images/s`; may be given several
    /// times. `{images}`, `{workers}` and `{sizes}` stand for what is measured: "python peers.py
    /// opencv {images} {workers}"
    #[arg(long, value_name = "COMMAND", requires = "images")]
    peer: Vec<String>,

    /// A Python with bench/peers/requirements.txt: torchvision's and timm's augmentations are measured
    /// beside ours
    #[arg(long, value_name = "PATH", requires = "images")]
    python: Option<PathBuf>,

    /// Overrides a field of the recipe whose step is measured, for ours alone:
    /// trainer.precision=BFloat16
    #[arg(long, value_name = "NODE.FIELD=VALUE")]
    set: Vec<String>,

    /// How often each program is run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Measure only the engine, loading, the steps, or those of quantized networks
    #[arg(long, value_name = "PART", value_parser = ["engine", "load", "steps", "quantized"])]
    only: Option<String>,

    /// Measure only the step of this network; may be given several times
    #[arg(long, value_name = "NAME",
        value_parser = PossibleValuesParser::new(archs()))]
    arch: Vec<String>,
}

/// The networks whose steps are measured.
fn archs() -> impl Iterator<Item = &'static str> {
    let quantized = QUANTIZED.iter().map(|(step, _)| step.arch);
    STEPS.iter().map(|step| step.arch).chain(quantized)
}

impl Arguments {
    /// What would measure nothing, or not all that is asked for, is a mistake.
    fn check(&self) -> Result<()> {
        if self.only.as_deref() == Some("load") && self.images.is_none() {
            bail!(
                "loading is measured with images: --images FOLDER names a folder of class folders"
            );
        }
        let steps: Vec<&str> = STEPS.iter().map(|step| step.arch).collect();
        let quantized: Vec<&str> = QUANTIZED.iter().map(|(step, _)| step.arch).collect();
        for (part, archs) in [("steps", steps), ("quantized", quantized)] {
            let mut wanted = self.arch.iter();
            if self.only.as_deref() == Some(part)
                && let Some(arch) = wanted.find(|arch| !archs.contains(&arch.as_str()))
            {
                let archs = archs.join(", ");
                bail!("--only {part} does not measure {arch}: --arch takes {archs} there");
            }
        }
        Ok(())
    }

    fn wants(&self, step: &Step) -> bool {
        self.arch.is_empty() || self.arch.iter().any(|arch| arch == step.arch)
    }
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    setup::ensure(workspace, setup::room_to_build(workspace, "release"))?;
    let wanted = |part: &str| arguments.only.as_deref().is_none_or(|only| only == part);
    if wanted("engine") {
        let output = bench(workspace, "rsflow-graph", "hop", &[] as &[&str])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bail!("the measurement of the engine ended with {}", output.status);
        }
    }
    if let Some(images) = arguments.images.as_deref().filter(|_| wanted("load")) {
        load(workspace, arguments, images)?;
    }
    if wanted("steps") && STEPS.iter().any(|step| arguments.wants(step)) {
        let program = workspace.build_release()?;
        println!("{HEADER}");
        for step in STEPS.iter().filter(|step| arguments.wants(step)) {
            let mut ours = || {
                measure(&mut rsflow(
                    workspace,
                    &program,
                    step,
                    step.network,
                    arguments,
                ))
            };
            let theirs = arguments
                .against
                .as_deref()
                .map(|shell| step.command(shell));
            let mut theirs =
                theirs.map(|shell| move || measure(Command::new("sh").args(["-c", &shell])));
            let theirs = theirs
                .as_mut()
                .map(|theirs| theirs as &mut dyn FnMut() -> Result<Measured>);
            let rounds = in_turn(&mut ours, theirs, arguments.rounds)?;
            println!("{}", rounds.row(step.arch));
        }
    }
    if wanted("quantized") && QUANTIZED.iter().any(|(step, _)| arguments.wants(step)) {
        quantized(workspace, arguments)?;
    }
    Ok(())
}

/// The steps of quantized networks; a ratio of 0.8 is a step that costs 1.25 times as much.
fn quantized(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let program = workspace.build_release()?;
    println!("{HEADER}");
    for (step, full) in QUANTIZED.iter().filter(|(step, _)| arguments.wants(step)) {
        let measure = |network| measure(&mut rsflow(workspace, &program, step, network, arguments));
        let (mut ours, mut theirs) = (|| measure(step.network), || measure(full));
        let rounds = in_turn(&mut ours, Some(&mut theirs), arguments.rounds)?;
        println!("{}, against {full}", rounds.row(step.arch));
    }
    Ok(())
}

/// Our program, measuring a step.
fn rsflow(
    workspace: &Workspace,
    program: &Path,
    step: &Step,
    network: &str,
    arguments: &Arguments,
) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(&workspace.root)
        .args(step.arguments(network, &arguments.set));
    command
}

/// Loading, beside bare threads over the same kernels and beside each of the others; then what
/// augmentations cost.
fn load(workspace: &Workspace, arguments: &Arguments, images: &Path) -> Result<()> {
    build(workspace, "rsflow-pipeline", "loader")?;
    build(workspace, "rsflow-pipeline", "augment")?;
    // Cargo runs a benchmark in its package's folder.
    let images = std::path::absolute(images).context("cannot tell where `--images` is")?;
    let images = images
        .to_str()
        .context("the folder of `--images` has a name that is not UTF-8")?;
    println!("{HEADER}");
    for load in LOADS {
        let options = ["--images", images, "--workers", WORKERS, "--sizes"];
        let options = [&options[..], load.sizes].concat();
        let alone = |more: &[&str]| {
            let options = [&options[..], more].concat();
            measure(&mut bench(workspace, "rsflow-pipeline", "loader", &options))
        };
        let against = |name: &str, theirs: &mut dyn FnMut() -> Result<Measured>| {
            let rounds = in_turn(&mut || alone(&[]), Some(theirs), arguments.rounds)?;
            println!("{}, against {name}", rounds.row(load.name));
            Ok::<_, anyhow::Error>(())
        };
        against("bare threads", &mut || alone(&["--bare"]))?;
        let mut augmented = || alone(&["--augment"]);
        let rounds = in_turn(&mut augmented, Some(&mut || alone(&[])), arguments.rounds)?;
        let row = rounds.row(load.name);
        println!("{row}, with RandAugment and RandomErasing against without");
        for peer in &arguments.peer {
            let shell = filled(
                peer,
                &[
                    ("{images}", images),
                    ("{workers}", WORKERS),
                    ("{sizes}", &load.sizes.join(" ")),
                ],
            );
            against(&shell, &mut || {
                measure(Command::new("sh").args(["-c", &shell]))
            })?;
        }
    }
    augment::run(
        workspace,
        images,
        arguments.python.as_deref(),
        arguments.rounds,
    )
}

/// A command with its placeholders filled in.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |command, (name, value)| {
            command.replace(name, value)
        })
}

/// Builds a benchmark. Not left to its first run, whose peak memory would be the compiler's.
fn build(workspace: &Workspace, package: &str, name: &str) -> Result<()> {
    let status = workspace
        .cargo()
        .args(["bench", "--quiet", "--no-run", "--package", package])
        .args(["--bench", name])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the build of the benchmark {name} ended with {status}");
    }
    Ok(())
}

/// A benchmark of a package, built in release mode first if that is needed.
fn bench(
    workspace: &Workspace,
    package: &str,
    name: &str,
    options: &[impl AsRef<OsStr>],
) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "bench",
            "--quiet",
            "--package",
            package,
            "--bench",
            name,
            "--",
        ])
        .args(options);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_measure_nothing_is_refused() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            arguments: Arguments,
        }
        for (options, expected) in [
            ("", None),
            ("--only load --images here", None),
            ("--only load", Some("--images FOLDER")),
            ("--only steps --arch resnet50", None),
            ("--arch resnet50 --arch resnet18_w2a2", None),
            (
                "--only steps --arch resnet18 --arch resnet18_w2a2",
                Some("--only steps does not measure resnet18_w2a2: --arch takes resnet18, "),
            ),
            (
                "--only quantized --arch resnet50",
                Some("--arch takes resnet18_w2a32, "),
            ),
        ] {
            let options = ["bench"].into_iter().chain(options.split_whitespace());
            let command = <Command as clap::Parser>::parse_from(options);
            let said = command
                .arguments
                .check()
                .err()
                .map(|error| error.to_string());
            match (&said, expected) {
                (Some(said), Some(words)) => assert!(said.contains(words), "{said}"),
                (said, expected) => assert_eq!(said.as_deref(), expected),
            }
        }
    }

    #[test]
    fn the_other_command_is_told_what_is_measured() {
        let template =
            "step --model {arch} -b {batch} --sizes {sizes} --classes={classes} {arch} {x}";
        assert_eq!(
            STEPS[1].command(template),
            "step --model resnet50 -b 16 --sizes 128 112 96 80 64 --classes=10 resnet50 {x}"
        );
        let set = ["trainer.precision=BFloat16".to_owned()];
        assert_eq!(
            STEPS[2].arguments(STEPS[2].network, &set).join(" "),
            "bench recipes/imagenette_resnet18.ron --only step --batch 32 \
             --set trainer.network=MobileNetV2() --set trainer.precision=BFloat16"
        );
    }
}
