//! Dynamic loss scaling for float16, whose small gradients would underflow.
//!
//! "Mixed Precision Training", ICLR 2018, section 3.2, with the rule of PyTorch's `GradScaler`: the
//! scale is halved at each step whose gradients overflow, which is skipped, and doubled after 2000
//! steps without overflow. The state stays on the device; nothing waits for it.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::LossScaleState;
use crate::nn::native::optimizers::unscale;

const INITIAL_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;

/// The loss scale and its state.
#[derive(Debug)]
pub struct LossScale {
    /// float `[1]`.
    scale: Tensor,
    /// Steps since the last change: int `[1]`.
    steps: Tensor,
}

impl LossScale {
    pub fn new(device: Device) -> Result<Self> {
        let state = LossScaleState {
            scale: INITIAL_SCALE,
            steps: 0,
        };
        Self::from_state(state, device)
    }

    pub fn from_state(state: LossScaleState, device: Device) -> Result<Self> {
        Ok(Self {
            scale: Tensor::f_full([1], state.scale, (Kind::Float, device))?,
            steps: Tensor::f_full([1], state.steps, (Kind::Int, device))?,
        })
    }

    /// Its state, on the device.
    pub fn tensors(&self) -> [&Tensor; 2] {
        [&self.scale, &self.steps]
    }

    /// Waits for the device.
    pub fn state(&self) -> Result<LossScaleState> {
        Ok(LossScaleState {
            scale: self.scale.f_double_value(&[0])?,
            steps: self.steps.f_int64_value(&[0])?,
        })
    }

    /// The scaled loss, whose gradients [`LossScale::unscale`] takes.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(loss.f_mul(&self.scale)?)
    }

    /// Divides the gradients by the scale, in place, and updates the scale. Returns the overflow
    /// flag, float `[1]`: 1 if any gradient is not finite and the step must be skipped, else 0.
    pub fn unscale(&mut self, gradients: &[Tensor]) -> Result<Tensor> {
        tch::no_grad(|| {
            let overflow = self.scale.f_zeros_like()?;
            let defined: Vec<&Tensor> = gradients.iter().filter(|g| g.defined()).collect();
            unscale(&defined, &overflow, &self.scale.f_reciprocal()?)?;
            let _ = self.scale.f_internal_amp_update_scale_(
                &self.steps,
                &overflow,
                GROWTH,
                BACKOFF,
                GROWTH_INTERVAL,
            )?;
            Ok(overflow)
        })
    }
}
