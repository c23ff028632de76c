use super::parse;

const FILE: &str = include_str!("../../../../docs/scaling.json");

#[test]
fn units_are_converted() {
    let inputs = parse(FILE).unwrap();
    let network = &inputs.networks[1];
    assert_eq!(network.gradients, 103.1 * 1e6);
    assert_eq!(network.launch_s, 0.04);
    assert!((network.ratio - 2.756).abs() < 0.001);
    let cluster = &inputs.fabrics[0].cluster;
    assert_eq!(cluster.between.bytes_per_s, 8.0 * 45e9);
    assert!((cluster.between.hop_s - 14e-6).abs() < 1e-12);
}

#[test]
fn an_error_names_the_field() {
    for (from, to, expected) in [
        (
            r#""launch_ms": { "value": 15,"#,
            r#""launch_ms": { "value": "fast","#,
            r#"invalid type: string "fast", expected f64 at line 10 column 36: "launch_ms""#,
        ),
        (
            r#""launch_ms""#,
            r#""launch_s""#,
            "unknown field `launch_s`",
        ),
        (r#", "tag": "counted""#, "", "missing field `tag`"),
        (r#""assumed""#, r#""guessed""#, "unknown variant `guessed`"),
        (
            r#""value": 4396"#,
            r#""value": 0"#,
            "`networks.ResNet18.images_per_second` must be above 0, it is 0",
        ),
        (
            r#""value": 0.667"#,
            r#""value": 66.7"#,
            "`networks.ResNet18.backward_share` must be from 0 to 1, it is 66.7",
        ),
        (
            r#""value": 1814"#,
            r#""value": 18140"#,
            "`networks.ResNet18.multiply_adds_m` must be at least `multiply_adds_224_m`, it is 4999",
        ),
        (
            r#""bytes": 0.66"#,
            r#""bytes": 0.6"#,
            "`bytes` of `networks.ResNet18.buckets` must add up to 1, they add up to 0.940",
        ),
        (
            r#""ready": 0.71"#,
            r#""ready": 71"#,
            "`networks.ResNet18.buckets[0].ready` must be from 0 to 1, it is 71",
        ),
        (
            r#""ready": 0.87"#,
            r#""ready": 0.7"#,
            "`ready` of `networks.ResNet50.buckets` must not decrease",
        ),
        (
            r#""value": 0.11"#,
            r#""value": -1"#,
            "`fabrics.1 Gb/s.gb_per_s` must be above 0, it is -1",
        ),
        (
            r#""steps": 2000"#,
            r#""steps": 0"#,
            "`simulation.steps` must be at least 1",
        ),
    ] {
        assert!(FILE.contains(from), "{from}");
        let error = parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
