//! A camera that must not fall behind: each frame is classified at the largest size that the time left until the
//! next frame allows. Here the frames are the images of a folder, and another program that takes the processor
//! for a while can be watched in the sizes.
//!
//!     cargo run --release --example camera_loop -- best.safetensors photos/ 30

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rsflow_serve::{Budget, Images, Options, RsNet};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().with_context(|| format!("no {name}"));
    let (checkpoint, folder) = (next("checkpoint")?, next("folder")?);
    let per_second: f64 = next("frames a second")?.parse()?;
    ensure!(
        (0.1..=1000.0).contains(&per_second),
        "0.1 to 1000 frames a second"
    );
    let net = RsNet::open(checkpoint, &Options::default())?;
    // Measured before the first frame comes.
    for (size, time) in net.sizes().iter().zip(net.measure()?) {
        eprintln!("{size}: {:.2} ms", 1e3 * time.as_secs_f64());
    }
    let (files, _) = rsflow_pipeline::images_in(folder.as_ref())?;
    ensure!(!files.is_empty(), "{folder} has no images");
    let between = Duration::from_secs_f64(1.0 / per_second);
    let mut logits = vec![0.0; net.runtime().classes().len()];
    // How much longer a pass took lately than it was measured to.
    let mut slower = 1.0_f64;
    let (mut late, start) = (0, Instant::now());
    for (frame, file) in files
        .iter()
        .cycle()
        .take((10.0 * per_second).ceil() as usize)
        .enumerate()
    {
        let due = start + between.mul_f64(frame as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let picture = std::fs::read(file)?;

        let left = (due + between).saturating_duration_since(Instant::now());
        // Decoding takes some of it.
        let budget = Budget::Milliseconds(0.7 * 1e3 * left.as_secs_f64() / slower);
        let size = net.size_within(budget)?;
        let pixels = net.pixels(&picture, size)?;
        let began = Instant::now();
        net.runtime()
            .logits_into(Images::Bytes(&pixels), size, &mut logits)?;
        let took = began.elapsed().as_secs_f64();

        let at = net.sizes().iter().position(|of| *of == size).unwrap_or(0);
        slower = 0.8 * slower + 0.2 * took / net.measure()?[at].as_secs_f64();
        late += u32::from(Instant::now() > due + between);
        let best = net.runtime().top(&logits, 1);
        println!("{frame}\t{size}\t{:.2} ms\t{}", 1e3 * took, best[0].class);
    }
    eprintln!("{late} frames were late");
    Ok(())
}
