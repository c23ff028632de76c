//! A service that finds the images which look most like another one. It reads names of image files from stdin,
//! a line each, and answers with the nearest of a folder.
//!
//!     cargo run --release --example embedding_service -- best.safetensors photos/ < names

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rsflow_serve::{Budget, Options, RsNet};

/// An embedding of length 1: the product of two is the cosine.
fn embed(net: &RsNet, path: &PathBuf) -> Result<Vec<f32>> {
    let file = std::fs::read(path)?;
    let mut embedding = net
        .embed(&file, Budget::None)
        .with_context(|| path.display().to_string())?;
    let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
    embedding.iter_mut().for_each(|x| *x /= length.max(1e-12));
    Ok(embedding)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().with_context(|| format!("no {name}"));
    let (checkpoint, folder) = (next("checkpoint")?, next("folder")?);
    let net = RsNet::open(checkpoint, &Options::default())?;
    let (files, _) = rsflow_pipeline::images_in(folder.as_ref())?;
    let known = files
        .iter()
        .map(|path| Ok((path, embed(&net, path)?)))
        .collect::<Result<Vec<_>>>()?;
    eprintln!("{} images are known; names, please", known.len());
    for name in std::io::stdin().lock().lines() {
        let asked = match embed(&net, &PathBuf::from(name?)) {
            Ok(asked) => asked,
            Err(error) => {
                eprintln!("{error:#}");
                continue;
            }
        };
        let cosine = |of: &[f32]| of.iter().zip(&asked).map(|(a, b)| a * b).sum::<f32>();
        let mut nearest: Vec<_> = known.iter().map(|(path, of)| (cosine(of), path)).collect();
        nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
        let three = nearest.iter().take(3);
        let lines: Vec<String> = three
            .map(|(cosine, path)| format!("{cosine:.3} {}", path.display()))
            .collect();
        println!("{}", lines.join("\t"));
    }
    Ok(())
}
