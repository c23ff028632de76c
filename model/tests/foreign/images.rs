//! How images are made for a network, from timm's configuration and the arguments of scripts.

use std::fs;

use rsflow_graph::{Interpolation, Preprocess};
use rsflow_model::exchange::pth::{self, ImageConfig, ImagesFrom, Import};
use rsflow_model::nn::networks::Network;

use super::super::write::{self, Code};
use super::{dict, import, object, state, storages};

const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const HALF: ([f64; 3], [f64; 3]) = ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]);

fn three(of: &[u8; 8]) -> Code {
    let number = [b"G".as_slice(), of].concat();
    write::list(&[number.clone(), number.clone(), number])
}

fn namespace(arguments: &[(&str, Code)]) -> Code {
    let state = object("argparse", "Namespace", write::dict(arguments));
    [state, b"b".to_vec()].concat()
}

#[test]
fn arguments_of_scripts_say_how_images_are_made() {
    let none = || b"N".to_vec();
    let number = |x: f64| [b"G".as_slice(), &x.to_be_bytes()].concat();
    let (half, quarter) = (0.5_f64.to_be_bytes(), 0.25_f64.to_be_bytes());
    let (bilinear, bicubic) = (
        Interpolation::AntialiasedBilinear,
        Interpolation::AntialiasedBicubic,
    );
    let cases = [
        (
            namespace(&[]),
            ImagesFrom::Assumed,
            IMAGENET,
            bilinear,
            0.875,
        ),
        (
            namespace(&[
                ("mean", none()),
                ("interpolation", write::text("")),
                ("crop_pct", none()),
            ]),
            ImagesFrom::Assumed,
            IMAGENET,
            bilinear,
            0.875,
        ),
        (
            namespace(&[
                ("mean", three(&half)),
                ("std", three(&quarter)),
                ("interpolation", write::text("bicubic")),
                ("crop_pct", number(0.95)),
            ]),
            ImagesFrom::Arguments,
            HALF,
            bicubic,
            0.95,
        ),
        // torchvision's second weights.
        (
            namespace(&[
                ("val_resize_size", write::int(232)),
                ("val_crop_size", write::int(224)),
                ("interpolation", write::text("bilinear")),
            ]),
            ImagesFrom::Arguments,
            IMAGENET,
            bilinear,
            224.0 / 232.0,
        ),
        // Impossible values say nothing.
        (
            namespace(&[
                ("mean", write::int(1)),
                (
                    "std",
                    write::list(&[write::int(0), write::int(0), write::int(0)]),
                ),
                ("interpolation", write::text("lanczos")),
                ("crop_pct", number(1.5)),
            ]),
            ImagesFrom::Arguments,
            IMAGENET,
            bilinear,
            0.875,
        ),
        (
            write::dict(&[("crop_pct", number(0.5))]),
            ImagesFrom::Assumed,
            IMAGENET,
            bilinear,
            0.875,
        ),
    ];
    let weights = state();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for (at, (arguments, from, (mean, std), interpolation, fraction)) in
        cases.into_iter().enumerate()
    {
        let code = write::dict(&[("model", dict(&weights, "")), ("args", arguments)]);
        fs::write(&path, write::zip(&code, &storages(&weights))).unwrap();
        let imported = import(&path, None).unwrap();
        assert_eq!(imported.images, from, "{at}");
        let metadata = imported.snapshot.metadata();
        let normalize = metadata.normalize.unwrap();
        assert_eq!((normalize.mean, normalize.std), (mean, std), "{at}");
        let preprocess = metadata.preprocess.unwrap();
        assert_eq!(preprocess.interpolation, interpolation, "{at}");
        assert!((preprocess.fraction - fraction).abs() < 1e-12, "{at}");
        let replaced = imported.replaced_interpolation;
        assert_eq!(replaced.as_deref(), (at == 4).then_some("lanczos"));
    }
}

#[test]
fn a_configuration_of_timm_says_how_images_are_made() {
    let new = r#"{"architecture": "resnet18", "label_names": ["cat", "dog", "fox"], "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "crop_pct": 0.95,
        "input_size": [3, 224, 224], "num_classes": 3}}"#;
    let flat = r#"{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic",
        "crop_pct": 0.95, "label_names": ["cat", "cat", "fox"]}"#;
    let weights = state();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, write::zip(&dict(&weights, ""), &storages(&weights))).unwrap();
    let network = Network::by_name("resnet18").unwrap();
    let names = ["a", "b", "c"].map(str::to_owned);
    for (text, given, fraction, classes) in [
        (new, None, None, ["cat", "dog", "fox"]),
        (new, Some(&names[..]), Some(0.9), ["a", "b", "c"]),
        // Names that are not distinct name no class.
        (flat, None, None, [""; 3]),
    ] {
        let config = ImageConfig::parse(text).unwrap().unwrap();
        let what = Import {
            network: &network,
            resolutions: &[64],
            class_names: given,
            key: None,
            config: Some(&config),
            fraction,
        };
        let imported = pth::import(&path, what).unwrap();
        assert_eq!(imported.images, ImagesFrom::Config);
        let metadata = imported.snapshot.metadata();
        let normalize = metadata.normalize.unwrap();
        assert_eq!((normalize.mean, normalize.std), HALF);
        let expected = Preprocess {
            interpolation: Interpolation::AntialiasedBicubic,
            fraction: fraction.unwrap_or(0.95),
            ..Preprocess::default()
        };
        assert_eq!(metadata.preprocess, Some(expected));
        assert_eq!(metadata.classes, classes);
    }
    assert_eq!(
        ImageConfig::parse(r#"{"model_type": "bert"}"#).unwrap(),
        None
    );
    for (text, expected) in [
        ("{", "not valid JSON"),
        (
            r#"{"mean": [0.5]}"#,
            "`mean` must be three numbers, not [0.5]",
        ),
        (
            r#"{"pretrained_cfg": {"std": "x"}}"#,
            "`std` must be three numbers",
        ),
        (r#"{"std": [0, 1, 1]}"#, "`std` must be positive"),
        (
            r#"{"crop_pct": 1.5}"#,
            "`crop_pct` must be above 0 and at most 1, not 1.5",
        ),
    ] {
        let said = format!("{:#}", ImageConfig::parse(text).unwrap_err());
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
}

/// `AveragedModel` counts its updates.
#[test]
fn averaged_weights_of_torchvision_s_script_are_imported() {
    let weights = state();
    let mut averaged = weights.clone();
    averaged.push(super::Weight {
        name: "n_averaged".to_owned(),
        shape: vec![],
        values: vec![5.0],
    });
    // The counter has no prefix.
    let entries: Vec<(String, Code)> = averaged
        .iter()
        .map(|weight| {
            let prefix = if weight.name == "n_averaged" {
                ""
            } else {
                "module."
            };
            (
                format!("{prefix}{}", weight.name),
                write::tensor(&weight.name, &weight.shape),
            )
        })
        .collect();
    let entries: Vec<(&str, Code)> = entries
        .iter()
        .map(|(n, c)| (n.as_str(), c.clone()))
        .collect();
    let code = write::dict(&[
        ("model", dict(&weights, "")),
        ("model_ema", write::dict(&entries)),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, write::zip(&code, &storages(&averaged))).unwrap();
    let imported = import(&path, Some("model_ema")).unwrap();
    assert_eq!(imported.prefix, "module.");
    assert_eq!(imported.other_keys, ["\"model\""]);
}
