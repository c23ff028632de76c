//! What a user reads when a recipe or an override is wrong.
//!
//! Every `fixtures/broken/NAME.ron` has what `rsflow check` says of it in `NAME.txt`.
//! `UPDATE_EXPECT=1 cargo test --test rsflow` writes those files anew.

mod command_lines;

use std::path::Path;
use std::process::Command;

use expect_test::{ExpectFile, expect_file};
use rsflow::catalogue::CATALOGUE;
use rsflow_graph::{Plan, Recipe, Text};

const FOLDER: &str = "tests/fixtures/broken";
const SOUND: &str = "tests/fixtures/sound.ron";

/// Overrides of the sound recipe; what is said of them is in the file of that name.
const OVERRIDES: &[(&str, &[&str])] = &[
    ("set_node", &["train_bathes.size=8"]),
    ("set_node_far", &["zzz.size=8"]),
    ("set_field", &["train_batches.siez=8"]),
    ("set_field_nested", &["trainer.network.depht=18"]),
    ("set_top_level", &["sed=1", "trainer=3", "quux=1"]),
    ("set_settings", &["seed=x", "cpu_workers=0"]),
    ("set_no_value", &["trainer.epochs", "trainer.epochs="]),
    ("set_no_field", &["trainer.=3", "trainer.network:depth=3"]),
    (
        "set_bad_value",
        &["trainer.epochs=many", "train_batches.size=1.5"],
    ),
    ("set_bad_value_nested", &["trainer.optimizer.lr=fast"]),
    (
        "set_bad_value_inside",
        &["trainer.optimizer=Sgd(lr: 0.1, momentom: 0.5)"],
    ),
    (
        "set_not_ron",
        &[
            "train_batches.size=3)",
            "trainer.epochs=[1,",
            "train_batches.drop_last=not yet",
            "train_sizes.sizes=64,32",
            "val_sizes.sizes=[64, 32",
            "train_crops.scale=0.5,1.0",
            "trainer.network=ResNet(depth: 18",
            "trainer.optimizer=Sgd(lr: 0.1)]",
            "val_batches.size=\"3\"",
        ],
    ),
    ("set_choice", &["trainer.distill=ensemble"]),
    (
        "set_nothing",
        &[
            "trainer.distill=False",
            "trainer.average=False",
            "trainer.optimizer.weight_decay_on=null",
            "train_files.root=null",
        ],
    ),
    (
        "set_calculated",
        &[
            "trainer.optimizer.lr=1/100",
            "trainer.optimizer.momentum=1-0.1",
            "trainer.optimizer.weight_decay=1e-4f",
            "train_batches.size=4*32",
        ],
    ),
    (
        "set_list",
        &[
            "train_sizes.sizes=64",
            "val_sizes.sizes=[64, x]",
            // Text would be one mistake in place of two, but that is not what was meant.
            "trainer.network=ResNet(dept: 18, widht: 8)",
        ],
    ),
    ("set_reference", &["log.input=trainer.metric"]),
    (
        "set_warm_up",
        &["trainer.warm_up_epochs=1", "trainer.epochs=1"],
    ),
    (
        "set_name_in_text",
        &[
            "train_files.root=$data/train",
            "val_files.root=/mnt/$USER/val",
            "val_files.root=$data-set/val",
        ],
    ),
    (
        "set_wrong_for_the_node",
        &["trainer.network.depth=20", "train_batches.size=0"],
    ),
    (
        "set_policy",
        &[
            "train_images.on_error=Skip(budget: 1.5)",
            "val_images.on_error=Skip(budget: many)",
            "train_files.on_error=Skip(budget: -3)",
            "train_files.read_timeout=0",
            "train_files.shard=(rank: 4, world: 4)",
        ],
    ),
    (
        "set_bits",
        &[
            "trainer.network=QuantizedResNet(depth: 20, mode: PreActivation, weight_bits: 9, activation_bits: 0)",
        ],
    ),
    (
        "set_bits_of_no_use",
        &[
            "trainer.network=QuantizedResNet(depth: 18, mode: WeightsOnly, weight_bits: 2, activation_bits: 2)",
        ],
    ),
    (
        "set_basis_of_no_use",
        &[
            "trainer.network=QuantizedResNet(depth: 18, mode: PreActivation, weight_bits: 2, fixed_activation_basis: true)",
        ],
    ),
    ("set_into_a_list", &["train_sizes.sizes.first=3"]),
    ("set_mismatch", &["val_sizes.sizes=[64, 32]"]),
];

