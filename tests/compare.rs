//! `rsflow compare`: what is chance and what is not, and what cannot be compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::workplace::{completed, done, rsflow, shared_workplace};

/// Runs of three recipes with two seeds each: `rs`, `sh` with shared batch norms, and networks of one size.
fn runs() -> &'static Path {
    static RUNS: OnceLock<PathBuf> = OnceLock::new();
    RUNS.get_or_init(|| {
        shared_workplace("compare", |folder| {
            let one = |size: &str| {
                let sizes = [
                    format!("train_sizes.sizes=[{size}]"),
                    format!("val_sizes.sizes=[{size}]"),
                ];
                [&sizes[..], &["trainer.distill=None".to_owned()]].concat()
            };
            let recipes = [
                ("rs", Vec::new()),
                ("sh", vec!["trainer.batch_norms=Shared".to_owned()]),
                ("one/48", one("48")),
                ("one/32", one("32")),
            ];
            for (name, sets) in recipes {
                for seed in 0..2 {
                    let dir = format!("{name}/{seed}");
                    let seed = format!("seed={seed}");
                    let mut arguments = vec!["--run-dir", &dir, "--set", &seed];
                    for set in &sets {
                        arguments.extend(["--set", set]);
                    }
                    completed(folder, &arguments);
                }
            }
        })
    })
}

fn compare(arguments: &[&str]) -> (Value, String) {
    let arguments = [&["compare"], arguments].concat();
    let text = done(runs(), &arguments);
    let json = done(runs(), &[&arguments[..], &["--json", "-"]].concat());
    (serde_json::from_str(&json).unwrap(), text)
}

#[test]
fn seeds_of_one_recipe_are_one_row_and_their_difference_is_chance() {
    let (json, text) = compare(&["rs"]);
    assert!(text.contains("what lies between them is chance"), "{text}");
    assert_eq!(json["recipes"].as_array().unwrap().len(), 1);
    assert_eq!(json["images"], 24);
    let recipe = &json["recipes"][0];
    assert_eq!(recipe["runs"].as_array().unwrap().len(), 2);
    // What each run ended with.
    for (at, seed) in [0, 1].into_iter().enumerate() {
        let log = runs().join(format!("rs/{seed}/metrics.jsonl"));
        let log = std::fs::read_to_string(log).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        for (row, column) in [(0, "48"), (1, "32"), (2, "ensemble")] {
            assert_eq!(
                recipe["top1"][column][at], last["rows"][row]["top1"],
                "{column}"
            );
        }
    }
    let again = rsflow(runs(), &["compare", "rs"]);
    let stderr = String::from_utf8_lossy(&again.stderr);
    assert!(
        !stderr.contains("evaluating"),
        "predictions are kept: {stderr}"
    );
}

#[test]
fn recipes_are_compared_and_their_differences_named() {
    let (json, text) = compare(&["rs", "sh", "one/48+one/32"]);
    assert!(
        text.contains("trainer.batch_norms: Shared, was (default)"),
        "{text}"
    );
    let recipes = json["recipes"].as_array().unwrap();
    let names: Vec<&Value> = recipes.iter().map(|recipe| &recipe["name"]).collect();
    assert_eq!(names, ["rs", "sh", "one/48+one/32"]);
    let mean = |values: &Value| {
        let values: Vec<f64> = serde_json::from_value(values.clone()).unwrap();
        values.iter().sum::<f64>() / values.len() as f64
    };
    for recipe in &recipes[1..] {
        assert_eq!(recipe["mean_over"], serde_json::json!([48, 32]));
        for column in ["48", "32"] {
            let above = recipe["above_first"][column]["points"].as_f64().unwrap();
            let expected = mean(&recipe["top1"][column]) - mean(&recipes[0]["top1"][column]);
            assert!((above - expected).abs() < 1e-9, "{column}");
        }
    }
    assert!(
        recipes[2]["top1"]["ensemble"].is_null(),
        "separate networks have none"
    );
}

