//! The tensors of a network: an ordered list with names, roles and initial values.
//!
//! A network is first *declared* as a list of [`Declaration`]s, which allocates nothing (enough to
//! count parameters), then allocated as [`Parameters`]. Modules hold handles to the same tensors,
//! so values that are loaded here are those the network computes with.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use rsflow_base::keyed;
use tch::{Device, Kind, Tensor};

use crate::nn::compute::ExecConfig;

/// The role of a tensor in the network. Optimizers and quantizers decide by role, never by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The weight of a convolution: `[out_channels, in_channels / groups, height, width]`.
    ConvWeight,
    /// The weight of the classifier: `[classes, features]`.
    LinearWeight,
    /// The bias of the classifier: `[classes]`.
    LinearBias,
    /// The scale (gamma) of a batch norm: `[channels]`.
    BatchNormWeight,
    /// The shift (beta) of a batch norm: `[channels]`.
    BatchNormBias,
    /// A buffer: `[channels]`.
    BatchNormMean,
    /// A buffer: `[channels]`.
    BatchNormVar,
    /// The logits of the ensemble's weights: `[resolutions]`.
    Alpha,
    /// The basis of a weight quantizer, `[out_channels, bits]`, or of an activation quantizer, `[1,
    /// bits]`. A buffer.
    Basis,
    /// The exponential moving average of a basis before zero-debiasing; same shape. For training
    /// only.
    BasisAverage,
    /// The number of updates of a basis: `[1]`. For training only.
    BasisUpdates,
}

impl Role {
    /// Whether it is trained by gradient. All others are buffers.
    pub fn is_trainable(self) -> bool {
        !matches!(self, Role::BatchNormMean | Role::BatchNormVar) && !self.is_quantizer_state()
    }

    /// Whether it is a buffer of a quantizer.
    pub fn is_quantizer_state(self) -> bool {
        matches!(self, Role::Basis | Role::BasisAverage | Role::BasisUpdates)
    }

    pub fn is_needed_for_inference(self) -> bool {
        !matches!(self, Role::BasisAverage | Role::BasisUpdates)
    }
}

/// The distribution of a tensor's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f64),
    /// Mean 0, this standard deviation.
    Normal(f64),
    /// Mean 0, this standard deviation; values beyond two standard deviations are drawn again.
    TruncatedNormal(f64),
    /// Uniform in `[-bound, bound)`.
    Uniform(f64),
    /// Not random: element j of each row is this value times 2^j.
    PowersOfTwo(f64),
}

/// A tensor of a network that is not allocated yet.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its name in checkpoints, `layer1.0.bn1.224.weight`.
    pub name: String,
    pub role: Role,
    /// The resolution that it is private to; `None` if all resolutions share it.
    pub resolution: Option<u32>,
    pub shape: Vec<i64>,
    pub init: Init,
}

impl Declaration {
    pub fn numel(&self) -> u64 {
        self.shape.iter().product::<i64>().unsigned_abs()
    }

    /// Its name in the batch norm of another resolution; its own name if all resolutions share it.
    pub fn name_with_batch_norm(&self, resolution: u32) -> String {
        name_with_batch_norm(&self.name, self.resolution, resolution)
    }
}

fn name_with_batch_norm(name: &str, private_to: Option<u32>, resolution: u32) -> String {
    let parts = name.rsplit_once('.').and_then(|(path, part)| {
        let (layer, _) = path.rsplit_once('.')?;
        Some((layer, part))
    });
    match (private_to, parts) {
        (Some(_), Some((layer, part))) => format!("{layer}.{resolution}.{part}"),
        _ => name.to_owned(),
    }
}

/// The initial values of all tensors of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightInit {
    /// Drawn as declared. A tensor's values depend on the seed and its name alone, so that adding a
    /// layer or a resolution changes no other tensor.
    Random { seed: u64 },
    /// For a network that is about to be loaded from a checkpoint: drawing would take time.
    Zeros,
}

/// A tensor of a network.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in checkpoints.
    pub name: String,
    pub role: Role,
    /// The resolution that it is private to; `None` if all resolutions share it.
    pub resolution: Option<u32>,
    /// A handle; the network's modules hold handles to the same tensor.
    pub tensor: Tensor,
    /// Whether it stays as it is, though its role is one that is trained.
    pub frozen: bool,
}

impl Parameter {
    /// Its name in the batch norm of another resolution; its own name if all resolutions share it.
    pub fn name_with_batch_norm(&self, resolution: u32) -> String {
        name_with_batch_norm(&self.name, self.resolution, resolution)
    }
}

/// All tensors of a network, in the order in which they were declared.
#[derive(Debug)]
pub struct Parameters {
    all: Vec<Parameter>,
    index: HashMap<String, usize>,
    compute: ExecConfig,
}

