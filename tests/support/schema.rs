//! JSON against a JSON Schema: the part of the language that `docs/plan.schema.json` uses. A keyword that is not
//! known here is a fault of the schema, so that nothing in it is taken for checked that is not.
//!
//! A schema that is published lets fields be added; what we print must all be in it. So an object's fields that
//! the schema does not name are faults here, except where it says itself that there may be any.

use serde_json::Value;

/// What is wrong with a value, by path; at most some.
pub(crate) fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, schema, value, "", &mut faults);
    faults.truncate(20);
    faults
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        faults.push(format!("{at}: the schema is no object"));
        return;
    };
    for (keyword, wanted) in keywords {
        let is_right = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = wanted.as_str().and_then(|name| name.strip_prefix('#'));
                match target.and_then(|pointer| root.pointer(pointer)) {
                    Some(target) => check(root, target, value, at, faults),
                    None => faults.push(format!("{at}: the schema has no {wanted}")),
                }
                true
            }
            "type" => match wanted.as_array() {
                Some(any) => any.iter().any(|one| is_of(one, value)),
                None => is_of(wanted, value),
            },
            "const" => value == wanted,
            "enum" => wanted.as_array().is_some_and(|any| any.contains(value)),
            "minimum" => value.as_f64().zip(wanted.as_f64()).is_none_or(|(value, least)| value >= least),
            "required" => {
                let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
                let missing: Vec<&str> = names.filter(|name| value.get(name).is_none()).collect();
                if !missing.is_empty() {
                    faults.push(format!("{at}: without {}", missing.join(", ")));
                }
                true
            }
            "properties" => {
                let is_open = keywords.get("additionalProperties") == Some(&Value::Bool(true));
                for (name, field) in value.as_object().into_iter().flatten() {
                    match wanted.get(name) {
                        Some(of) => check(root, of, field, &format!("{at}/{name}"), faults),
                        None if is_open => {}
                        None => faults.push(format!("{at}: {name} is not in the schema")),
                    }
                }
                true
            }
            "additionalProperties" => *wanted == Value::Bool(true),
            "items" => {
                for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, element, &format!("{at}/{index}"), faults);
                }
                true
            }
            other => {
                faults.push(format!("{at}: the keyword {other} is not known here"));
                true
            }
        };
        if !is_right {
            faults.push(format!("{at}: {value} is not {keyword} {wanted}"));
        }
    }
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("null") => value.is_null(),
        Some(_) | None => false,
    }
}