const QUICKSTART: &str = "recipes/quickstart.ron";

/// What is said of a recipe, as `rsflow check` writes it. A process takes long to start: one that
/// checks all recipes shows that this is what the program says.
fn said(recipe: &str, overrides: &[&str]) -> Result<(), String> {
    let text = std::fs::read_to_string(root().join(recipe)).unwrap();
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let planned = Recipe::parse(Text::new(recipe, text), CATALOGUE, &overrides);
    match planned.and_then(Plan::new) {
        Ok(_) => Ok(()),
        Err(problems) => Err(problems.render(false)),
    }
}

fn assert_says(recipe: &str, overrides: &[&str], expected: ExpectFile) -> String {
    let said = said(recipe, overrides).expect_err(recipe);
    expected.assert_eq(&said);
    said
}

/// Runs `rsflow check` in the root of the workspace: what it writes to stdout and to stderr, and
/// its exit code.
fn check(arguments: &[&str]) -> (String, String, Option<i32>) {
    rsflow(&[&["check"], arguments].concat())
}

fn rsflow(arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_rsflow"))
        .current_dir(root())
        .args(arguments)
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (out, err, output.status.code())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The recipes of a folder, as paths from the root of the workspace.
fn recipes(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut recipes: Vec<String> = names
        .filter(|name| name.ends_with(".ron"))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    recipes.sort();
    assert!(!recipes.is_empty(), "{folder}");
    recipes
}

#[test]
fn broken_recipes() {
    let recipes = recipes(FOLDER);
    let mut all = String::new();
    for recipe in &recipes {
        let expected = root().join(recipe).with_extension("txt");
        all += &assert_says(recipe, &[], expect_file![expected]);
    }
    let recipes: Vec<&str> = recipes.iter().map(String::as_str).collect();
    assert_eq!(check(&recipes), (String::new(), all, Some(2)));
}

/// What is no mistake, but may not be meant.
#[test]
fn suspicious_recipes() {
    let recipes = recipes("tests/fixtures/suspicious");
    for recipe in &recipes {
        let expected = root().join(recipe).with_extension("txt");
        let (out, err, code) = check(&[recipe]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.starts_with(&format!("{recipe}: ok, ")), "{out}");
        expect_file![expected].assert_eq(&err);
    }
}

#[test]
fn broken_overrides() {
    let expected = |name: &str| root().join(FOLDER).join(name).with_extension("txt");
    for (name, overrides) in OVERRIDES {
        assert_says(SOUND, overrides, expect_file![expected(name)]);
    }
    let (name, overrides) = OVERRIDES[0];
    let said = std::fs::read_to_string(expected(name)).unwrap();
    let arguments = [SOUND, "--set", overrides[0]];
    assert_eq!(check(&arguments), (String::new(), said, Some(2)));
}

/// Devices and precisions in the words of other programs; what a run keeps has the recipe's.
#[test]
fn other_names_of_devices_and_precisions() {
    let text = std::fs::read_to_string(root().join(SOUND)).unwrap();
    for (field, written, kept) in [
        ("device", "cuda", "Cuda(0)"),
        ("device", "cuda:1", "Cuda(1)"),
        ("device", "\"cuda:1\"", "Cuda(1)"),
        ("device", "gpu", "Cuda(0)"),
        ("device", "\"cpu\"", "Cpu"),
        ("device", "Cuda(2)", "Cuda(2)"),
        ("precision", "bf16", "BFloat16"),
        ("precision", "\"bfloat16\"", "BFloat16"),
        ("precision", "fp16", "Float16"),
        ("precision", "fp32", "Float32"),
        ("precision", "tf32", "TensorFloat32"),
        ("exchange", "bf16", "BFloat16"),
    ] {
        let end = "epochs: 2,\n        )";
        assert!(text.contains(end));
        let expected = text.replace(end, &format!("epochs: 2, {field}: {kept},\n        )"));
        let named = text.replace(
            "(\n    nodes",
            &format!("(\n    let: {{\"it\": {written}}},\n    nodes"),
        );
        let with_field = text.replace(end, &format!("epochs: 2, {field}: {written},\n        )"));
        let (start, close) = (with_field.find("RsNet(").unwrap(), "\n        )");
        let node = &with_field[start..][..with_field[start..].find(close).unwrap() + close.len()];
        let named_node = with_field.replace(node, "$node").replace(
            "(\n    nodes",
            &format!("(\n    let: {{\"node\": {node}}},\n    nodes"),
        );
        let argument = format!("trainer.{field}={written}");
        for (text, overrides) in [
            (with_field.clone(), vec![]),
            (named_node, vec![]),
            (text.clone(), vec![argument]),
            (named, vec![format!("trainer.{field}=$it")]),
        ] {
            let recipe = Recipe::parse(Text::new("r.ron", text), CATALOGUE, &overrides);
            let plan = recipe
                .and_then(Plan::new)
                .unwrap_or_else(|it| panic!("{it}"));
            let (found, expected) = (plan.recipe_text(), expected.as_str());
            assert_eq!(found, expected, "{field}: {written} {overrides:?}");
        }
    }
}

/// The field of a value that has a name is set by that name.
#[test]
fn fields_of_values_with_names() {
    let text = std::fs::read_to_string(root().join(SOUND)).unwrap();
    let text = text.replace(
        "(\n    nodes",
        "(\n    let: {\"net\": NET, \"big\": $net},\n    nodes",
    );
    let start = text.find("ResNet(").unwrap();
    let end = start + text[start..].find(')').unwrap() + 1;
    let network = &text[start..end];
    let text = text.replace(network, "$big").replace("NET", network);
    let parse = |overrides: &[String]| {
        let recipe = Recipe::parse(Text::new("r.ron", text.as_str()), CATALOGUE, overrides);
        recipe.map_err(|problems| problems.render(false))
    };
    assert_eq!(parse(&[]).unwrap().paths_to("depth"), ["net.depth"]);
    let refused = parse(&["trainer.network.depth=50".to_owned()]);
    let said = refused.err().unwrap();
    assert!(said.contains("`--set net.depth=...`"), "{said}");
    parse(&["net.depth=50".to_owned()]).unwrap();
}

#[test]
fn sound_overrides() {
    for argument in [
        "seed=3",
        "cpu_workers=2",
        "train_batches.size=8",
        "train_batches.drop_last=true",
        "train_files.root=/somewhere/else",
        "train_files.root=there",
        "train_files.root=2024",
        "train_files.root=\"in quotes, (with) brackets\"",
        "train_sizes.sizes=[64, 48, 32]",
        "train_sizes.sizes=[64, 48, 32] // three",
        "train_batches.size=/* few */ 8",
        "train_crops.scale=(0.5, 1.0)",
        "trainer.distill=None",
        "trainer.network=ResNet(depth: 50)",
        "trainer.network.depth=50",
        "trainer.optimizer.momentum=0.5",
        "trainer.optimizer.weight_decay_on=Weights",
        "trainer.schedule=Linear",
        "trainer.schedule=Step(every: 30)",
        // Not all of them are reached: a shortened run is no mistake.
        "trainer.schedule=Milestones(epochs: [1, 60, 85], gamma: 1.0)",
        "trainer.normalize=(mean: (0.5, 0.5, 0.5), std: (0.2, 0.2, 0.2))",
        "trainer.threads=None",
        "trainer.threads=Some(2)",
        "log.input=trainer.metrics",
        "train_files.on_error=Skip(budget: 3)",
        "train_files.on_error=Skip(budget: 0.001)",
        "train_files.on_error=Skip(budget: 1.0)",
        "train_files.read_timeout=5",
        "train_files.read_timeout=None",
        "train_files=ImageTar(path: \"data/train.tar\", shuffle: true)",
        "train_files=ShapesFolder(root: \"data\", split: Train)",
        "log=TensorBoard(input: \"trainer.metrics\")",
    ] {
        assert_eq!(said(SOUND, &[argument]), Ok(()), "{argument}");
    }
}

/// What is wrong with one recipe does not keep the others from being checked.
#[test]
fn several_recipes() {
    let broken = "tests/fixtures/broken/depth_20.ron";
    let (out, err, code) = check(&[SOUND, broken, "no/such.ron", SOUND]);
    assert_eq!(out, format!("{SOUND}: ok, 12 nodes\n").repeat(2));
    assert!(err.starts_with(&said(broken, &[]).unwrap_err()), "{err}");
    assert!(err.contains("cannot read the recipe no/such.ron"), "{err}");
    assert_eq!(code, Some(2));
}

/// Whatever the text, every problem can be shown.
fn assert_shown(text: &str, overrides: &[String]) {
    let whole = Text::new("broken.ron", text);
    let planned = Recipe::parse(whole, CATALOGUE, overrides).and_then(Plan::new);
    let Err(problems) = planned else { return };
    assert_ne!(problems.list().count(), 0, "{text}");
    for place in problems.places() {
        let is_there = place.text.get(place.start..place.end).is_some();
        assert!(is_there, "{problems}\n{text}");
    }
    assert!(problems.render(false).contains(" --> "), "{text}");
    problems.render(true);
}

/// Cuts texts into words, marks and blanks.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        pieces.push(&rest[..end]);
        rest = &rest[end..];
    }
    pieces
}

