//! The reference implementation's, torchvision's and timm's names of our tensors.

use crate::nn::networks::Network;
use crate::nn::switchable::ALPHA;

/// The reference implementation's name of the tensor `name`. Its batch norms are numbered by the
/// position of their resolution: `bn1.224.weight` is `bn1.bn_0.weight` if 224 is the first of
/// `resolutions`. Shared layers are wrapped: `conv1.weight` is `conv1.module.weight`. `None` if the
/// tensor is private to a `resolution` that is not among `resolutions`.
pub fn reference_name(
    network: &Network,
    name: &str,
    resolution: Option<u32>,
    resolutions: &[u32],
) -> Option<String> {
    if name == ALPHA {
        return Some(name.to_owned());
    }
    let (path, part) = name.rsplit_once('.')?;
    let (path, wrapper) = match resolution {
        None => (path, "module".to_owned()),
        Some(resolution) => {
            let position = resolutions.iter().position(|&r| r == resolution)?;
            (path.rsplit_once('.')?.0, format!("bn_{position}"))
        }
    };
    Some(format!("{}.{wrapper}.{part}", network.reference_path(path)))
}

/// torchvision's name of the tensor `name`: `bn1.224.weight` is `bn1.weight`. `None` for alpha.
pub fn torchvision_name(name: &str, resolution: Option<u32>) -> Option<String> {
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

/// timm's name of the tensor `name`: `features.2.conv.0.0.weight` is `blocks.1.0.conv_pw.weight` in
/// MobileNetV2; those of residual networks are torchvision's. `None` for alpha.
pub fn timm_name(network: &Network, name: &str, resolution: Option<u32>) -> Option<String> {
    let name = torchvision_name(name, resolution)?;
    let (path, part) = name.rsplit_once('.')?;
    Some(format!("{}.{part}", network.timm_path(path)))
}
