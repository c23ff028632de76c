//! Names of devices and precisions, as recipes and other programs write them.

use super::{DeviceChoice, Precision};

impl DeviceChoice {
    /// The device that a name means: `Cuda(1)`, `cuda:1`, `gpu`, `cpu`, in any case. `None` if it is none.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        let gpu = name.strip_prefix("cuda").or(name.strip_prefix("gpu"));
        match (name.as_str(), gpu) {
            ("auto", _) => Some(DeviceChoice::Auto),
            ("cpu", _) => Some(DeviceChoice::Cpu),
            (_, Some("")) => Some(DeviceChoice::Cuda(0)),
            (_, Some(index)) => {
                let in_parentheses = || index.strip_prefix('(')?.strip_suffix(')');
                let index = index.strip_prefix(':').or_else(in_parentheses)?;
                let is_number = index.chars().all(|c| c.is_ascii_digit());
                let index = index.parse().ok().filter(|_| is_number);
                index.map(DeviceChoice::Cuda)
            }
            _ => None,
        }
    }

    /// As recipes write the device of this name.
    pub fn spelling(name: &str) -> Option<String> {
        Self::from_name(name).map(|device| format!("{device:?}"))
    }
}

impl Precision {
    /// The precision that a name means: `BFloat16`, `bfloat16`, `bf16`, in any case. `None` if it is none.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "auto" => Some(Precision::Auto),
            "float32" | "fp32" | "f32" | "float" => Some(Precision::Float32),
            "tensorfloat32" | "tf32" => Some(Precision::TensorFloat32),
            "bfloat16" | "bf16" => Some(Precision::BFloat16),
            "float16" | "fp16" | "f16" | "half" => Some(Precision::Float16),
            _ => None,
        }
    }

    /// As recipes write the precision of this name.
    pub fn spelling(name: &str) -> Option<String> {
        Self::from_name(name).map(|precision| format!("{precision:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_are_known() {
        for (name, expected) in [
            ("cuda", Some("Cuda(0)")),
            ("cuda:1", Some("Cuda(1)")),
            ("Cuda(2)", Some("Cuda(2)")),
            ("gpu", Some("Cuda(0)")),
            ("GPU:3", Some("Cuda(3)")),
            ("CPU", Some("Cpu")),
            ("auto", Some("Auto")),
            ("cuda:", None),
            ("cuda:+1", None),
            ("cuda:x", None),
            ("cuda 1", None),
            ("tpu", None),
        ] {
            let found = DeviceChoice::spelling(name);
            assert_eq!(found.as_deref(), expected, "{name}");
        }
        for (name, expected) in [
            ("bf16", Some("BFloat16")),
            ("bfloat16", Some("BFloat16")),
            ("fp16", Some("Float16")),
            ("fp32", Some("Float32")),
            ("tf32", Some("TensorFloat32")),
            ("int8", None),
        ] {
            let found = Precision::spelling(name);
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}
