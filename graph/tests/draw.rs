//! Pictures of plans.

mod toy;

use anyhow::{Result, bail};
use expect_test::expect;
use rsflow_graph::{
    Build, Catalogue, Format, Incoming, Input, Kind, Node, NodeKind, Plan, Port, Recipe, Report,
    Schema, Stage, Text, draw,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// A source whose stream has sizes.
#[derive(Deserialize, JsonSchema)]
struct Images {
    sizes: Vec<u32>,
}

impl Node for Images {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema {
            resolutions: self.sizes.clone(),
            ..Schema::default()
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        bail!("only to be drawn")
    }
}

impl NodeKind for Images {
    const NAME: &'static str = "Images";
    const SUMMARY: &'static str = "images in <several> sizes";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("out", "batches")];
    const EXAMPLE: &'static str = "Images(sizes: [64])";
}

/// A node with two inputs and two outputs.
#[derive(Deserialize, JsonSchema)]
struct Train {
    train: Input,
    validate: Input,
}

impl Node for Train {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("train", &self.train), ("validate", &self.validate)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema::default(), Schema::default()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        bail!("only to be drawn")
    }
}

impl NodeKind for Train {
    const NAME: &'static str = "Train";
    const SUMMARY: &'static str = "learns from one stream and is tested on another";
    const INPUTS: &'static [Port] = &[port("train", "batches"), port("validate", "batches")];
    const OUTPUTS: &'static [Port] = &[port("numbers", "numbers"), port("ends", "numbers")];
    const EXAMPLE: &'static str = "Train(train: \"a\", validate: \"b\")";
}

const fn port(name: &'static str, carries: &'static str) -> Port {
    Port { name, carries }
}

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<Images>(),
    Kind::of::<Train>(),
    Kind::of::<toy::Count>(),
    Kind::of::<toy::Noise>(),
    Kind::of::<toy::Group>(),
    Kind::of::<toy::Learn>(),
    Kind::of::<toy::Keep>(),
    Kind::of::<toy::KeepGroups>(),
]);

fn plan(nodes: &str) -> Plan {
    let text = Text::new("test.ron", format!("(nodes: {{{nodes}}})"));
    let recipe = Recipe::parse(text, CATALOGUE, &[]).unwrap_or_else(|e| panic!("{e}"));
    Plan::new(recipe).unwrap_or_else(|e| panic!("{e}"))
}

const TRAINING: &str = r#"
    "images":     Images(sizes: [224, 96]),
    "val \"x\" <&>#;": Images(sizes: [224, 96]),
    "trainer":    Train(train: "images", validate: "val \"x\" <&>#;"),
    "log":        Keep(input: "trainer.numbers"),
    "ends":       Keep(input: "trainer.ends"),
"#;

