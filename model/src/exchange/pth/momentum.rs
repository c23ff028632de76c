//! The momentum buffers of an optimizer of PyTorch.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use rsflow_base::shown::quoted;
use tch::Tensor;

use super::container::Tensors;
use super::fit::Expected;
use super::import::{Momentum, read_weight};
use super::pickle::Value;
use super::state_dict::StateDict;
use crate::checkpoint::MOMENTUM_PREFIX;
use crate::nn::parameters::join_problems;

/// The momentum buffers under their names in a snapshot. The optimizer numbers the trainable
/// tensors in the order of the state dict.
pub(super) fn read(
    state: &StateDict,
    optimizer: Option<Value>,
    expected: &[Expected],
    tensors: &mut Tensors,
) -> Result<(Vec<(String, Tensor)>, Momentum)> {
    let skipped = |why: String| Ok((Vec::new(), Momentum::Skipped(why)));
    let Some(optimizer) = optimizer else {
        return Ok((Vec::new(), Momentum::Imported(0)));
    };
    let groups = optimizer.get("param_groups").and_then(Value::items);
    let groups: Vec<Value> = groups.map(Iterator::collect).unwrap_or_default();
    let [group] = groups[..] else {
        return skipped(format!(
            "the optimizer has {} parameter groups, so the order of the parameters is unknown",
            groups.len()
        ));
    };
    let ids = group.get("params").and_then(Value::items);
    let ids: Vec<Option<i128>> = ids
        .map(|ids| ids.map(Value::int).collect())
        .unwrap_or_default();
    let trainable: Vec<&str> = state
        .names()
        .filter(|name| !name.ends_with(".running_mean") && !name.ends_with(".running_var"))
        .collect();
    if ids.len() != trainable.len() {
        return skipped(format!(
            "the optimizer has {} parameters, the network {}",
            ids.len(),
            trainable.len()
        ));
    }
    let states = optimizer.get("state").and_then(Value::entries);
    let states: HashMap<Option<i128>, Value> = states
        .map(|states| states.map(|(id, state)| (id.int(), state)).collect())
        .unwrap_or_default();
    let ours: HashMap<&str, &Expected> = expected
        .iter()
        .filter_map(|expected| Some((expected.theirs.as_deref()?, expected)))
        .collect();
    let mut momentum = Vec::new();
    let mut problems = Vec::new();
    for (id, theirs) in ids.iter().zip(trainable) {
        let state = states
            .get(id)
            .and_then(|state| state.get("momentum_buffer"));
        let (Some(buffer), Some(expected)) = (state.and_then(Value::tensor), ours.get(theirs))
        else {
            continue;
        };
        if buffer.shape != expected.shape {
            problems.push(format!(
                "that of {} must have the shape {:?}, not {:?}",
                quoted(theirs),
                expected.shape,
                buffer.shape
            ));
            continue;
        }
        let tensor = read_weight(tensors, &format!("the momentum of {theirs}"), buffer)?;
        momentum.push((format!("{MOMENTUM_PREFIX}{}", expected.ours), tensor));
    }
    ensure!(
        problems.is_empty(),
        "the optimizer's momentum does not fit the network: {}",
        join_problems(&problems)
    );
    let imported = Momentum::Imported(momentum.len());
    Ok((momentum, imported))
}
