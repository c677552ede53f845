//! The stages of a run, as a table on its page.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::format::{count, rate};
use super::{escape, pretty, text};

/// The table, or nothing where the load had no steps.
pub(super) fn table(page: &mut String, result: &Value) {
    let stages = result["stages"].as_array().map_or(&[][..], Vec::as_slice);
    if stages.is_empty() {
        return;
    }
    page.push_str(r#"<h2>Stages</h2><div class="scroll"><table><thead><tr><th></th>"#);
    for name in ["asked/s", "sent/s", "n", "p50", "p90", "p99", "max"] {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for it in stages {
        let per_second = |key: &str| it[key].as_f64().map_or_else(|| "-".to_owned(), rate);
        let response = &it["response_us"];
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(text(&it["stage"])),
            per_second("target_per_s"),
            per_second("sent_per_s"),
            count(response["n"].as_u64().unwrap_or(0))
        );
        for key in ["p50", "p90", "p99", "max"] {
            let value = response[key].as_f64().map_or_else(|| "-".to_owned(), pretty);
            let _ = write!(page, "<td>{value}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_for_each() {
        let mut page = String::new();
        table(&mut page, &json!({ "stages": [] }));
        assert_eq!(page, "");
        let stage = json!({
            "stage": "30s:10k", "target_per_s": 1e4, "sent_per_s": null,
            "response_us": { "n": 12_345, "p50": 1.5, "p90": 2.0, "p99": null, "max": 9.0 },
        });
        table(&mut page, &json!({ "stages": [stage] }));
        for part in ["<td>30s:10k</td><td>10,000</td><td>-</td><td>12,345</td>", "<td>1.50 µs</td>"] {
            assert!(page.contains(part), "{page}");
        }
    }
}
