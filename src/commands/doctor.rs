//! `rsflow doctor`: what this machine offers, what is missing, and what to do about it.

use std::io::Write;
use std::net::ToSocketAddrs as _;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_graph::counted;
use rsflow_model::dist::nccl_version;
use rsflow_model::nn::compute::{CPU_BFLOAT16, Cuda, Precision, cpu_bfloat16_is_fast, has_amx};
use rsflow_pipeline::pixels;
use serde_json::json;

use crate::cli::Doctor;
use crate::files::{check_output, is_stdout, write_json};
use crate::launch;

pub fn run(arguments: &Doctor, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        check_output(path, "--json", arguments.force, &[])?;
    }
    let libtorch = rsflow_model::nn::compute::libtorch();
    let cuda = Cuda::open();
    // After libtorch's part for GPUs is loaded, if there is one.
    let nccl = nccl_version();
    let memory = memory();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let simd = simd();
    let bfloat16 = cpu_bfloat16_is_fast()?;
    let resizer = pixels::kernel();
    if let Some(path) = &arguments.json {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "libtorch": libtorch,
            "cpu": {
                "cores": cores,
                "memory_bytes": memory,
                "simd": simd,
                "bfloat16": bfloat16,
            },
            "cuda": cuda.as_ref().ok(),
            "cuda_missing": cuda.as_ref().err().map(|reason| format!("{reason:#}")),
            // For each GPU: null, or why it cannot be used.
            "gpu_problems": cuda.as_ref().map_or_else(
                |_| vec![],
                |cuda| {
                    let all = 0..cuda.gpus.len();
                    all.map(|gpu| cuda.check(gpu).err().map(|reason| format!("{reason:#}"))).collect()
                },
            ),
            "gloo": interface(),
            "nccl": nccl,
            "resize_kernel": resizer,
            "jpeg_decoder": JPEG,
        });
        write_json(path, &value, out)?;
    }
    if is_stdout(arguments.json.as_deref()) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut line = |name: &str, text: String| writeln!(out, "{name:<10} {text}");
    line("rsflow", env!("CARGO_PKG_VERSION").to_owned())?;
    line(
        "libtorch",
        format!(
            "{} in {}, {}",
            libtorch.version.as_deref().unwrap_or(&libtorch.built_for),
            libtorch.folder.as_deref().unwrap_or("an unknown folder"),
            match libtorch.onednn {
                true => "with oneDNN",
                false => "without oneDNN: convolutions are slow on the CPU",
            },
        ),
    )?;
    if let Some(version) = &libtorch.version
        && !version.starts_with(&libtorch.built_for)
    {
        line(
            "",
            format!(
                "this program was built for {}: set LD_LIBRARY_PATH to one of that version, or rebuild",
                libtorch.built_for
            ),
        )?;
    }
    let memory = memory.map_or_else(String::new, |bytes| {
        format!(", {:.0} GiB of memory", bytes as f64 / f64::from(1 << 30))
    });
    line(
        "CPU",
        format!("{}{memory}; {}", counted(cores, "core"), simd.join(", ")),
    )?;
    line(
        "",
        match (std::env::var_os(CPU_BFLOAT16).is_some(), bfloat16) {
            (false, true) => {
                "fast in bfloat16: `precision: Auto` is BFloat16 here, but Float32 for depthwise \
                 convolutions"
                    .to_owned()
            }
            (false, false) => {
                "not faster in bfloat16: `precision: Auto` is Float32 here".to_owned()
            }
            (true, _) => {
                let auto = if bfloat16 { "BFloat16" } else { "Float32" };
                format!("`precision: Auto` is {auto} here, because {CPU_BFLOAT16} is set")
            }
        },
    )?;
    match &cuda {
        Ok(cuda) => {
            let dotted = |version: u32| format!("{}.{}", version / 1000, version % 1000 / 10);
            line(
                "CUDA",
                format!(
                    "driver up to {}, libtorch's {}, cuDNN {}.{}.{}",
                    dotted(cuda.driver),
                    dotted(cuda.runtime),
                    cuda.cudnn / 10000,
                    cuda.cudnn % 10000 / 100,
                    cuda.cudnn % 100
                ),
            )?;
            for (index, gpu) in cuda.gpus.iter().enumerate() {
                let (major, minor) = gpu.capability;
                let usable = match cuda.check(index) {
                    Ok(()) => format!(
                        "`precision: Auto` is {:?}",
                        Precision::of_gpu(gpu.capability)
                    ),
                    Err(reason) => format!("cannot be used: {reason:#}"),
                };
                line(
                    &format!("Cuda({index})"),
                    format!(
                        "{}, {:.1} GiB, compute capability {major}.{minor}; {usable}",
                        gpu.name,
                        gpu.memory as f64 / f64::from(1 << 30),
                    ),
                )?;
            }
        }
        Err(reason) => line("CUDA", format!("no GPU can be used: {reason:#}"))?,
    }
    line(
        "processes",
        match &nccl {
            Some(version) => format!(
                "exchange by NCCL {version} on GPUs, else by Gloo, {}",
                interface()
            ),
            None => format!("exchange by Gloo, {}", interface()),
        },
    )?;
    line("JPEG", JPEG.to_owned())?;
    line("resizing", format!("kernel {resizer}"))?;
    Ok(ExitCode::SUCCESS)
}

const JPEG: &str = "own decoder, with libjpeg-turbo's pixels";

/// Which network processes on several machines use.
fn interface() -> String {
    if let Some(name) = launch::interface() {
        return format!("on the network interface {name} (GLOO_SOCKET_IFNAME)");
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let way_out = "GLOO_SOCKET_IFNAME names a network interface";
    match (name, 0)
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
    {
        Some(address) if address.ip().is_loopback() => format!(
            "on {}, which other machines cannot reach: that is the address of this machine's name, {name}; {way_out}",
            address.ip()
        ),
        Some(address) => format!(
            "on {}, the address of this machine's name, {name}; {way_out}",
            address.ip()
        ),
        None => format!("on this machine alone, whose name {name} has no address; {way_out}"),
    }
}

/// The instruction sets that this program or libtorch uses, the widest last.
fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let all = [
            ("SSE4.1", has!("sse4.1")),
            ("AVX2", has!("avx2")),
            ("FMA", has!("fma")),
            ("AVX-512", has!("avx512f") && has!("avx512bw")),
            ("AVX-512 VNNI", has!("avx512vnni")),
            ("AVX-512 BF16", has!("avx512bf16")),
            ("AMX", has_amx()),
        ];
        let there = all.into_iter().filter(|(_, there)| *there);
        there.map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![std::env::consts::ARCH]
}

/// The machine's memory in bytes; known on Linux only.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
