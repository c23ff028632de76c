//! What docs/editors.md says to editors of the messages of `rsflow check`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What comes before the position of a problem and how it is written, as editors read it.
fn place(line: &str) -> Option<(&str, u32, u32)> {
    let (rest, column) = line.trim_start_matches(' ').rsplit_once(':')?;
    let (rest, line) = rest.rsplit_once(':')?;
    let file = rest.strip_prefix("--> ")?;
    Some((file, line.parse().ok()?, column.parse().ok()?))
}

#[test]
fn every_problem_has_the_lines_that_editors_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for folder in ["tests/fixtures/broken", "tests/fixtures/suspicious"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let recipe = path.with_extension("ron");
            if path.extension().is_none_or(|ending| ending != "txt") || !recipe.exists() {
                continue;
            }
            let said = fs::read_to_string(&path).unwrap();
            let recipe = fs::read_to_string(recipe).unwrap();
            let mut lines = said.lines().peekable();
            while let Some(line) = lines.next() {
                let begins = ["error: ", "warning: "]
                    .iter()
                    .any(|it| line.starts_with(it));
                let next = lines.peek().copied().and_then(place);
                assert!(begins || next.is_none(), "{}: {line}", path.display());
                if !begins {
                    continue;
                }
                count += 1;
                let Some((file, row, column)) = next else {
                    panic!("{}: no place after: {line}", path.display());
                };
                let name = path.with_extension("ron");
                assert_eq!(Path::new(file).file_name(), name.file_name(), "{line}");
                let written = recipe.lines().nth(row as usize - 1);
                let length = written.map_or(0, |written| written.chars().count());
                assert!(
                    column as usize <= length + 1,
                    "{}: {file}:{row}:{column}",
                    path.display()
                );
            }
        }
    }
    assert!(count > 200, "{count}");
}

#[test]
fn the_page_has_the_patterns_for_these_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/editors.md")).unwrap();
    let (_, tasks) = page.split_once("```json\n").unwrap();
    let (tasks, _) = tasks.split_once("```").unwrap();
    let tasks: Value = serde_json::from_str(tasks).unwrap();
    let task = &tasks["tasks"][0];
    assert_eq!(task["args"][0], "check");
    let pattern = &task["problemMatcher"]["pattern"];
    // Those that the test above tries by hand.
    assert_eq!(pattern[0]["regexp"], "^(error|warning): (.*)$");
    assert_eq!(pattern[1]["regexp"], r"^ *--> (.*):(\d+):(\d+)$");
    assert!(page.contains(r"%E%trror:\ %m,%W%tarning:\ %m,%Z%\\s%#-->\ %f:%l:%c,%-G%.%#"));
}
