//! Two JSON values -> the lines in which they differ, each with the path to it:
//! `tasks.1000.fds.3.pos: "100" became "0"`.

use serde_json::Value;

/// As many lines as anybody reads.
const SHOWN: usize = 60;

/// Every difference, in the order of the keys.
pub(crate) fn lines(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", before, after, &mut found);
    found
}

/// The lines for a message, without the mass of them.
pub(crate) fn readable(lines: &[String]) -> String {
    let mut text = lines[..lines.len().min(SHOWN)].join("\n");
    if lines.len() > SHOWN {
        text.push_str(&format!("\nand {} more", lines.len() - SHOWN));
    }
    text
}

fn walk(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let below = |key: &str| {
        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
    };
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in left {
                match right.get(key) {
                    Some(other) => walk(&below(key), value, other, found),
                    None => found.push(format!("{}: {} is gone", below(key), brief(value))),
                }
            }
            for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                found.push(format!("{}: {} is new", below(key), brief(value)));
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (value, other)) in left.iter().zip(right).enumerate() {
                walk(&below(&index.to_string()), value, other, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {} became {}", brief(before), brief(after))),
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[test]
fn differences_have_paths() {
    let before = serde_json::json!({ "a": { "b": [1, 2], "c": 3 }, "d": 4 });
    let after = serde_json::json!({ "a": { "b": [1, 5], "e": 6 }, "d": 4 });
    assert_eq!(lines(&before, &after), ["a.b.1: 2 became 5", "a.c: 3 is gone", "a.e: 6 is new"]);
}
