//! The JSON result keeps to `schema.json`, key by key.

mod common;

use common::{Fault, measure, serve};
use serde_json::{Value, json};

/// The part of JSON Schema that `schema.json` uses; a keyword beyond it is a mistake in the schema.
fn violations(schema: &Value, root: &Value, value: &Value, path: &str, out: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let target = rule.as_str().and_then(|it| it.strip_prefix('#')).expect("a local reference");
                violations(root.pointer(target).expect("it exists"), root, value, path, out);
            }
            "type" => {
                let names = rule.as_array().map_or_else(|| std::slice::from_ref(rule), Vec::as_slice);
                if !names.iter().any(|name| is_of(value, name.as_str().expect("a name"))) {
                    out.push(format!("{path}: {value} is not {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().expect("a list").contains(value) {
                    out.push(format!("{path}: {value} is none of {rule}"));
                }
            }
            "minimum" => {
                if value.as_f64().is_some_and(|it| it < rule.as_f64().expect("a number")) {
                    out.push(format!("{path}: {value} is below {rule}"));
                }
            }
            "required" => {
                for key in rule.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(key).is_none() {
                        out.push(format!("{path}: {key} is missing"));
                    }
                }
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        violations(rule, root, value, &format!("{path}/{key}"), out);
                    }
                }
            }
            "additionalProperties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if schema["properties"].get(key).is_some() {
                        continue;
                    }
                    match rule {
                        Value::Bool(false) => out.push(format!("{path}: {key} is not in the schema")),
                        rule => violations(rule, root, value, &format!("{path}/{key}"), out),
                    }
                }
            }
            "items" => {
                for (at, value) in value.as_array().into_iter().flatten().enumerate() {
                    violations(rule, root, value, &format!("{path}/{at}"), out);
                }
            }
            "oneOf" => {
                let fits = |rule: &Value| {
                    let mut problems = Vec::new();
                    violations(rule, root, value, path, &mut problems);
                    problems.is_empty()
                };
                if rule.as_array().expect("a list").iter().filter(|rule| fits(rule)).count() != 1 {
                    out.push(format!("{path}: fits not exactly one of the choices: {value}"));
                }
            }
            other => panic!("{path}: the schema uses {other}, which is not checked"),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{name} is no type"),
    }
}

fn check(value: &Value) -> Vec<String> {
    let text = include_str!("../schema.json");
    let schema: Value = serde_json::from_str(text).expect("JSON");
    let mut out = Vec::new();
    violations(&schema, &schema, value, "", &mut out);
    out
}

#[test]
fn results_of_all_kinds_keep_to_the_schema() {
    let none = serve(Fault::None);
    let pid = std::process::id();
    let runs = [
        measure(&none.url, &format!("--conns 2 --rate 200 --duration 1s --server-pid {pid}")),
        measure(&none.url, "--conns 2 --closed-loop 1 --duration 300ms --size 64..99 -H a:b --origin o"),
        measure(&none.url, "--conns 2 --mode idle --duration 300ms --connect-rate 100 --deflate"),
        measure(&none.url, "--conns 2 --stage 200ms:100 --stage 200ms:0"),
        measure(&none.url, &format!("--mode connect --conns 5 --storm --server-pid {pid}")),
        measure(&none.url, "--mode churn --conns 2 --lifetime 50ms..100ms --rate 100 --duration 300ms"),
        measure(&serve(Fault::Close(3, 1013)).url, "--conns 2 --rate 100 --duration 300ms"),
        measure(
            &serve(Fault::BroadcastDrop(3)).url,
            "--mode broadcast --conns 3 --rate 50 --duration 1s --drain 200ms",
        ),
    ];
    for (out, value) in runs {
        assert_eq!(check(&value), Vec::<String>::new(), "{out}");
    }
}

#[test]
fn what_breaks_the_schema_is_seen() {
    let (_, mut value) = measure(&serve(Fault::None).url, "--conns 1 --mode idle --duration 100ms");
    value["verdict"] = json!("FINE");
    value["integrity"]["lost"] = json!(-1);
    value["connect"]["extra"] = json!(1);
    value["server"] = json!({});
    value.as_object_mut().expect("an object").remove("rate");
    let found = check(&value).join("\n");
    for part in
        ["/verdict", "/integrity/lost", "extra is not in the schema", "/server: fits not", "rate is missing"]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
}
