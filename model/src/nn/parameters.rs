//! The tensors of a network: an ordered list with names, roles and initial values.
//!
//! A network is first *declared* as a list of [`Declaration`]s, which costs no memory (counting
//! parameters needs no more), then allocated as [`Parameters`]. Modules hold handles to the same
//! tensors, so what is loaded here is what the network computes with.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use tch::{Device, Kind, Tensor};

use crate::nn::compute::Compute;

/// What a tensor is to the network. Optimizers and quantizers decide by role, never by looking into a
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The weight of a convolution: `[out, in / groups, height, width]`.
    ConvWeight,
    /// The weight of the classifier: `[classes, features]`.
    LinearWeight,
    /// The bias of the classifier: `[classes]`.
    LinearBias,
    /// The scale (gamma) of a batch norm: `[channels]`.
    NormWeight,
    /// The shift (beta) of a batch norm: `[channels]`.
    NormBias,
    /// The running mean of a batch norm: `[channels]`, a buffer.
    NormMean,
    /// The running variance of a batch norm: `[channels]`, a buffer.
    NormVar,
    /// The weights of the ensemble before their softmax: `[resolutions]`.
    Alpha,
    /// The basis of a quantizer of weights, `[output, bits]`, or of activations, `[1, bits]`: a
    /// buffer, which follows what it quantizes.
    Basis,
    /// The running average that a basis is, as if it had begun at zero. Only training needs it.
    BasisAverage,
    /// How often a basis moved: `[1]`. Only training needs it.
    BasisUpdates,
}

impl Role {
    /// Whether gradients train it. The rest are buffers, which the forward pass updates.
    pub fn is_trainable(self) -> bool {
        !matches!(self, Role::NormMean | Role::NormVar) && !self.is_of_quantizer()
    }

    /// Whether it is part of a quantizer's basis.
    pub fn is_of_quantizer(self) -> bool {
        matches!(self, Role::Basis | Role::BasisAverage | Role::BasisUpdates)
    }

    /// Whether a network that is not trained any more needs it.
    pub fn is_needed_to_run(self) -> bool {
        !matches!(self, Role::BasisAverage | Role::BasisUpdates)
    }
}

/// How a tensor's first values are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element is this value.
    Constant(f64),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
    /// Normal around 0 with this standard deviation, drawn again where it is beyond twice that.
    TruncatedNormal(f64),
    /// Uniform in `[-bound, bound)`.
    Uniform(f64),
    /// In each row this value, and twice as much from one element to the next.
    Doubling(f64),
}

/// A tensor that a network needs, before it exists.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its name in checkpoints, `layer1.0.bn1.224.weight`.
    pub name: String,
    /// What it is to the network.
    pub role: Role,
    /// The resolution that it is private to; `None` if all resolutions share it.
    pub resolution: Option<u32>,
    /// Its shape.
    pub shape: Vec<i64>,
    /// How its first values are drawn.
    pub init: Init,
}

impl Declaration {
    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product::<i64>().unsigned_abs()
    }
}

/// Where the first values of all tensors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Drawn as declared. A tensor's values depend on this seed and on its name alone, so that
    /// adding a layer or a resolution moves no other weight.
    Random {
        /// Any number.
        seed: u64,
    },
    /// Zeros: for a network that is about to be loaded, where drawing would be time lost.
    Zero,
}

/// A tensor of a network.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in checkpoints.
    pub name: String,
    /// What it is to the network.
    pub role: Role,
    /// The resolution that it is private to; `None` if all resolutions share it.
    pub resolution: Option<u32>,
    /// A handle to its values; the network's modules hold handles to the same values.
    pub tensor: Tensor,
}

impl Parameter {
    /// The name that it would have as part of another resolution's batch norm; its own name if all
    /// resolutions share it.
    pub fn name_with_norm(&self, norm: u32) -> String {
        let parts = self.name.rsplit_once('.').and_then(|(path, part)| {
            let (layer, _) = path.rsplit_once('.')?;
            Some((layer, part))
        });
        match (self.resolution, parts) {
            (Some(_), Some((layer, part))) => format!("{layer}.{norm}.{part}"),
            _ => self.name.clone(),
        }
    }
}

/// All tensors of a network, in the order in which they were declared.
#[derive(Debug)]
pub struct Parameters {
    all: Vec<Parameter>,
    index: HashMap<String, usize>,
    compute: Compute,
}