/// Files of predictions on 1,000 images, of which some are right.
fn files(folder: &Path) {
    let write = |name: &str, right: &dyn Fn(usize) -> bool, class: &dyn Fn(usize) -> usize| {
        let mut text = "image,class,prediction_64,probability_64\n".to_owned();
        for image in 0..1000 {
            let class = class(image);
            let predicted = if right(image) { class } else { 9 };
            writeln!(text, "c{}/{image}.jpg,c{class},c{predicted},0.5", image % 5).unwrap();
        }
        std::fs::write(folder.join(name), text).unwrap();
    };
    let usual = |image: usize| image % 5;
    write("a.csv", &|image| image % 10 < 7, &usual);
    // As good, with some errors on other images.
    write(
        "b.csv",
        &|image| image % 10 < 7 && image >= 20 || image < 14,
        &usual,
    );
    // A hundred more wrong.
    write("c.csv", &|image| image % 10 < 6, &usual);
    // Five more wrong.
    write("k.csv", &|image| image % 10 < 7 && image > 4, &usual);
    // A hundred in other classes.
    let relabelled = |image: usize| (image + usize::from(image < 100)) % 5;
    write("d.csv", &|image| image % 10 < 7, &relabelled);
    std::fs::write(
        folder.join("e.csv"),
        "image,class,prediction_32,probability_32\nx,y,y,1\n",
    )
    .unwrap();
    std::fs::write(
        folder.join("f.csv"),
        "image,class,prediction_64,probability_64\nx,y,y,2\n",
    )
    .unwrap();
    std::fs::write(folder.join("g.csv"), "name,class\nx,y\n").unwrap();
    let twice = "image,class,prediction_64,probability_64\nx,y,y,1\nx,y,y,1\n";
    std::fs::write(folder.join("h.csv"), twice).unwrap();
    let twice =
        "image,class,prediction_64,probability_64,prediction_64,probability_64\nx,y,y,1,y,1\n";
    std::fs::write(folder.join("i.csv"), twice).unwrap();
    std::fs::write(
        folder.join("j.csv"),
        "image,class,prediction_64,probability_64\n",
    )
    .unwrap();
}

/// A second run with the same seed says nothing new, and one on other images is another recipe's.
#[test]
fn seeds_are_counted_once() {
    let mean = |arguments: &[&str]| {
        let (json, _) = compare(arguments);
        json["recipes"].clone()
    };
    let once = mean(&["rs", "sh"]);
    assert_eq!(mean(&["rs", "rs/../rs/0", "sh"]), once);
    let output = rsflow(runs(), &["compare", "rs/0", "rs/../rs/0", "rs/1"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let wanted = "rs/../rs/0 has the recipe and the seed of rs/0: it is left out";
    assert!(stderr.contains(wanted), "{stderr}");
}

#[test]
fn a_mean_is_over_the_sizes_that_both_have() {
    let (json, text) = compare(&["one/48", "rs"]);
    let other = &json["recipes"][1];
    assert_eq!(other["mean_over"], serde_json::json!([48]));
    assert!(
        other["above_first"]["ensemble"].is_null(),
        "the first has none"
    );
    assert!(text.contains("not compared: its sizes 32"), "{text}");
    let few = "One of 24 images is 4.2 points: so few show large differences only.";
    assert!(text.contains(few), "{text}");
    let (_, text) = compare(&["rs", "one/48"]);
    let row = text
        .lines()
        .rfind(|line| line.trim_start().starts_with("one/48  "));
    assert_eq!(row.unwrap().matches('±').count(), 1, "{text}");
    assert!(text.contains(" rs at 48"), "{text}");
}

#[test]
fn chance_and_effect_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    for (other, expected) in [
        (
            "k.csv",
            "0.50 points below a.csv at 64, but they differ on 5 of 1,000 images: of fewer than 6 nothing can be concluded",
        ),
        ("b.csv", "chance may do that, nothing is decided"),
        (
            "c.csv",
            "10.00 points below a.csv at 64 (95 % interval -11.88 to -8.12, by the 100 of 1,000 images on which they \
             differ): more than chance",
        ),
    ] {
        let text = done(folder.path(), &["compare", "a.csv", other]);
        assert!(text.contains(expected), "{other}: {text}");
        assert!(
            text.contains("with another seed the networks would be others"),
            "{text}"
        );
        assert!(!text.contains("points: so few"), "{text}");
    }
}

#[test]
fn what_cannot_be_compared_says_why() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for (arguments, code, wanted) in [
        (
            &["a.csv", "d.csv"][..],
            1,
            "100 of 1,000 images have another class there (c0/0.jpg is of class c1",
        ),
        (
            &["a.csv", "e.csv"],
            1,
            "measured on other images (1 of 1 images, such as x)",
        ),
        (
            &["a.csv", "f.csv"],
            1,
            "line 2: column 4 is not a probability",
        ),
        (
            &["a.csv", "g.csv"],
            1,
            "its first columns must be `image` and `class`",
        ),
        (&["a.csv", "h.csv"], 1, "line 3: the image x is there twice"),
        (&["a.csv", "i.csv"], 1, "each size once"),
        (&["a.csv", "j.csv"], 1, "it has no images"),
        (&["a.csv", "e.csv+"], 2, "e.csv+ is neither"),
        (
            &["a.csv", "empty"],
            2,
            "empty is neither a run directory with a checkpoint",
        ),
        (&["a.csv", "a.csv+none.csv"], 2, "none.csv is neither"),
        (
            &["a.csv"],
            2,
            "there is one run, and nothing to compare it with",
        ),
    ] {
        let output = rsflow(folder.path(), &[&["compare"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
    // Runs of other sizes, and of other seeds.
    for (arguments, code, wanted) in [
        (["one/48", "one/32"], 1, "they have no size in common"),
        (["rs", "one/48+one/32/0"], 2, "must have the same seeds"),
        (["rs", "one+sh"], 2, "one holds 2 recipes"),
    ] {
        let output = rsflow(runs(), &[&["compare"], &arguments[..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
}
