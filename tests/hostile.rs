//! What comes from outside: recipes of any size, names that a terminal would obey, outputs that are
//! somebody's files.

use std::fs;
use std::path::Path;

use rsflow::catalogue::CATALOGUE;
use rsflow_graph::{Plan, Recipe, Text};

use crate::workplace::{RECIPE, done, rsflow, workplace};

/// What is said of a recipe.
fn problems(recipe: &str) -> String {
    let text = Text::new("r.ron", recipe);
    let planned = Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new);
    planned
        .err()
        .map_or_else(String::new, |problems| problems.render(false))
}

fn nodes(nodes: impl IntoIterator<Item = String>) -> String {
    let nodes: String = nodes.into_iter().collect();
    format!("(nodes: {{\n{nodes}}})")
}

/// Each of these took minutes, and printed megabytes, where the cost grew with the square of the size.
#[test]
fn a_recipe_of_any_size_is_checked() {
    let many = 0..10_000;
    let long = "x".repeat(100_000);
    let sizes = vec!["40"; 200_000].join(", ");
    let decode =
        |name: String, input: String| format!("\"{name}\": DecodeImage(input: \"{input}\"),\n");
    let lighting =
        |name: String, input: String| format!("\"{name}\": Lighting(input: \"{input}\"),\n");
    let table = [
        (
            "of one kind, read by nobody",
            nodes(
                many.clone()
                    .map(|n| format!("\"n{n}\": ImageFolder(root: \"x\"),\n")),
            ),
            "and 9950 more problems",
        ),
        (
            "references to nowhere",
            nodes(
                many.clone()
                    .map(|n| decode(format!("n{n}"), format!("m{n}"))),
            ),
            "more problems",
        ),
        (
            "a chain, its end first",
            nodes(
                many.clone()
                    .map(|n| lighting(format!("n{n}"), format!("n{}", n + 1))),
            ),
            "there is no node `n10000`",
        ),
        (
            "a cycle",
            nodes(
                many.clone()
                    .map(|n| lighting(format!("n{n}"), format!("n{}", (n + 1) % 5000))),
            ),
            "these nodes form a cycle: n0 -> n4999 -> n4998",
        ),
        (
            "one name",
            nodes(many.clone().map(|_| decode("n".to_owned(), "n".to_owned()))),
            "two nodes are named `n`",
        ),
        (
            "writers of one file",
            nodes(many.map(|n| format!("\"n{n}\": MetricsLog(input: \"t.metrics\"),\n"))),
            "write `metrics.jsonl`",
        ),
        (
            "one size",
            nodes([format!("\"n\": Resize(input: \"m\", sizes: [{sizes}]),\n")]),
            "size 40 is listed twice",
        ),
        (
            "names in `let`",
            {
                let lets = (0..10_000).map(|n| format!("\"v{n}\": [{n}], "));
                let uses = (0..10_000).map(|n| {
                    let name = ["v", "w"][n % 2];
                    format!("\"n{n}\": Resize(input: \"m\", sizes: ${name}{n}),\n")
                });
                let nodes = nodes(uses);
                nodes.replacen('(', &format!("(let: {{{}}}, ", lets.collect::<String>()), 1)
            },
            "there is no `w1` in `let`",
        ),
        ("open brackets", "(".repeat(1_000_000), "nested too deeply"),
        (
            "brackets in lines",
            " (\n".repeat(300_000) + &")\n".repeat(300_000),
            "nested too deeply",
        ),
        (
            "lists in lists",
            nodes([format!(
                "\"n\": Resize(sizes: {}{}),\n",
                "[".repeat(500_000),
                "]".repeat(500_000)
            )]),
            "nested too deeply",
        ),
        (
            "long names",
            nodes([decode(long.clone(), format!("{long}y"))]),
            "there is no node `xxx",
        ),
    ];
    for (what, recipe, words) in table {
        let said = problems(&recipe);
        assert!(
            said.contains(words),
            "{what}: no {words:?} in {:.2000}",
            said
        );
        assert!(said.len() < 60_000, "{what}: {} bytes", said.len());
    }
}

#[test]
fn a_terminal_gets_no_control_characters() {
    let folder = workplace();
    let path = folder.path();
    let recipe = |text: &str| fs::write(path.join("recipe.ron"), text).unwrap();
    let said = |arguments: &[&str]| {
        let output = rsflow(path, arguments);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            !said.chars().any(|c| c.is_control() && c != '\n'),
            "{arguments:?}: {said:?}"
        );
        said
    };
    let named = RECIPE
        .replacen("\"train_files\"", "\"\u{1b}[31mA\"", 1)
        .replace("\"train_files\"", "\"zzzzzz\"");
    assert_ne!(named, RECIPE);
    recipe(&named);
    assert!(said(&["check", "recipe.ron"]).contains("\\u{1b}[31mA"));
    recipe(&RECIPE.replace("input: \"train_files\"", "input: \"\u{1b}[31mA\u{7}\""));
    assert!(said(&["check", "recipe.ron"]).contains("\\u{1b}[31mA\\u{7}"));
    said(&["check", "no\u{1b}]0;such.ron"]);
    said(&["check", "recipe.ron", "--set", "a\u{1b}[2J.b=1"]);

    // A class folder whose name pretends to be a line of the program.
    recipe(&RECIPE.replace(
        r#"ShapesFolder(root: "shapes", split: Train, shuffle: true, train_images: 84, val_images: 24)"#,
        r#"ImageFolder(root: "faked")"#,
    ));
    let class = path.join("faked/b\nerror: fake \u{1b}[41mline");
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("z\u{1b}[41m.jpg"), "no image").unwrap();
    let said = said(&[
        "profile",
        "recipe.ron",
        "--until",
        "train_batches",
        "--epochs",
        "1",
    ]);
    assert!(said.contains("b\\nerror: fake \\u{1b}[41mline"), "{said}");
    assert!(
        !said.lines().any(|line| line.starts_with("error: fake")),
        "{said}"
    );
}

#[test]
fn an_output_replaces_no_file_unasked_and_no_input_at_all() {
    let folder = workplace();
    let path = folder.path();
    fs::write(path.join("kept"), "mine").unwrap();
    let kept = |file: &str, arguments: &[&str], words: &str| {
        let before = fs::read(path.join(file)).unwrap();
        let output = rsflow(path, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            [Some(1), Some(2)].contains(&output.status.code()),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert_eq!(fs::read(path.join(file)).unwrap(), before, "{arguments:?}");
    };
    let profile = [
        "profile",
        "recipe.ron",
        "--only",
        "pipeline",
        "--epochs",
        "1",
    ];
    let doctor = ["doctor"];
    let summary = ["summary", "recipe.ron"];
    let bench = ["bench", "recipe.ron", "--seconds", "0.01"];
    for command in [&profile[..], &doctor, &summary, &bench] {
        let json = [command, &["--json", "kept"]].concat();
        kept("kept", &json, "kept is there already; --force replaces it");
        if command != doctor {
            let input = [command, &["--json", "recipe.ron", "--force"]].concat();
            kept("recipe.ron", &input, "this command reads it");
        }
    }
    let trace = [&profile[..], &["--trace", "kept"]].concat();
    kept("kept", &trace, "--force replaces it");

    // A temporary name is not opened, whatever it is.
    let victim = path.join("victim");
    fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, path.join(".kept.partial")).unwrap();
    done(
        path,
        &[&summary[..], &["--json", "kept", "--force"]].concat(),
    );
    assert!(is_json(&path.join("kept")));
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
}

fn is_json(path: &Path) -> bool {
    serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).is_ok()
}