#[test]
fn mermaid() {
    let text = draw(&plan(TRAINING), Format::Mermaid);
    expect![[r#"
        flowchart TD
            n0(["<b>images</b><br/>Images"]):::source
            n1(["<b>val #34;x#34; #60;#38;#62;#35;#59;</b><br/>Images"]):::source
            n2[["<b>trainer</b><br/>Train"]]:::join
            n3[("<b>log</b><br/>Keep")]:::sink
            n4[("<b>ends</b><br/>Keep")]:::sink
            n0 -->|"batches 224/96<br/>→ train"| n2
            n1 -->|"batches 224/96<br/>→ validate"| n2
            n2 -->|"numbers"| n3
            n2 -->|"ends: numbers"| n4
            classDef source fill:#e7f6ec,stroke:#3f9d63,color:#1f2937
            classDef step fill:#eaf1fd,stroke:#5584c8,color:#1f2937
            classDef join fill:#fff3d9,stroke:#d08a1d,color:#1f2937
            classDef sink fill:#f2ecfb,stroke:#8763bd,color:#1f2937
    "#]]
    .assert_eq(&text);
}

#[test]
fn dot() {
    let text = draw(&plan(TRAINING), Format::Dot);
    expect![[r##"
        digraph rsflow {
            node [shape=box, style=filled, fontname="Helvetica,sans-serif", fontsize=12, fontcolor="#1f2937", margin="0.2,0.1"];
            edge [fontname="Helvetica,sans-serif", fontsize=10, fontcolor="#4b5563", color="#8a94a3", arrowsize=0.7];
            n0 [label=<<b>images</b><br/>Images>, fillcolor="#e7f6ec", color="#3f9d63", style="filled,rounded"];
            n1 [label=<<b>val &quot;x&quot; &lt;&amp;&gt;#;</b><br/>Images>, fillcolor="#e7f6ec", color="#3f9d63", style="filled,rounded"];
            n2 [label=<<b>trainer</b><br/>Train>, fillcolor="#fff3d9", color="#d08a1d", penwidth=2];
            n3 [label=<<b>log</b><br/>Keep>, fillcolor="#f2ecfb", color="#8763bd", shape=note];
            n4 [label=<<b>ends</b><br/>Keep>, fillcolor="#f2ecfb", color="#8763bd", shape=note];
            n0 -> n2 [label="  batches 224/96  \n  → train  "];
            n1 -> n2 [label="  batches 224/96  \n  → validate  "];
            n2 -> n3 [label="  numbers  "];
            n2 -> n4 [label="  ends: numbers  "];
        }
    "##]].assert_eq(&text);
}

/// The rectangles of a class: x, y, width, height.
fn rects(picture: &roxmltree::Document, class: &str) -> Vec<[f64; 4]> {
    picture
        .descendants()
        .filter(|element| element.has_tag_name("rect"))
        .filter(|rect| rect.attribute("class").unwrap_or("").starts_with(class))
        .map(|rect| {
            ["x", "y", "width", "height"].map(|of| rect.attribute(of).unwrap().parse().unwrap())
        })
        .collect()
}

/// Draws it and checks what every picture has to be: XML, all names in it, nothing on top of
/// anything else, nothing outside.
fn check_picture(plan: &Plan) -> String {
    let text = draw(plan, Format::Svg);
    let picture = roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let texts: Vec<_> = picture
        .descendants()
        .filter(|element| element.has_tag_name("text"))
        .map(|element| element.text().unwrap().to_owned())
        .collect();
    for node in plan.nodes() {
        let name = node.id.name.replace('\n', "\\n").replace('\0', "\\u{0}");
        assert!(texts.contains(&name), "{name} is not in {texts:?}");
        assert!(texts.iter().any(|text| text == node.kind.name));
    }
    let nodes = rects(&picture, "node");
    assert_eq!(nodes.len(), plan.nodes().len());
    let edges: usize = plan.nodes().iter().map(|node| node.inputs.len()).sum();
    let labels = rects(&picture, "label");
    assert_eq!(labels.len(), edges);
    let all = [nodes, labels].concat();
    let view: Vec<f64> = picture
        .root_element()
        .attribute("viewBox")
        .unwrap()
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    for (index, &[x, y, width, height]) in all.iter().enumerate() {
        assert!(x >= 0.0 && y >= 0.0 && x + width <= view[2] && y + height <= view[3]);
        for other in &all[index + 1..] {
            assert!(
                x + width <= other[0]
                    || other[0] + other[2] <= x
                    || y + height <= other[1]
                    || other[1] + other[3] <= y,
                "{:?} lies on {other:?}\n{text}",
                all[index],
            );
        }
    }
    assert!(!text.contains("NaN") && !text.contains("inf"));
    text
}

#[test]
fn pictures_of_many_shapes_are_readable() {
    check_picture(&plan(TRAINING));
    // One node, two nodes, two pieces.
    check_picture(&plan(TRAINING).until("images").unwrap());
    check_picture(&plan(r#""a": Count(to: 1), "b": Keep(input: "a")"#));
    check_picture(&plan(
        r#""a": Count(to: 1), "b": Keep(input: "a"), "c": Count(to: 1), "d": Keep(input: "c")"#,
    ));
    // Names that XML cannot hold or must escape.
    check_picture(&plan(
        r#""a\n\u{0}<b>&amp;]]>": Images(sizes: []), "'": Images(sizes: []),
        "日本語": Train(train: "a\n\u{0}<b>&amp;]]>", validate: "'"),
        "p": Keep(input: "日本語.ends"), "q": Keep(input: "日本語.numbers")"#,
    ));
    // An edge that passes several nodes, and many readers of one stream.
    let readers: String = (0..12)
        .map(|n| format!(r#""keep{n}": Keep(input: "a"), "#))
        .collect();
    check_picture(&plan(&format!(
        r#""a": Count(to: 1), "b": Noise(input: "a"), "c": Noise(input: "b"), "d": Noise(input: "c"),
        "groups": Group(input: "a", size: 1), "more groups": Group(input: "d", size: 1),
        "x": KeepGroups(input: "groups"), "y": KeepGroups(input: "more groups"), {readers}"#
    )));
}

#[test]
fn a_picture_is_always_the_same() {
    let plan = plan(TRAINING);
    let first = draw(&plan, Format::Svg);
    assert_eq!(first, draw(&plan, Format::Svg));
}
