//! Classifies all images of a folder, each at the largest size within a budget of multiply-adds.
//!
//!     cargo run --release --example classify_folder -- best.safetensors photos/ 500

use std::time::Instant;

use anyhow::{Context as _, Result};
use rsflow_serve::{Budget, Options, RsNet};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().with_context(|| format!("no {name}"));
    let (checkpoint, folder) = (next("checkpoint")?, next("folder")?);
    let budget = match next("budget") {
        Ok(millions) => Budget::MultiplyAdds((1e6 * millions.parse::<f64>()?) as u64),
        Err(_) => Budget::None,
    };
    let net = RsNet::open(checkpoint, &Options::default())?;
    let size = net.size_within(budget)?;
    eprintln!("sizes {:?}, using {size}", net.sizes());

    let (images, _) = rsflow_pipeline::images_in(folder.as_ref())?;
    let (start, mut done) = (Instant::now(), 0);
    for image in &images {
        // A damaged file is said, and the others are classified all the same.
        match net.classify_file(image, size, 1) {
            Ok(answer) => {
                let best = &answer.predictions[0];
                let percent = 100.0 * best.probability;
                println!("{}\t{}\t{percent:.1} %", image.display(), best.class);
                done += 1;
            }
            Err(error) => eprintln!("{error:#}"),
        }
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    eprintln!("{done} of {} images, {rate:.0} a second", images.len());
    Ok(())
}
