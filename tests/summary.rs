//! `rsflow summary`: what the recipes' networks cost, against the published figures.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::workplace::{completed, done, rsflow, workplace};

fn summary(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rsflow"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("summary")
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs it and expects it to succeed: what it writes to stdout.
fn summarized(arguments: &[&str]) -> String {
    let output = summary(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_recipes_have_the_published_numbers() {
    let sizes = ["224", "192", "160", "128", "96"];
    // The whole without alpha, what all resolutions share, and the millions of multiply-adds.
    let table = [
        (
            "resnet18_kd",
            "11,727,912",
            "11,679,912",
            [1814.1, 1332.9, 925.8, 592.7, 333.6],
        ),
        (
            "resnet50_kd",
            "25,769,512",
            "25,503,912",
            [4089.2, 3004.8, 2087.3, 1336.6, 752.7],
        ),
        (
            "mobilenetv2_kd",
            "3,641,320",
            "3,470,760",
            [300.8, 221.3, 154.1, 99.1, 56.3],
        ),
    ];
    for (recipe, total, shared, multiply_adds) in table {
        let said = summarized(&[&format!("recipes/{recipe}.ron")]);
        for line in [
            format!("the whole, without alpha   {total}"),
            format!("shared by all resolutions  {shared}"),
            "alpha                      5".to_owned(),
        ] {
            assert!(said.lines().any(|found| found == line), "{line}\n{said}");
        }
        let rows: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for (size, millions) in sizes.iter().zip(multiply_adds) {
            let row = rows.iter().find(|row| row.first() == Some(size)).unwrap();
            assert_eq!(
                row[1..3],
                [format!("{millions:.1}"), "M".to_owned()],
                "{said}"
            );
        }
    }
}

#[test]
fn the_json_has_every_number_exactly() {
    let recipe = "recipes/individual_resnet18.ron";
    let expected = json!({
        "network": { "ResNet": { "depth": 18, "width": 64 } },
        "classes": 1000,
        "resolutions": [{
            "resolution": 224,
            "batch_norm": 224,
            "multiply_adds": 1_814_073_344_u64,
            "bit_operations": 1_814_073_344_u64 * 1024,
            "parameters": 11_689_512,
            "private_parameters": 9600,
            "float32_bytes": 4 * (11_689_512 + 9600),
            "packed_bytes": 4 * (11_689_512 + 9600),
        }],
        "shared_parameters": 11_679_912,
        "total_parameters": 11_689_512,
        "packed_bytes": 4 * (11_689_512 + 9600),
        "alpha": 1,
    });
    let to_stdout = summarized(&[recipe, "--json", "-"]);
    assert_eq!(serde_json::from_str::<Value>(&to_stdout).unwrap(), expected);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("summary.json");
    std::fs::write(&file, "what was there").unwrap();
    let table = summarized(&[recipe, "--force", "--json", file.to_str().unwrap()]);
    assert_eq!(table, summarized(&[recipe]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), to_stdout);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // A device stays one.
    summarized(&[recipe, "--json", "/dev/null"]);
    assert!(!Path::new("/dev/null").is_file());
}

#[test]
fn overrides_count() {
    let recipe = "recipes/individual_resnet18.ron";
    let sizes = ["train_sizes.sizes=[64, 32]", "val_sizes.sizes=[64, 32]"];
    let set = [recipe, "--json", "-", "--set", sizes[0], "--set", sizes[1]];
    let classes = ["--set", "trainer.classes=10"];
    let said: Value = serde_json::from_str(&summarized(&[&set[..], &classes].concat())).unwrap();
    assert_eq!(said["resolutions"][1]["resolution"], 32);
    assert_eq!(said["total_parameters"], 11_689_512 + 9600 - 990 * 513);
}

/// A run directory and its checkpoint say the same as the recipe.
#[test]
fn trained_networks_have_the_numbers_of_their_recipes() {
    let folder = workplace();
    let folder = folder.path();
    for (name, set) in [("private", "Private"), ("shared", "Shared")] {
        let set = format!("trainer.batch_norms={set}");
        let recipe = done(
            folder,
            &["summary", "recipe.ron", "--json", "-", "--set", &set],
        );
        let set = ["--set", &set, "--set", "trainer.epochs=1"];
        completed(folder, &[&set[..], &["--run-dir", name]].concat());
        let checkpoint = format!("{name}/checkpoints/last.safetensors");
        for trained in [name, &checkpoint] {
            assert_eq!(
                done(folder, &["summary", trained, "--json", "-"]),
                recipe,
                "{trained}"
            );
        }
    }
    // Without a checkpoint a run has its recipe.
    std::fs::remove_dir_all(folder.join("shared/checkpoints")).unwrap();
    let classes = done(folder, &["summary", "shared"]);
    assert!(classes.contains("shared by all resolutions"), "{classes}");
    for (arguments, words) in [
        (
            &["private", "--set", "trainer.epochs=3"][..],
            "--set changes a recipe",
        ),
        (
            &["shapes"],
            "shapes is a folder without checkpoints/best.safetensors",
        ),
        (&["no.safetensors"], "no.safetensors"),
    ] {
        let output = rsflow(folder, &[&["summary"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(words), "`{words}` is not in {stderr}");
    }
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let without = folder.path().join("no_trainer.ron");
    let recipe = std::fs::read_to_string("recipes/quickstart.ron").unwrap();
    let lines = recipe
        .lines()
        .filter(|line| line.contains("\"train_files\""));
    let nodes = lines.collect::<String>();
    std::fs::write(&without, format!("(nodes: {{{nodes}}})")).unwrap();

    let depth = [
        "recipes/resnet18_kd.ron",
        "--set",
        "trainer.network.depth=20",
    ];
    let nowhere = ["recipes/resnet18_kd.ron", "--json", "no/such/folder.json"];
    let two = folder.path().join("two.ron");
    let kd = std::fs::read_to_string("recipes/resnet18_kd.ron").unwrap();
    let trainer = &kd[kd.find("\"trainer\": RsNet").unwrap()..kd.find("\"checkpoints\":").unwrap()];
    let second = trainer.replace("\"trainer\":", "\"second\":");
    let more = format!(
        "{second} \"second_log\": MetricsLog(input: \"second.metrics\"), \
         \"second_checkpoints\": Checkpoints(input: \"second.checkpoints\"), \"checkpoints\":"
    );
    std::fs::write(&two, kd.replace("\"checkpoints\":", &more)).unwrap();

    let cases: [(&[&str], i32, &str); 5] = [
        (&["no/such.ron"], 2, "cannot read the recipe no/such.ron"),
        (&[without.to_str().unwrap()], 2, "unread output"),
        (
            &[two.to_str().unwrap()],
            2,
            "both `second_log` and `log` write `metrics.jsonl` in the run directory",
        ),
        (
            &depth,
            2,
            "`depth` must be one of 18, 34, 50, 101, 152, not 20",
        ),
        (
            &nowhere,
            1,
            "cannot write no/such/folder.json: its folder does not exist; --json names another file",
        ),
    ];
    for (arguments, code, words) in cases {
        let output = summary(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "`{words}` is not in {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