impl Parameters {
    /// Allocates what the declarations declare, as `compute` has it.
    ///
    /// # Errors
    /// Two declarations of one name, a kind that is neither `Kind::Float` nor `Kind::Double`, or what
    /// libtorch says (out of memory).
    pub fn new(declarations: &[Declaration], compute: Compute, start: Start) -> Result<Self> {
        let Compute { kind, device, .. } = compute;
        ensure!(
            matches!(kind, Kind::Float | Kind::Double),
            "parameters are kept as Float or Double, not as {kind:?}"
        );
        let mut parameters = Self {
            all: Vec::with_capacity(declarations.len()),
            index: HashMap::with_capacity(declarations.len()),
            compute,
        };
        for declaration in declarations {
            let name = declaration.name.clone();
            let tensor = match (start, declaration.init) {
                (Start::Zero, _) => Tensor::f_zeros(&declaration.shape, (kind, device)),
                (Start::Random { .. }, Init::Constant(value)) => {
                    Tensor::f_full(&declaration.shape, value, (kind, device))
                }
                (Start::Random { seed }, init) => {
                    let row = declaration.shape.last().map_or(1, |row| row.unsigned_abs());
                    let values = draw(init, seed, &name, declaration.elements(), row.max(1));
                    Tensor::f_from_slice(&values)
                        .and_then(|t| t.f_reshape(&declaration.shape))
                        // Always drawn as f32: a Double network starts where a Float one does.
                        .and_then(|t| t.f_to_kind(kind))
                        .and_then(|t| t.f_to_device(device))
                }
            };
            let tensor = tensor
                .map_err(anyhow::Error::from)
                .and_then(|t| compute.lay_out(t))
                .and_then(|t| Ok(t.f_set_requires_grad(declaration.role.is_trainable())?))
                .with_context(|| format!("cannot make the parameter {name:?}"))?;
            let position = parameters.all.len();
            if parameters.index.insert(name.clone(), position).is_some() {
                bail!("two parameters are called {name:?}");
            }
            parameters.all.push(Parameter {
                name,
                role: declaration.role,
                resolution: declaration.resolution,
                tensor,
            });
        }
        Ok(parameters)
    }

    /// How the network computes; all tensors are of its kind, and lie where it computes.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Where every tensor lies.
    pub fn device(&self) -> Device {
        self.compute.device
    }

    /// All tensors, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter()
    }

    /// Those that gradients train, in order.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter().filter(|p| p.role.is_trainable())
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&position| &self.all[position])
    }

    /// A handle to the values of the parameter of that name.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let parameter = self
            .get(name)
            .with_context(|| format!("no parameter {name:?}"))?;
        Ok(parameter.tensor.shallow_clone())
    }

    /// The gradients of a loss (one element), one per trainable parameter, in order. A parameter
    /// that the loss does not depend on has an undefined one (`defined()` is false).
    ///
    /// The gradients are returned, not added up in the parameters: nothing is to be zeroed before
    /// the next step, and no pass over memory is spent on it.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn gradients(&self, loss: &Tensor) -> Result<Vec<Tensor>> {
        self.gradients_of(loss, false)
    }

    /// The same; `keep` keeps what a further backward pass through the same tensors needs.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn gradients_of(&self, loss: &Tensor, keep: bool) -> Result<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = self.trainable().map(|p| &p.tensor).collect();
        Tensor::f_run_backward(&[loss], &inputs, keep, false).context("the backward pass failed")
    }

    /// Copies values in, by name, converting kind and device. Nothing is copied unless every
    /// tensor of the network is given, with its shape, and nothing else is.
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
                    "{name:?} should have the shape {shape:?}, not {:?}",
                    tensor.size()
                )),
                Some(_) => {}
            }
        }
        ensure!(
            problems.is_empty(),
            "the tensors do not fit the network: {}",
            list(&problems)
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

/// The problems, one after the other; of a long list the first ones and how many more there are.
pub(crate) fn list(problems: &[String]) -> String {
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
    // FNV-1a over the seed and the name. Not the standard library's hasher, whose values may
    // change from one release to the next.
    let key = seed
        .to_le_bytes()
        .iter()
        .chain(name.as_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mut random = Xoshiro256PlusPlus::seed_from_u64(key);
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
            Init::Doubling(smallest) => (smallest * 2_f64.powi((index % row) as i32)) as f32,
            Init::Uniform(bound) => ((2.0 * random.random::<f64>() - 1.0) * bound) as f32,
        })
        .collect()
}
