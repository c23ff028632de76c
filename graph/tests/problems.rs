//! What is said of graphs that cannot be. (What single fields get wrong is tested with the real
//! kinds, at the root of the workspace.)

mod toy;

use expect_test::{Expect, expect};
use rsflow_graph::{Plan, Recipe, Text};
use toy::CATALOGUE;

fn assert_says(nodes: &str, expected: Expect) {
    let text = Text::new("r.ron", format!("(nodes: {{\n{nodes}\n}})"));
    let planned = Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new);
    let problems = planned.err().expect("a recipe that is wrong");
    expected.assert_eq(&problems.render(false));
}

#[test]
fn a_cycle() {
    let nodes = r#"
"a": Noise(input: "c"),
"b": Noise(input: "a"),
"c": Noise(input: "b"),
"d": Keep(input: "c"),"#;
    assert_says(
        nodes,
        expect![[r#"
        error: these nodes form a cycle: a -> b -> c -> a
         --> r.ron:3:2
          |
        3 | "a": Noise(input: "c"),
          |  ^ part of a cycle
          |
        help: connect one of them to another node
    "#]],
    );
}

#[test]
fn a_node_that_reads_itself() {
    let nodes = r#"
"a": Noise(input: "a", fail: 3),
"d": Keep(input: "a"),"#;
    assert_says(
        nodes,
        expect![[r#"
        error: these nodes form a cycle: a -> a
         --> r.ron:3:2
          |
        3 | "a": Noise(input: "a", fail: 3),
          |  ^ part of a cycle
          |
        help: connect one of them to another node

        error: `fail` must be a list of integers
         --> r.ron:3:30
          |
        3 | "a": Noise(input: "a", fail: 3),
          |                              ^ this is an integer
          |
        help: write `[3]`
    "#]],
    );
}

/// Nodes behind a mistake are checked too, and nothing is said that only follows from it.
#[test]
fn what_only_follows_is_not_said() {
    let nodes = r#"
"a": Count(to: 0),
"b": Noise(input: "a", delay: -1),
"c": Group(input: "bb", size: 3),
"d": Learn(input: "c", epochs: 1),
"e": Keep(input: "d.end"),
"f": KeepGroup(input: "d.seen"),
"g": Count(to: 0),"#;
    assert_says(
        nodes,
        expect![[r#"
        error: there is nothing to count
         --> r.ron:3:16
          |
        3 | "a": Count(to: 0),
          |                ^
          |
        help: use at least 1

        error: `delay` must be at least 0
         --> r.ron:4:31
          |
        4 | "b": Noise(input: "a", delay: -1),
          |                               ^^ too small

        error: there is no node `bb`
         --> r.ron:5:20
          |
        5 | "c": Group(input: "bb", size: 3),
          |                    ^^ unknown node
          |
        help: nodes that yield numbers: `a`, `b`, `d.ends` and `g`

        error: `d` has no output `end`
         --> r.ron:7:19
          |
        7 | "e": Keep(input: "d.end"),
          |                   ^^^^^ unknown port
          |
        help: did you mean `d.ends`?

        error: there is no kind of node named `KeepGroup`
         --> r.ron:8:6
          |
        8 | "f": KeepGroup(input: "d.seen"),
          |      ^^^^^^^^^ unknown kind
          |
        help: did you mean `KeepGroups`?

        error: there is nothing to count
         --> r.ron:9:16
          |
        9 | "g": Count(to: 0),
          |                ^
          |
        help: use at least 1
    "#]],
    );
}

#[test]
fn a_node_of_unknown_kind_may_read_anything() {
    let nodes = r#"
"a": Count(to: 3),
"b": Nose(inptu: "a"),
"c": Keep(input: "b"),"#;
    assert_says(
        nodes,
        expect![[r#"
        error: there is no kind of node named `Nose`
         --> r.ron:4:6
          |
        4 | "b": Nose(inptu: "a"),
          |      ^^^^ unknown kind
          |
        help: did you mean `Noise`?
    "#]],
    );
}

/// Each node of these is sound, and its text is read alone.
#[test]
fn what_is_around_sound_nodes_is_read() {
    let nodes = r#"nodes: {"a": Count(to: 3), "d": Keep(input: "a")}"#;
    let sound = format!("(seed: 1, {nodes})");
    let planned = |text: String| {
        let text = Text::new("r.ron", text);
        Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new)
    };
    planned(sound.clone()).expect("a sound recipe");
    planned(format!("#![enable(implicit_some)]\n{sound} // end")).expect("attributes, a comment");
    for (text, words) in [
        (format!("{sound} /* open"), "this comment is not closed"),
        (format!("{sound})"), "unmatched `)`"),
        (format!("{sound} x"), "the recipe ends before this"),
        (format!("#![enable(no_such)]\n{sound}"), "no_such"),
        (format!("#![enable]\n{sound}"), "attribute"),
        (format!("(seed: 1., {nodes})"), "`seed`"),
        (format!("(seed: 1 /* a /* b */, {nodes})"), "not closed"),
        (format!("(seed: 1, cpu_workers: 'a, {nodes})"), "quote"),
    ] {
        let problems = planned(text.clone()).err();
        let said = problems.map_or_else(String::new, |problems| problems.render(false));
        println!("{said}");
        assert!(said.contains(words), "{text}: {said:?}");
    }
}
