//! Inverted residual blocks among the modules, which inference on the CPU computes row by row
//! (`native/cpu/inverted.cpp`).

use anyhow::{Context as _, Result};
use tch::Tensor;

use super::modules::{Module, Norm};
use super::pass::Pass;
use super::{Conv, Padding};

/// A convolution, the index of its weight, and its batch norm.
type Normed<'m> = (&'m Conv, usize, &'m Norm);

struct Block<'m> {
    expand: Option<Normed<'m>>,
    /// The depthwise one and the last.
    others: [Normed<'m>; 2],
}

impl Pass<'_> {
    /// If a block begins here that is computed row by row: its output, after the addition of `residual`, and the
    /// modules that follow. `last` is the batch norm of its last convolution, where that is not among the modules.
    pub(super) fn run_inverted<'m>(
        &self,
        modules: &'m [Module],
        last: Option<&'m Norm>,
        x: &Tensor,
        residual: Option<&Tensor>,
        resolution: usize,
    ) -> Result<Option<(Tensor, &'m [Module])>> {
        let Some(folded) = self.folded() else {
            return Ok(None);
        };
        let Some((Block { expand, others }, after)) = block(modules, last) else {
            return Ok(None);
        };
        let at = |(conv, index, norm)| self.at((conv, index), norm, resolution);
        let expand = expand.map(at);
        let [depthwise, project] = others.map(at);
        let y = folded.inverted(expand.as_ref(), [&depthwise, &project], x, residual);
        let y =
            y.with_context(|| format!("in the block of the convolution {:?}", others[0].0.name))?;
        Ok(y.map(|y| (y, after)))
    }
}

fn block<'m>(modules: &'m [Module], last: Option<&'m Norm>) -> Option<(Block<'m>, &'m [Module])> {
    let (expand, rest) = match normed(modules) {
        Some((of, rest)) if is_pointwise(of.0) => (Some(of), rest),
        _ => (None, modules),
    };
    let (depthwise, rest) = normed(rest)?;
    let (project, rest) = match (rest, last) {
        ([Module::Conv { conv, weight }], Some(norm)) => ((conv, *weight, norm), &[][..]),
        (_, Some(_)) => return None,
        (_, None) => normed(rest)?,
    };
    let suits = is_depthwise(depthwise.0) && is_pointwise(project.0);
    let others = [depthwise, project];
    suits.then_some((Block { expand, others }, rest))
}

/// A convolution with its batch norm at the beginning, and what follows.
fn normed(modules: &[Module]) -> Option<(Normed<'_>, &[Module])> {
    match modules {
        [Module::Conv { conv, weight }, Module::Norm(norm), rest @ ..] => {
            Some(((conv, *weight, norm), rest))
        }
        _ => None,
    }
}

fn is_pointwise(conv: &Conv) -> bool {
    let is_padded = !matches!(conv.padding, Padding::Symmetric(0) | Padding::Same);
    (conv.kernel, conv.stride, conv.groups) == (1, 1, 1) && !is_padded
}

fn is_depthwise(conv: &Conv) -> bool {
    conv.kernel == 3 && conv.is_depthwise()
}
