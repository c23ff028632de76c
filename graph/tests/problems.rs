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

fn assert_recipe_says(recipe: &str, expected: Expect) {
    let planned = Recipe::parse(Text::new("r.ron", recipe), CATALOGUE, &[]).and_then(Plan::new);
    let problems = match &planned {
        Ok(plan) => plan.warnings(),
        Err(problems) => problems,
    };
    expected.assert_eq(&problems.render(false));
}

#[test]
fn values_of_let() {
    // Of a value within a value, the first use is named.
    assert_recipe_says(
        r#"(
    let: {"count": 0, "all": [$count, 1], "spare": 3},
    nodes: {
        "a": Count(to: $count),
        "b": Noise(input: "a", fail: $all, skip: $cuont),
        "c": Keep(input: "b"),
        "d": Noise(input: "a", delay: $all),
        "e": Keep(input: "d"),
    },
)"#,
        expect![[r#"
            error: there is nothing to count
             --> r.ron:2:20
              |
            2 |     let: {"count": 0, "all": [$count, 1], "spare": 3},
              |                    ^
            3 |     nodes: {
            4 |         "a": Count(to: $count),
              |                        ------ used here
              |
            help: use at least 1

            error: there is no `cuont` in `let`
             --> r.ron:5:50
              |
            5 |         "b": Noise(input: "a", fail: $all, skip: $cuont),
              |                                                  ^^^^^^ `let` has `count`, `all`, `spare`
              |
            help: did you mean `$count`?

            error: `delay` must be an integer
             --> r.ron:2:30
              |
            2 |     let: {"count": 0, "all": [$count, 1], "spare": 3},
              |                              ^^^^^^^^^^^ this is a list
            ...
            7 |         "d": Noise(input: "a", delay: $all),
              |                                       ---- used here
        "#]],
    );
    assert_recipe_says(
        r#"(let: {"spare": 3}, nodes: {"a": Count(to: 1), "b": Keep(input: "a")})"#,
        expect![[r#"
            warning: nothing uses `spare`
             --> r.ron:1:9
              |
            1 | (let: {"spare": 3}, nodes: {"a": Count(to: 1), "b": Keep(input: "a")})
              |         ^^^^^
              |
            help: write `$spare` where its value is meant, or remove it
        "#]],
    );
}

#[test]
fn names_of_let() {
    assert_recipe_says(
        r#"(
    let: {
        "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
    },
    nodes: {"a": Count(to: $late), "z": Keep(input: $nothing)},
)"#,
        expect![[r#"
            error: `own` comes after this
             --> r.ron:3:18
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                  ^^^^        --- here
              |
            help: a value of `let` may use those before it: move `own` up

            error: `b` comes after this
             --> r.ron:3:24
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                        ^^                 - here
              |
            help: a value of `let` may use those before it: move `b` up

            error: `own` contains `$own`
             --> r.ron:3:36
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                    ^^^^
              |
            help: write a value without it

            error: `b` is given twice in `let`
             --> r.ron:3:51
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                           -       ^ the second one
              |                                           |
              |                                           the first one
              |
            help: remove one of them

            error: `a` is the name of a node and a name in `let`
             --> r.ron:3:59
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                                           ^ in `let`
            4 |     },
            5 |     nodes: {"a": Count(to: $late), "z": Keep(input: $nothing)},
              |              - the node
              |
            help: rename one of them: `--set a=...` could mean both

            error: `seed` is a field of the recipe and a name in `let`
             --> r.ron:3:67
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                                                   ^^^^
              |
            help: rename it: `--set seed=...` could mean both

            error: a name in `let` must be in quotes
             --> r.ron:3:77
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                                                             ^
              |
            help: write `"c"`

            error: `x-y` cannot be a name in `let`
             --> r.ron:3:84
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                                                                                    ^^^
              |
            help: use letters, digits and `_`, and begin with a letter

            error: `to` must be an integer
             --> r.ron:3:17
              |
            3 |         "late": [$own, $b], "own": $own, "b": 1, "b": 2, "a": 3, "seed": 4, c: 5, "x-y": 6,
              |                 ^^^^^^^^^^ this is a list
            4 |     },
            5 |     nodes: {"a": Count(to: $late), "z": Keep(input: $nothing)},
              |                            ----- used here

            error: there is no `nothing` in `let`
             --> r.ron:5:53
              |
            5 |     nodes: {"a": Count(to: $late), "z": Keep(input: $nothing)},
              |                                                     ^^^^^^^^ `let` has `late`, `own`, `b`, `b`, `a` and 3 more
              |
            help: add it to `let`: `"nothing": ...`
        "#]],
    );
    assert_recipe_says(
        r#"(let: [1], nodes: {"a": Count(to: $a), "b": $b, "c": Keep(input: "a")})"#,
        expect![[r#"
            error: `let` must be a map {string: any value}
             --> r.ron:1:7
              |
            1 | (let: [1], nodes: {"a": Count(to: $a), "b": $b, "c": Keep(input: "a")})
              |       ^^^ this is a list

            error: there is no `a` in `let`
             --> r.ron:1:35
              |
            1 | (let: [1], nodes: {"a": Count(to: $a), "b": $b, "c": Keep(input: "a")})
              |                                   ^^ the recipe has no `let`
              |
            help: add `let: {"a": ...},` before `nodes`

            error: there is no `b` in `let`
             --> r.ron:1:45
              |
            1 | (let: [1], nodes: {"a": Count(to: $a), "b": $b, "c": Keep(input: "a")})
              |                                             ^^ the recipe has no `let`
              |
            help: add `let: {"b": ...},` before `nodes`
        "#]],
    );
}

/// A few names could make a text of any size.
#[test]
fn values_within_values_are_limited() {
    let entry = |at: usize| match at {
        0 => "\"n0\": [1, 2, 3, 4]".to_owned(),
        at => format!("\"n{at}\": [{}]", format!("$n{}, ", at - 1).repeat(10)),
    };
    let lets = |count| (0..count).map(entry).collect::<Vec<_>>().join(", ");
    let planned = |lets: String, name: &str| {
        let nodes = format!(r#""a": Count(to: {name}), "b": Keep(input: "a")"#);
        let text = Text::new("r.ron", format!("(let: {{{lets}}}, nodes: {{{nodes}}})"));
        let planned = Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new);
        planned.err().expect("a mistake").render(false)
    };
    let said = planned(lets(40), "$n39");
    assert!(said.contains("the recipe is too long"), "{said}");
    let chain: Vec<String> = (1..100)
        .map(|at| format!("\"m{at}\": $m{}", at - 1))
        .collect();
    let said = planned(format!("\"m0\": 1, {}", chain.join(", ")), "$m99");
    assert!(
        said.contains("more than 50 values within each other"),
        "{said}"
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
