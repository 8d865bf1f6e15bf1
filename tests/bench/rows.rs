//! The output: a table for people, JSON for programs, and the table of docs/speed.md.

use serde_json::{Value, json};

use crate::machine::Machine;

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// The line of `ci/bench` that it belongs to.
    pub line: &'static str,
    pub what: String,
    pub measured: String,
    /// The uncertainty, for the terminal.
    pub spread: String,
    /// The target; empty if the figure is only for information.
    pub to_reach: &'static str,
    /// The numbers behind it.
    pub numbers: Value,
    /// Whether docs/speed.md has it.
    pub is_told: bool,
}

/// The table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default();
    let (what, measured) = (width(|row| &row.what), width(|row| &row.measured));
    let mut text = String::new();
    for row in rows {
        let reach = if row.to_reach.is_empty() { String::new() } else { format!("to reach: {}", row.to_reach) };
        let spread = if row.spread.is_empty() { String::new() } else { format!("  ({})", row.spread) };
        let line = format!("{:what$}  {:measured$}  {reach}{spread}", row.what, row.measured);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub fn json(rows: &[Row], machine: &Machine) -> Value {
    let row = |row: &Row| {
        json!({
            "line": row.line,
            "what": row.what,
            "measured": row.measured,
            "spread": row.spread,
            "to_reach": row.to_reach,
            "numbers": row.numbers,
        })
    };
    json!({"machine": machine.json(), "rows": rows.iter().map(row).collect::<Vec<_>>()})
}

const BEGIN: &str = "<!-- ci/bench --page writes from here -->";
const END: &str = "<!-- to here -->";

/// The page with the table of these rows instead of its old one.
pub fn page(old: &str, rows: &[Row], machine: &Machine) -> String {
    let place = old.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = place.expect("the page has both marks");
    let mut table = format!("{}.\n\n| what | measured | to reach |\n|---|---|---|\n", machine.text());
    for row in rows.iter().filter(|row| row.is_told) {
        table.push_str(&format!("| {} | {} | {} |\n", row.what, row.measured, row.to_reach));
    }
    format!("{before}{BEGIN}\n{table}{END}{after}")
}
