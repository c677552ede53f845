//! `/config`: the configuration in force, without its secrets.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use super::View;
use crate::route::Router;

/// A setting whose name has one of these in it is not shown.
const SECRET: [&str; 4] = ["secret", "password", "token", "credential"];

const MASK: &str = "***";

/// The configuration in force, defaults included.
pub(super) fn show(view: &View) -> Value {
    let present = view.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = serde_json::to_value(&*present).unwrap_or_else(|error| json!(error.to_string()));
    for_people(&mut config);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": config,
        "log": LevelFilter::current().to_string(),
        "queue_memory_max": view.shared.queue_total,
        "routes": routes(&view.shared.router),
        "private_descriptor_tables": view.private_tables,
        "descriptors_in_each_table": view.descriptors,
        "connections_max": view.shared.seats.max(),
    })
}

/// Each route as it was written, in the order in which they were added, its app as far as somebody has said what that is,
/// and what is special about it. Limits of its own stand in `route_limits`.
fn routes(router: &Router) -> Vec<Value> {
    let special = router.names().iter().zip(router.options());
    special
        .map(|(path, options)| {
            let mut route = serde_json::to_value(options).unwrap_or_else(|error| json!(error.to_string()));
            for_people(&mut route);
            route["path"] = json!(path);
            route
        })
        .collect()
}

/// Masks secrets, and writes times as the flags take them.
fn for_people(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(for_people),
        Value::Object(fields) => {
            if let Some(time) = time(fields) {
                *value = Value::String(time);
                return;
            }
            for (name, field) in fields {
                if SECRET.iter().any(|word| name.contains(word)) && !field.is_null() {
                    *field = Value::String(MASK.to_owned());
                } else {
                    for_people(field);
                }
            }
        }
        _ => {}
    }
}

/// A `Duration`, as serde writes it, as `30s` or `250ms`.
fn time(fields: &Map<String, Value>) -> Option<String> {
    let (secs, nanos) = (fields.get("secs")?.as_u64()?, fields.get("nanos")?.as_u64()?);
    let millis = nanos / 1_000_000;
    (fields.len() == 2).then(|| match millis {
        0 => format!("{secs}s"),
        _ => format!("{}ms", secs * 1000 + millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn times_are_what_the_flags_take() {
        let mut config = serde_json::to_value(Config::default()).expect("no map with odd keys");
        for_people(&mut config);
        assert_eq!(config["limits"]["ping_interval"], "25s");
        assert_eq!(config["limits"]["max_message"], 1024 * 1024);
        assert_eq!(config["origins"], "same_host");
        let mut short = json!({"secs": 1, "nanos": 250_000_000});
        for_people(&mut short);
        assert_eq!(short, "1250ms");
    }

    #[test]
    fn secrets_are_not_shown_however_deep() {
        let mut value =
            json!({"auth": [{"api_token": "abc", "name": "x"}], "password": {"file": "y"}, "token": null});
        for_people(&mut value);
        assert_eq!(
            value,
            json!({"auth": [{"api_token": "***", "name": "x"}], "password": "***", "token": null})
        );
    }
}
