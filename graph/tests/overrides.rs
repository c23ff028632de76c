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

/// The text after overrides, and the one that a run keeps.
fn texts(text: &str, overrides: &[&str]) -> (String, String) {
    let recipe = parse(text, overrides).unwrap_or_else(|problems| panic!("{problems}"));
    let written = recipe.text().written().to_owned();
    let plan = Plan::new(recipe).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(plan.written(), written);
    (written, plan.recipe_text().to_owned())
}

const WITH_LET: &str = r#"(
    // How many.
    let: {"many": 3, "skipped": [$many, 7]}, // both
    nodes: {
        "a": Count(to: $many), // three
        "b": Noise(input: "a", fail: $skipped),
        "c": Keep(input: "b"),
    },
)"#;

#[test]
fn values_of_let_are_put_in_place() {
    let (written, kept) = texts(WITH_LET, &[]);
    assert_eq!(written, WITH_LET);
    let expected = r#"(
    // How many.
     // both
    nodes: {
        "a": Count(to: 3), // three
        "b": Noise(input: "a", fail: [3, 7]),
        "c": Keep(input: "b"),
    },
)"#;
    assert_eq!(kept, expected);
    let (written, kept) = texts(WITH_LET, &["many=40", "b.delay=$many", "c.input=a"]);
    let expected = expected.replace("to: 3", "to: 40").replace("[3", "[40");
    let expected = expected
        .replace("7])", "7], delay: 40)")
        .replace("\"b\"),", "\"a\"),");
    assert_eq!(kept, expected);
    // What was written can be overridden again.
    assert_eq!(texts(&written, &["many=3"]).1, expected.replace("40", "3"));
    let own_line = WITH_LET.replace(" // both", "");
    assert!(!texts(&own_line, &[]).1.contains("\n\n"));
}

#[test]
fn nodes_are_replaced() {
    let (_, kept) = texts(
        r#"(nodes: { "a": Count(to: 3), "b": Keep(input: "a") })"#,
        &["a=Count(to: 4, shuffle: true)", "a.to=5"],
    );
    assert_eq!(
        kept,
        r#"(nodes: { "a": Count(to: 5, shuffle: true), "b": Keep(input: "a") })"#
    );
    assert_says(
        SOUND,
        &["a=Cuont(to: 3)", "b=Keep"],
        expect![[r#"
        error: there is no kind of node named `Cuont`
         --> command line:1:3
          |
        1 | a=Cuont(to: 3)
          |   ^^^^^ unknown kind
          |
        help: did you mean `Count`?

        error: `Keep` needs the field `input`
         --> command line:1:3
          |
        1 | b=Keep
          |   ^^^^ `input` is missing
          |
        help: add `input: "NODE"`, the name of a node that yields numbers
    "#]],
    );
    assert_says(
        SOUND,
        &["a=Count(to: 3"],
        expect![[r#"
        error: this `(` is not closed
         --> command line:1:8
          |
        1 | a=Count(to: 3
          |        ^ no `)` belongs to it
    "#]],
    );
    assert_says(
        SOUND,
        &["a={to: 3}"],
        expect![[r#"
        error: expected a kind of node
         --> command line:1:3
          |
        1 | a={to: 3}
          |   ^^^^^^^ such as `ImageFolder(...)`
          |
        help: a node is written `KIND(FIELD: VALUE)`, without braces
    "#]],
    );
}

#[test]
fn mistakes_in_values_of_let() {
    assert_says(
        WITH_LET,
        &["many=0"],
        expect![[r#"
        error: there is nothing to count
         --> command line:1:6
          |
        1 | many=0
          |      ^
          |
         ::: r.ron:5:24
          |
        5 |         "a": Count(to: $many), // three
          |                        ----- used here
          |
        help: use at least 1
    "#]],
    );
    assert_says(
        WITH_LET,
        &["many=x", "skipped=3, 4"],
        expect![[r#"
        error: `to` must be an integer
         --> command line:1:6
          |
        1 | many=x
          |      ^ this is a word without quotes
          |
         ::: r.ron:5:24
          |
        5 |         "a": Count(to: $many), // three
          |                        ----- used here

        error: `fail` must be a list of integers
         --> command line:1:9
          |
        1 | skipped=3, 4
          |         ^^^^ not valid RON, treated as a string
          |
         ::: r.ron:6:38
          |
        6 |         "b": Noise(input: "a", fail: $skipped),
          |                                      -------- used here
          |
        help: write `[3, 4]`
    "#]],
    );
    assert_says(
        WITH_LET,
        &["mayn=3", "many.x=3", "to=3"],
        expect![[r#"
            error: the recipe has no field `mayn`
             --> command line:1:1
              |
            1 | mayn=3
              | ^^^^
              |
            help: did you mean `many`?

            error: cannot set `many.x`
             --> command line:1:1
              |
            1 | many.x=3
              | ^^^^^^^^
              |
            help: the value before the last dot has no fields in the recipe; set all of it

            error: the recipe has no field `to`
             --> command line:1:1
              |
            1 | to=3
              | ^^
              |
            help: write `--set many=...`
        "#]],
    );
    assert_says(
        &WITH_LET.replace("Count(to: $many)", "$many"),
        &["a.to=3"],
        expect![[r#"
            error: cannot set `a.to`: the recipe has `$many` there
             --> command line:1:1
              |
            1 | a.to=3
              | ^^^^
              |
            help: set its value: `--set many=...`
        "#]],
    );
}

/// A string would be what it is spelt: the name of a node or of a folder.
#[test]
fn unknown_names_are_not_strings() {
    assert_says(
        WITH_LET,
        &["c.input=$mnay", "skipped=[1, $mnay]"],
        expect![[r#"
            error: there is no `mnay` in `let`
             --> command line:1:13
              |
            1 | skipped=[1, $mnay]
              |             ^^^^^ `let` has `many`, `skipped`
              |
            help: did you mean `$many`?

            error: there is no `mnay` in `let`
             --> command line:1:9
              |
            1 | c.input=$mnay
              |         ^^^^^ `let` has `many`, `skipped`
              |
            help: did you mean `$many`?
        "#]],
    );
    assert_says(
        WITH_LET,
        &["b.input=$many-1", "many=$mayn"],
        expect![[r#"
        error: recipes do not compute: `$many` is a whole value
         --> command line:1:9
          |
        1 | b.input=$many-1
          |         ^^^^^^^
          |
        help: write the result, or give it a name of its own in `let`
    "#]],
    );
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
              |      ^^^^^ this is a word without quotes
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
