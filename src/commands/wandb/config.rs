//! A recipe as nested values.

use rsflow_graph::settings;
use serde_json::{Map, Value};

/// The fields of a recipe: `{"trainer": {"network": {"kind": "ResNet", "depth": 18}}}`. A value with a name and fields
/// has its name as `kind`.
pub fn of(recipe: &str) -> Map<String, Value> {
    let mut whole = Map::new();
    for (path, value) in settings(recipe) {
        insert(&mut whole, &path, typed(value));
    }
    whole
}

fn insert(within: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((name, rest)) = path.split_once('.') else {
        within.insert(path.to_owned(), value);
        return;
    };
    let mut fields = match within.remove(name) {
        None => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(kind) => Map::from_iter([("kind".to_owned(), kind)]),
    };
    insert(&mut fields, rest, value);
    within.insert(name.to_owned(), Value::Object(fields));
}

/// Numbers, truth values, and lists of them keep their type, so that W&B can sort and filter by them; other values
/// are as written.
fn typed(written: String) -> Value {
    match ron::from_str::<Value>(&written) {
        Ok(value) if is_plain(&value) => value,
        _ => Value::String(written),
    }
}

/// Whether it has no words: what RON takes for a variant has no name here.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Number(_) | Value::Bool(_) => true,
        Value::Array(items) => items.iter().all(is_plain),
        Value::Null | Value::String(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_nested_and_typed() {
        let recipe = r#"(seed: 3, nodes: {
            "files": Folder(root: "data/a b", shuffle: true),
            "sizes": Resize(input: "files", sizes: [64, 48], filters: [Box, Lanczos]),
            "trainer": RsNet(
                train: "sizes", network: ResNet(depth: 18), schedule: Cosine, scale: (0.25, 1.0),
                optimizer: Sgd(lr: 5e-2, weight_decay: Some(1e-4)), lr_factors: [("fc", 10.0)], empty: [],
            ),
        })"#;
        let expected = serde_json::json!({
            "seed": 3,
            "files": {"root": "data/a b", "shuffle": true},
            "sizes": {"sizes": [64, 48], "filters": "[Box, Lanczos]"},
            "trainer": {
                "network": {"kind": "ResNet", "depth": 18},
                "schedule": "Cosine",
                "scale": [0.25, 1.0],
                "optimizer": {"kind": "Sgd", "lr": 0.05, "weight_decay": 1e-4},
                "lr_factors": r#"[("fc", 10.0)]"#,
                "empty": [],
            },
        });
        assert_eq!(Value::Object(of(recipe)), expected);
        assert!(of("").is_empty());
    }
}
