//! Stochastic depth and dropout: what is left out of the network in a step.

use anyhow::Result;
use rand::RngExt as _;
use rsflow_base::keyed;

use crate::nn::field_error::FieldError;
use crate::nn::layers::{Drops, factors};
use crate::nn::switchable::SwitchableNetwork;

/// The probabilities, 0 to below 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropping {
    /// Of the last residual branch; that of the others rises to it in equal steps from 0, as in timm.
    pub drop_path: f64,
    /// Of each input of the classifier.
    pub dropout: f64,
}

impl Dropping {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let fields = [("drop_path", self.drop_path), ("dropout", self.dropout)];
        let wrong = fields
            .into_iter()
            .filter(|(_, value)| !(0.0..1.0).contains(value));
        wrong
            .map(|(field, value)| {
                let error = format!("`{field}` must be at least 0 and below 1, not {value}");
                (field, error)
            })
            .collect()
    }

    /// What is left out of a network in a step, for `images` of a process: the same after a resume.
    ///
    /// # Errors
    /// Out of memory.
    pub fn draw(
        &self,
        net: &SwitchableNetwork,
        images: i64,
        seed: u64,
        (step, rank): (u64, u32),
    ) -> Result<Drops> {
        if *self == Dropping::default() {
            return Ok(Drops::default());
        }
        let (branches, features) = net.droppable();
        let compute = net.parameters().compute();
        let draw = |purpose: &str, rows: i64, columns: i64, of_row: &dyn Fn(i64) -> f64| {
            let random = &mut keyed::random(seed, "trainer", purpose, &[step, rank.into()]);
            let mut values = Vec::with_capacity((rows * columns) as usize);
            for row in 0..rows {
                let probability = of_row(row);
                let kept = (1.0 / (1.0 - probability)) as f32;
                values.extend(
                    (0..columns).map(|_| match random.random::<f64>() < probability {
                        true => 0.0,
                        false => kept,
                    }),
                );
            }
            factors(
                &values,
                [rows, columns],
                compute.compute_dtype,
                compute.device,
            )
        };
        let last = (branches - 1).max(1) as f64;
        let of_branch = |branch: i64| self.drop_path * branch as f64 / last;
        let wanted = |probability: f64| probability > 0.0;
        Ok(Drops {
            branches: wanted(self.drop_path)
                .then(|| draw("drop_path", branches, images, &of_branch))
                .transpose()?,
            features: wanted(self.dropout)
                .then(|| draw("dropout", images, features, &|_| self.dropout))
                .transpose()?,
        })
    }
}
