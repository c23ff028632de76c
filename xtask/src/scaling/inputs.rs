//! The inputs of the model: a JSON file in which each value says where it comes from.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::model::{Bucket, Cluster, Link, Network};
use super::simulation::Jitter;

/// All inputs, checked and in SI units.
#[derive(Debug)]
pub struct Inputs {
    pub networks: Vec<Network>,
    pub fabrics: Vec<Fabric>,
    pub data: Data,
    pub jitter: Jitter,
    pub seed: u64,
    /// Of each simulation.
    pub steps: u32,
    /// Every value of the file, in its order.
    pub entries: Vec<Entry>,
}

/// A way to connect nodes.
#[derive(Debug)]
pub struct Fabric {
    pub name: String,
    pub cluster: Cluster,
}

/// What reading and decoding images takes.
#[derive(Debug)]
pub struct Data {
    /// Mean size of a file.
    pub image_bytes: f64,
    /// Images that one core decodes and resizes to all resolutions, per second.
    pub images_per_core_s: f64,
    pub cores_per_node: f64,
}

/// A value of the file, for the list of those that were assumed.
#[derive(Debug)]
pub struct Entry {
    /// `networks.images_per_second`
    pub field: String,
    /// Of the network or the fabric; else empty.
    pub owner: String,
    pub value: String,
    pub tag: Tag,
    pub source: String,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tag {
    Measured,
    Assumed,
    /// It follows from the networks' layers.
    Counted,
}

/// The file. Fields carry their units.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    networks: Vec<NetworkFields>,
    node: NodeFields,
    fabrics: Vec<FabricFields>,
    data: DataFields,
    jitter: JitterFields,
    simulation: SimulationFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<T> {
    value: T,
    tag: Tag,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFields {
    name: String,
    gradient_mb: Input<f64>,
    statistics_mb: Input<f64>,
    multiply_adds_m: Input<f64>,
    multiply_adds_224_m: Input<f64>,
    images_per_second: Input<f64>,
    launch_ms: Input<f64>,
    backward_share: Input<f64>,
    buckets: Input<Vec<BucketFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BucketFields {
    bytes: f64,
    ready: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFields {
    gpus: Input<u32>,
    bus_gb_per_s: Input<f64>,
    hop_us: Input<f64>,
    cores: Input<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FabricFields {
    name: String,
    nics: Input<u32>,
    gb_per_s: Input<f64>,
    hop_us: Input<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFields {
    image_kb: Input<f64>,
    images_per_core_second: Input<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JitterFields {
    coefficient_of_variation: Input<f64>,
    pause_probability: Input<f64>,
    pause_ms: Input<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimulationFields {
    seed: u64,
    steps: u32,
}

/// Reads and checks a file.
pub fn read(path: &Path) -> Result<Inputs> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// Checks the text of a file. An error names the field and its value, or the line.
pub fn parse(text: &str) -> Result<Inputs> {
    let file: File = serde_json::from_str(text).map_err(|error| {
        let line = text.lines().nth(error.line().saturating_sub(1));
        anyhow::anyhow!("{error}: {}", line.unwrap_or_default().trim())
    })?;
    let mut ledger = Ledger::default();
    let networks: Vec<Network> = file
        .networks
        .into_iter()
        .map(|fields| network(fields, &mut ledger))
        .collect::<Result<_>>()?;
    ensure!(!networks.is_empty(), "`networks` must not be empty");

    ledger.enter("node", "");
    let gpus_per_node = ledger.count("gpus", file.node.gpus)?;
    let inside = Link {
        bytes_per_s: 1e9 * ledger.positive("bus_gb_per_s", file.node.bus_gb_per_s)?,
        hop_s: 1e-6 * ledger.not_negative("hop_us", file.node.hop_us)?,
    };
    let cores_per_node = f64::from(ledger.count("cores", file.node.cores)?);

    let mut fabrics = Vec::new();
    for fields in file.fabrics {
        ledger.enter("fabrics", &fields.name);
        let nics = f64::from(ledger.count("nics", fields.nics)?);
        let between = Link {
            bytes_per_s: 1e9 * nics * ledger.positive("gb_per_s", fields.gb_per_s)?,
            hop_s: 1e-6 * ledger.not_negative("hop_us", fields.hop_us)?,
        };
        fabrics.push(Fabric {
            name: fields.name,
            cluster: Cluster {
                gpus_per_node,
                inside,
                between,
            },
        });
    }
    ensure!(!fabrics.is_empty(), "`fabrics` must not be empty");

    ledger.enter("data", "");
    let speed = file.data.images_per_core_second;
    let data = Data {
        image_bytes: 1e3 * ledger.positive("image_kb", file.data.image_kb)?,
        images_per_core_s: ledger.positive("images_per_core_second", speed)?,
        cores_per_node,
    };

    ledger.enter("jitter", "");
    let variation = file.jitter.coefficient_of_variation;
    let jitter = Jitter {
        variation: ledger.not_negative("coefficient_of_variation", variation)?,
        pause_probability: ledger.share("pause_probability", file.jitter.pause_probability)?,
        pause_s: 1e-3 * ledger.not_negative("pause_ms", file.jitter.pause_ms)?,
    };

    let SimulationFields { seed, steps } = file.simulation;
    ensure!(steps > 0, "`simulation.steps` must be at least 1");
    Ok(Inputs {
        networks,
        fabrics,
        data,
        jitter,
        seed,
        steps,
        entries: ledger.entries,
    })
}

fn network(fields: NetworkFields, ledger: &mut Ledger) -> Result<Network> {
    ledger.enter("networks", &fields.name);
    let all = ledger.positive("multiply_adds_m", fields.multiply_adds_m)?;
    let largest = ledger.positive("multiply_adds_224_m", fields.multiply_adds_224_m)?;
    if all < largest {
        let at = ledger.path("multiply_adds_m");
        bail!("`{at}` must be at least `multiply_adds_224_m`, it is {all}");
    }
    Ok(Network {
        gradients: 1e6 * ledger.positive("gradient_mb", fields.gradient_mb)?,
        statistics: 1e6 * ledger.not_negative("statistics_mb", fields.statistics_mb)?,
        ratio: all / largest,
        images_per_s: ledger.positive("images_per_second", fields.images_per_second)?,
        launch_s: 1e-3 * ledger.not_negative("launch_ms", fields.launch_ms)?,
        backward: ledger.share("backward_share", fields.backward_share)?,
        buckets: ledger.buckets(fields.buckets)?,
        name: fields.name,
    })
}

/// Checks values, and remembers where they come from.
#[derive(Default)]
struct Ledger {
    section: &'static str,
    owner: String,
    entries: Vec<Entry>,
}

impl Ledger {
    fn enter(&mut self, section: &'static str, owner: &str) {
        self.section = section;
        owner.clone_into(&mut self.owner);
    }

    fn path(&self, field: &str) -> String {
        let parts = [self.section, &self.owner, field];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(".")
    }

    fn positive(&mut self, field: &str, input: Input<f64>) -> Result<f64> {
        self.checked(field, input, |value| value > 0.0, "above 0")
    }

    fn not_negative(&mut self, field: &str, input: Input<f64>) -> Result<f64> {
        self.checked(field, input, |value| value >= 0.0, "at least 0")
    }

    fn share(&mut self, field: &str, input: Input<f64>) -> Result<f64> {
        let is_share = |value| (0.0..=1.0).contains(&value);
        self.checked(field, input, is_share, "from 0 to 1")
    }

    fn count(&mut self, field: &str, input: Input<u32>) -> Result<u32> {
        self.checked(field, input, |value| value > 0, "at least 1")
    }

    fn checked<T: Copy + Display>(
        &mut self,
        field: &str,
        input: Input<T>,
        holds: impl Fn(T) -> bool,
        range: &str,
    ) -> Result<T> {
        let Input { value, tag, source } = input;
        if !holds(value) {
            bail!("`{}` must be {range}, it is {value}", self.path(field));
        }
        self.note(field, value.to_string(), tag, source);
        Ok(value)
    }

    fn buckets(&mut self, input: Input<Vec<BucketFields>>) -> Result<Vec<Bucket>> {
        let at = self.path("buckets");
        let buckets: Vec<Bucket> = input
            .value
            .iter()
            .map(|&BucketFields { bytes, ready }| Bucket { bytes, ready })
            .collect();
        for (index, bucket) in buckets.iter().enumerate() {
            for (field, value) in [("bytes", bucket.bytes), ("ready", bucket.ready)] {
                if !(0.0..=1.0).contains(&value) {
                    bail!("`{at}[{index}].{field}` must be from 0 to 1, it is {value}");
                }
            }
        }
        let whole: f64 = buckets.iter().map(|bucket| bucket.bytes).sum();
        if (whole - 1.0).abs() > 0.005 {
            bail!("`bytes` of `{at}` must add up to 1, they add up to {whole:.3}");
        }
        if !buckets.is_sorted_by_key(|bucket| bucket.ready) {
            bail!("`ready` of `{at}` must not decrease from one bucket to the next");
        }
        let shown = buckets
            .iter()
            .map(|Bucket { bytes, ready }| format!("{bytes} at {ready}"))
            .collect::<Vec<_>>();
        self.note("buckets", shown.join(", "), input.tag, input.source);
        Ok(buckets)
    }

    fn note(&mut self, field: &str, value: String, tag: Tag, source: String) {
        self.entries.push(Entry {
            field: format!("{}.{field}", self.section),
            owner: self.owner.clone(),
            value,
            tag,
            source,
        });
    }
}

#[cfg(test)]
mod tests;
