//! The scale of the loss, where gradients are in float16: small ones would vanish.
//!
//! "Mixed Precision Training", ICLR 2018, section 3.2, with the rule of PyTorch's `GradScaler`: the
//! scale is halved at each step whose gradients overflow, which moves no weight, and doubled after
//! 2000 steps without one. All of it stays on the device; nothing waits for it.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::LossScaleState;
use crate::nn::native;

const FIRST: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;

/// The scale at work.
#[derive(Debug)]
pub struct LossScale {
    /// `[1]`, float.
    scale: Tensor,
    /// Steps since it changed: `[1]`, int.
    steps: Tensor,
}

impl LossScale {
    /// As a run starts with it.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(device: Device) -> Result<Self> {
        let state = LossScaleState {
            scale: FIRST,
            steps: 0,
        };
        Self::of(state, device)
    }

    /// As a checkpoint kept it.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn of(state: LossScaleState, device: Device) -> Result<Self> {
        Ok(Self {
            scale: Tensor::f_full([1], state.scale, (Kind::Float, device))?,
            steps: Tensor::f_full([1], state.steps, (Kind::Int, device))?,
        })
    }

    /// Where it stands. Waits for the device.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn state(&self) -> Result<LossScaleState> {
        Ok(LossScaleState {
            scale: self.scale.f_double_value(&[0])?,
            steps: self.steps.f_int64_value(&[0])?,
        })
    }

    /// The loss, scaled: its gradients are to be given to [`LossScale::unscale`].
    ///
    /// # Errors
    /// What libtorch says.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(loss.f_mul(&self.scale)?)
    }

    /// Takes the scale out of the gradients, in place, and moves it by what was found: `[1]`, float,
    /// 1 if any gradient is not finite and the step is to be left out, 0 otherwise.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn unscale(&mut self, gradients: &[Tensor]) -> Result<Tensor> {
        tch::no_grad(|| {
            let overflow = self.scale.f_zeros_like()?;
            let defined: Vec<&Tensor> = gradients.iter().filter(|g| g.defined()).collect();
            native::unscale(&defined, &overflow, &self.scale.f_reciprocal()?)?;
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