#[test]
fn whatever_is_written() {
    let mut random = {
        // Xorshift: the same numbers on every machine.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        }
    };
    let strange = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "\"",
        "'",
        "\\",
        "//",
        "/*",
        "*/",
        "\n",
        "-",
        "1e999",
        "0x",
        "99999999999999999999999999999999999999999",
        "Some",
        "None",
        "ü",
        "日本",
        "$",
        "$sizes",
        "let: {\"sizes\": ",
        "cuda:1",
        "“",
        "\u{0}",
        "r#\"",
        "b'",
        "#![enable(",
        "..=",
        "\t",
        "\r\n",
        "\u{feff}",
        "\u{301}",
    ];
    for name in [recipes("recipes"), recipes(FOLDER)].concat() {
        let text = std::fs::read_to_string(root().join(&name)).unwrap();
        let ships = name.starts_with("recipes");
        for cut in (0..text.len()).step_by(if ships { 7 } else { 97 }) {
            if let (Some(front), Some(back)) = (text.get(..cut), text.get(cut..)) {
                assert_shown(front, &[]);
                assert_shown(back, &[]);
            }
        }
        let pieces = pieces(&text);
        for _ in 0..if ships { 200 } else { 20 } {
            let mut changed = pieces.clone();
            for _ in 0..=random(3) {
                let at = random(changed.len());
                match random(4) {
                    0 => drop(changed.remove(at)),
                    1 => changed.insert(at, changed[at]),
                    2 => changed.insert(at, strange[random(strange.len())]),
                    _ => changed[at] = strange[random(strange.len())],
                }
            }
            assert_shown(&changed.concat(), &[]);
        }
    }
    let sound = std::fs::read_to_string(root().join(SOUND)).unwrap();
    let targets = [
        "seed",
        "trainer.network",
        "trainer.network.depth",
        "trainer.distill",
        "log.input",
        "ü.ü",
    ];
    for target in targets {
        for one in strange {
            for other in strange {
                let overrides = [
                    format!("{target}={one}{other}"),
                    format!("{target}={other}"),
                ];
                assert_shown(&sound, &overrides);
            }
        }
    }
}
