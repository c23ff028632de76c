//! What the reference implementation calls our tensors.

use crate::nn::networks::Network;
use crate::nn::rs_net::ALPHA;

/// The reference implementation's name of our tensor `name`. Batch norms are counted there, not
/// named by their resolution: `bn1.224.weight` is `bn1.bn_0.weight` where 224 is the first of
/// `sizes`. What is shared is wrapped: `conv1.weight` is `conv1.module.weight`. `None` if the
/// tensor is private to a `resolution` that is not among `sizes`.
pub fn reference_name(
    network: &Network,
    name: &str,
    resolution: Option<u32>,
    sizes: &[u32],
) -> Option<String> {
    if name == ALPHA {
        return Some(name.to_owned());
    }
    let (path, part) = name.rsplit_once('.')?;
    let (path, wrapper) = match resolution {
        None => (path, "module".to_owned()),
        Some(resolution) => {
            let position = sizes.iter().position(|&size| size == resolution)?;
            (path.rsplit_once('.')?.0, format!("bn_{position}"))
        }
    };
    Some(format!("{}.{wrapper}.{part}", network.reference_path(path)))
}

/// The name that our tensor has in a network with one resolution, torchvision's: `bn1.224.weight`
/// is `bn1.weight`. `None` for the ensemble's weights, which it does not have.
pub fn single_name(name: &str, resolution: Option<u32>) -> Option<String> {
    if name == ALPHA {
        return None;
    }
    match resolution {
        None => Some(name.to_owned()),
        Some(_) => {
            let (path, part) = name.rsplit_once('.')?;
            Some(format!("{}.{part}", path.rsplit_once('.')?.0))
        }
    }
}
