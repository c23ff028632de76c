//! `--set`: where a value goes in the recipe's text, and where its mistakes are shown.

mod toy;

use expect_test::{Expect, expect};
use rsflow_graph::{Plan, Problems, Recipe, Text};
use toy::CATALOGUE;

fn parse(text: &str, overrides: &[&str]) -> Result<Recipe, Problems> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::parse(Text::new("r.ron", text), CATALOGUE, &overrides)
}

#[test]
fn values_go_where_they_belong() {
    for (text, overrides, expected) in [
        // In place of an old value.
        ("a: Count(to: 3)", &["a.to=4"][..], "a: Count(to: 4)"),
        (
            "a: Count( to : /* three */ 3 , )",
            &["a.to=4"],
            "a: Count( to : /* three */ 4 , )",
        ),
        ("a: Count(to: 3)", &["a.to = 40"], "a: Count(to: 40)"),
        (
            "a: Count(to: 3)",
            &["a.to=4", "a.to=50"],
            "a: Count(to: 50)",
        ),
        // Behind the last field.
        (
            "a: Count(to: 3)",
            &["a.shuffle=true"],
            "a: Count(to: 3, shuffle: true)",
        ),
        (
            "a: Count(to: 3,)",
            &["a.shuffle=true"],
            "a: Count(to: 3, shuffle: true,)",
        ),
        (
            "a: Count(\n to: 3, // shuffle: false)\n)",
            &["a.shuffle=true"],
            "a: Count(\n to: 3, shuffle: true, // shuffle: false)\n)",
        ),
        (
            "a: Count(\n to: 3 // three\n)",
            &["a.shuffle=true"],
            "a: Count(\n to: 3, shuffle: true // three\n)",
        ),
        // Where there are no fields yet.
        ("a: Count()", &["a.to=4"], "a: Count(to: 4)"),
        (
            "a: Count( /* none */ )",
            &["a.to=4"],
            "a: Count( /* none */ to: 4)",
        ),
        ("a: Count", &["a.to=4"], "a: Count(to: 4)"),
        (
            "a: Count",
            &["a.to=4", "a.shuffle=true"],
            "a: Count(to: 4, shuffle: true)",
        ),
        // What is no RON, or has to be one, is text.
        (
            "a: Noise(input: \"x\")",
            &["a.input=y"],
            "a: Noise(input: \"y\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=y.z"],
            "a: Noise(input: \"y.z\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=2024"],
            "a: Noise(input: \"2024\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=/y//z"],
            "a: Noise(input: \"/y//z\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=say \"y\""],
            "a: Noise(input: \"say \\\"y\\\"\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=\"y\""],
            "a: Noise(input: \"y\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.input=y\", skip: 3"],
            "a: Noise(input: \"y\\\", skip: 3\")",
        ),
        (
            "a: Noise(input: \"x\")",
            &["a.fail=[1, 2]"],
            "a: Noise(input: \"x\", fail: [1, 2])",
        ),
    ] {
        let text = text.replacen("a:", "\"a\":", 1);
        let expected = expected.replacen("a:", "\"a\":", 1);
        let recipe = parse(&format!("(nodes: {{ {text} }})"), overrides);
        let recipe = recipe.unwrap_or_else(|problems| panic!("{overrides:?}: {problems}"));
        assert_eq!(
            recipe.text().resolved(),
            format!("(nodes: {{ {expected} }})")
        );
    }
}

#[test]
fn fields_of_the_recipe_itself() {
    for (text, argument, expected) in [
        ("(seed: 1, nodes: {})", "seed=2", "(seed: 2, nodes: {})"),
        ("(nodes: {},)", "seed=2", "(nodes: {}, seed: 2,)"),
        (
            "(nodes: {})",
            "cpu_workers=None",
            "(nodes: {}, cpu_workers: None)",
        ),
        (
            "(nodes: {}, cpu_workers: 3)",
            "cpu_workers=Auto",
            "(nodes: {}, cpu_workers: Auto)",
        ),
    ] {
        let recipe = parse(text, &[argument]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(recipe.text().resolved(), expected);
    }
}

fn assert_says(text: &str, overrides: &[&str], expected: Expect) {
    let planned = parse(text, overrides).and_then(Plan::new);
    let problems = planned.err().expect("a recipe that is wrong");
    expected.assert_eq(&problems.render(false));
}

const SOUND: &str = r#"(nodes: { "a": Count(to: 3), "b": Keep(input: "a") })"#;

#[test]
fn mistakes_are_shown_in_the_argument() {
    assert_says(
        SOUND,
        &["a.to=Three"],
        expect![[r#"
        error: `to` must be an integer
         --> command line:1:6
          |
        1 | a.to=Three
          |      ^^^^^ this is not in quotes
    "#]],
    );
    assert_says(
        SOUND,
        &["a.to=-3", "a.shufle=true", "b.input=c"],
        expect![[r#"
        error: `to` must be at least 0
         --> command line:1:6
          |
        1 | a.to=-3
          |      ^^ too small

        error: `Count` has no field `shufle`
         --> command line:1:3
          |
        1 | a.shufle=true
          |   ^^^^^^ unknown field
          |
        help: did you mean `shuffle`?

        error: there is no node `c`
         --> command line:1:9
          |
        1 | b.input=c
          |         ^ unknown node
          |
        help: nodes that yield numbers: `a`
    "#]],
    );
    assert_says(
        SOUND,
        &["a.shuffle=[false, true]"],
        expect![[r#"
        error: `shuffle` must be true or false
         --> command line:1:11
          |
        1 | a.shuffle=[false, true]
          |           ^^^^^^^^^^^^^ this is a list
    "#]],
    );
    // The node finds it out itself.
    assert_says(
        SOUND,
        &["a.to=0"],
        expect![[r#"
        error: there is nothing to count
         --> command line:1:6
          |
        1 | a.to=0
          |      ^
          |
        help: use at least 1
    "#]],
    );
}

#[test]
fn an_override_replaces_a_mistake() {
    let text = SOUND.replace("to: 3", "to: \"three\"");
    assert!(parse(&text, &["a.to=3"]).and_then(Plan::new).is_ok());
}

#[test]
fn mistakes_of_the_file_stay_in_the_file() {
    let text = SOUND.replace("input: \"a\"", "input: \"aa\"");
    assert_says(
        &text,
        &["a.shuffle=true", "a.to=12345"],
        expect![[r#"
        error: there is no node `aa`
         --> r.ron:1:48
          |
        1 | (nodes: { "a": Count(to: 3), "b": Keep(input: "aa") })
          |                                                ^^ unknown node
          |
        help: nodes that yield numbers: `a`
    "#]],
    );
}