impl Parameters {
    /// Allocates and initializes the declared tensors, in the dtype and memory format and on the
    /// device of `compute`.
    ///
    /// # Errors
    /// Two declarations of one name; a dtype that is neither float32 nor float64; out of memory.
    pub fn new(
        declarations: &[Declaration],
        compute: ExecConfig,
        start: WeightInit,
    ) -> Result<Self> {
        let ExecConfig { dtype, device, .. } = compute;
        ensure!(
            matches!(dtype, Kind::Float | Kind::Double),
            "parameters must be Float or Double, not {dtype:?}"
        );
        let mut parameters = Self {
            all: Vec::with_capacity(declarations.len()),
            index: HashMap::with_capacity(declarations.len()),
            compute,
        };
        for declaration in declarations {
            let name = declaration.name.clone();
            let tensor = match (start, declaration.init) {
                (WeightInit::Zeros, _) => Tensor::f_zeros(&declaration.shape, (dtype, device)),
                (WeightInit::Random { .. }, Init::Constant(value)) => {
                    Tensor::f_full(&declaration.shape, value, (dtype, device))
                }
                (WeightInit::Random { seed }, init) => {
                    let row = declaration.shape.last().map_or(1, |row| row.unsigned_abs());
                    let values = draw(init, seed, &name, declaration.numel(), row.max(1));
                    Tensor::f_from_slice(&values)
                        .and_then(|t| t.f_reshape(&declaration.shape))
                        // Always drawn as f32, so that a Double network equals a Float one at
                        // first.
                        .and_then(|t| t.f_to_kind(dtype))
                        .and_then(|t| t.f_to_device(device))
                }
            };
            let tensor = tensor
                .map_err(anyhow::Error::from)
                .and_then(|t| compute.to_memory_format(t))
                .and_then(|t| Ok(t.f_set_requires_grad(declaration.role.is_trainable())?))
                .with_context(|| format!("cannot allocate the parameter {name:?}"))?;
            let position = parameters.all.len();
            if parameters.index.insert(name.clone(), position).is_some() {
                bail!("two parameters have the name {name:?}");
            }
            parameters.all.push(Parameter {
                name,
                role: declaration.role,
                resolution: declaration.resolution,
                tensor,
                frozen: false,
            });
        }
        Ok(parameters)
    }

    pub fn compute(&self) -> ExecConfig {
        self.compute
    }

    pub fn device(&self) -> Device {
        self.compute.device
    }

    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter()
    }

    /// Those that are trained by gradient, in order.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.all
            .iter()
            .filter(|p| p.role.is_trainable() && !p.frozen)
    }

    /// Has no gradients computed of these parameters, so that they stay as they are. Statistics of batch norms
    /// are measured nevertheless.
    ///
    /// # Errors
    /// None is left to be trained.
    pub fn freeze(&mut self, frozen: impl Fn(&str) -> bool) -> Result<()> {
        for parameter in &mut self.all {
            if parameter.role.is_trainable() && frozen(&parameter.name) {
                parameter.frozen = true;
                let _ = parameter.tensor.f_set_requires_grad(false)?;
            }
        }
        ensure!(
            self.trainable().next().is_some(),
            "all parameters of the network are frozen"
        );
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&position| &self.all[position])
    }

    /// A handle to the tensor of the parameter `name`.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let parameter = self
            .get(name)
            .with_context(|| format!("no parameter {name:?}"))?;
        Ok(parameter.tensor.shallow_clone())
    }

    /// The gradients of a loss of one element, one per trainable parameter, in order. The gradient
    /// of a parameter that the loss does not depend on is undefined (`defined()` is false).
    ///
    /// They are returned, not accumulated in the parameters as by `backward()`: no `zero_grad`, and
    /// no pass over memory for it.
    pub fn gradients(&self, loss: &Tensor) -> Result<Vec<Tensor>> {
        self.gradients_of(loss, false)
    }

    /// The same with PyTorch's `retain_graph`, for a further backward pass through the same graph.
    pub fn gradients_of(&self, loss: &Tensor, retain_graph: bool) -> Result<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = self.trainable().map(|p| &p.tensor).collect();
        Tensor::f_run_backward(&[loss], &inputs, retain_graph, false)
            .context("the backward pass failed")
    }

    /// Copies tensors into the parameters by name, converting dtype and device: a strict
    /// `load_state_dict`. On an error nothing is copied.
    ///
    /// # Errors
    /// All missing, unknown and mis-shaped tensors, in one message.
    pub fn load<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
        let mut given = vec![None; self.all.len()];
        let mut problems = Vec::new();
        for (name, tensor) in tensors {
            match self.index.get(name) {
                Some(&position) => given[position] = Some(tensor),
                None => problems.push(format!("{name:?} is not in the network")),
            }
        }
        for (parameter, tensor) in self.all.iter().zip(&given) {
            let (name, shape) = (&parameter.name, parameter.tensor.size());
            match tensor {
                None => problems.push(format!("{name:?} is missing")),
                Some(tensor) if tensor.size() != shape => problems.push(format!(
                    "{name:?} must have the shape {shape:?}, not {:?}",
                    tensor.size()
                )),
                Some(_) => {}
            }
        }
        ensure!(
            problems.is_empty(),
            "the tensors do not fit the network: {}",
            join_problems(&problems)
        );
        tch::no_grad(|| {
            for (parameter, tensor) in self.all.iter().zip(given) {
                if let Some(tensor) = tensor {
                    parameter
                        .tensor
                        .shallow_clone()
                        .f_copy_(tensor)
                        .with_context(|| format!("cannot load {:?}", parameter.name))?;
                }
            }
            Ok(())
        })
    }
}

/// Joins the problems with semicolons: the first eight, and how many more there are.
pub(crate) fn join_problems(problems: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = problems
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > SHOWN {
        text.push_str(&format!("; and {} more", problems.len() - SHOWN));
    }
    text
}

fn draw(init: Init, seed: u64, name: &str, elements: u64, row: u64) -> Vec<f32> {
    let mut random = keyed::for_tensor(seed, name);
    (0..elements)
        .map(|index| match init {
            Init::Constant(value) => value as f32,
            Init::Normal(deviation) => {
                let value: f64 = StandardNormal.sample(&mut random);
                (value * deviation) as f32
            }
            Init::TruncatedNormal(deviation) => loop {
                let value: f64 = StandardNormal.sample(&mut random);
                if value.abs() <= 2.0 {
                    break (value * deviation) as f32;
                }
            },
            Init::PowersOfTwo(smallest) => (smallest * 2_f64.powi((index % row) as i32)) as f32,
            Init::Uniform(bound) => ((2.0 * random.random::<f64>() - 1.0) * bound) as f32,
        })
        .collect()
}
