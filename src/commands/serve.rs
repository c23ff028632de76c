//! `rsflow serve`: a trained network over HTTP and gRPC.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::NormsFrom;
use rsflow_model::nn::compute::{ExecConfig, Precision, ProcessSettings};
use rsflow_model::nn::kernels::Fused;
use rsflow_serve::server::device::{Device, Network};
use rsflow_serve::server::{Config, Server};
use rsflow_serve::{Folding, RsNet};

use super::usage::{Usage, report};
use super::{checkpoint, preprocess, sizes};
use crate::cli::{Computing, Serve, Switch};
use crate::files::checkpoint_of;
use crate::process::{self, Asked, say};
use crate::table;

/// Images with more pixels are refused, whatever the training's limit was: as many are decoded at once as there
/// are cores.
const MAX_PIXELS: u64 = 50_000_000;

pub fn run(arguments: &Serve, out: &mut dyn Write) -> Result<ExitCode> {
    let Computing { device, precision } = arguments.compute;
    process::prepare(Some(ProcessSettings {
        device,
        tf32: precision == Precision::TensorFloat32,
        deterministic: false,
        threads: arguments.threads.map(|threads| threads as usize),
    }))?;
    let config = Config {
        listen: arguments.listen,
        name: arguments.name.clone(),
        deadline: Duration::from_millis(arguments.deadline_ms),
        switching: arguments.switch == Switch::Auto,
        floor: arguments.floor,
        max_batch: arguments.max_batch as usize,
        queue: arguments.queue as usize,
    };
    let of_load = arguments.clone();
    let load = Arc::new(move || Ok(Box::new(load(&of_load)?) as Box<dyn Network>));
    let mut server = Server::bind(config, load, Arc::new(|line| say(line)))?;
    let control = server.control();
    process::on_signals(move |asked| match asked {
        Asked::Stop => control.stop(),
        Asked::Reload => control.reload(),
    })?;
    let address = server.address();
    let grpc = arguments.grpc.map(|at| server.bind_grpc(at)).transpose()?;
    let ended = server.run(|device| {
        say(profile(device));
        // For scripts, which may have asked for port 0. A closed pipe is no reason to end.
        let mut listening = format!("listening on http://{address}\n");
        if let Some(grpc) = grpc {
            listening += &format!("listening on grpc://{grpc}\n");
        }
        let _ = out
            .write_all(listening.as_bytes())
            .and_then(|()| out.flush());
    });
    let code = match ended {
        Ok(()) => 0,
        Err(error) => {
            report(&error);
            if error.is::<Usage>() {
                process::WRONG
            } else {
                1
            }
        }
    };
    // Threads of libtorch may still compute.
    process::end_at_once(code)
}

/// Loads the network, at the start and for each reload: a run directory may have a new best checkpoint.
fn load(arguments: &Serve) -> Result<RsNet> {
    let path = checkpoint_of(arguments.trained.path(), |line| say(line))?;
    let checkpoint = checkpoint::open(&path, &arguments.opening, |line| say(line))?;
    let metadata = checkpoint.metadata();
    let chosen = match arguments.sizes.as_slice() {
        [] => &metadata.resolutions,
        sizes => sizes,
    };
    let named = &arguments.batch_norm;
    sizes::check(metadata, &path, chosen, named)?;
    if let Some(floor) = arguments.floor {
        let largest = chosen.iter().max().copied().unwrap_or_default();
        ensure!(
            floor <= largest,
            Usage(format!(
                "--floor {floor} is above the largest size, {largest}"
            ))
        );
    }
    if metadata.classes.iter().all(String::is_empty) {
        say(
            "the names of the classes are not known: they are numbered from 0 (`import --class-names` keeps names)",
        );
    }
    for &size in chosen {
        if let Some(line) = sizes::tell_borrowed(metadata, size, named) {
            say(line);
        }
    }
    let norms = chosen.iter().map(|&size| {
        let choice = named.iter().find(|(of, _)| *of == size);
        let choice = choice.map(|(_, choice)| *choice);
        (size, sizes::norms(metadata, size, choice))
    });
    let norms: Vec<(u32, NormsFrom)> = norms.collect();
    let Computing { device, precision } = arguments.compute;
    let compute = ExecConfig::resolve(device, precision, metadata.hints()?)?;
    let compute = compute.with_kernels(Fused::Auto);
    let mut by = preprocess::like_training(metadata, chosen, arguments.fraction, |line| say(line));
    by.max_pixels = by.max_pixels.min(MAX_PIXELS);
    RsNet::load(&checkpoint, &norms, by, compute, Folding::Auto)
}

/// What was loaded, and what was measured at the start.
fn profile(device: &Device) -> String {
    let profile = device.profile();
    let milliseconds = |seconds: f64| format!("{:.2}", seconds * 1e3);
    let rows = device.rows.iter().enumerate().map(|(row, at)| {
        let largest = profile.largest(row);
        vec![
            at.name(),
            milliseconds(profile.predict(row, 1)),
            largest.to_string(),
            milliseconds(profile.predict(row, largest)),
            format!("{:.0}", profile.capacity(row)),
        ]
    });
    let header = [
        "size",
        "1 image ms",
        "largest batch",
        "batch ms",
        "images/s",
    ];
    let source = device.network.source();
    let classes = device.network.classes().len();
    let table = table::grid(&header, rows);
    format!("{}: {classes} classes\n{table}", source.as_str().shown())
}
