//! The table of clients in docs/clients.md: its rows, and the differences between table and tests.

// Each binary uses a part of it.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt;

/// Where the table is in the page.
const BEGIN: &str = "<!-- ci/test writes from here -->\n";
const END: &str = "<!-- to here -->";
const HEAD: &str =
    "| client | version | by file | by metadata | past three expiries | remark |\n|---|---|---|---|---|---|\n";

/// Clients that are not available to the tests, and what should work.
const NOT_TRIED: [(&str, &str); 6] = [
    (
        "DuckDB: httpfs",
        "the extension is not available to the tests; it accepts HMAC keys, or a token that it does not refresh. Use it with gcsfs",
    ),
    (
        "Java: google-auth-library from 1.0 on",
        "not available to the tests; refuses a `token_url` with plain http. Use metadata",
    ),
    ("gcsfuse", "not available to the tests; uses Go's library, and passes the variables on to its background process"),
    ("Nextflow", "not available to the tests; uses Java's library. Use metadata"),
    ("PyTorch", "has no client of its own: loaders use gcsfs or google-cloud-storage"),
    (
        "Terraform: hashicorp/google",
        "not available to the tests; prefers GOOGLE_OAUTH_ACCESS_TOKEN, which it cannot refresh. Unset that variable, and it uses Go's library",
    ),
];

/// The result of a client in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    #[default]
    Untried,
    Works,
    Refuses,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Untried => "–",
            Self::Works => "yes",
            Self::Refuses => "no",
        })
    }
}

/// A client of one version, as a line of the table and of the file of records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    client: String,
    cells: Vec<String>,
}

impl Row {
    /// A tested client, which outlived three tokens.
    pub fn new(client: &str, version: &str, [file, metadata]: [Outcome; 2], remark: &str) -> Self {
        let cells = [version, &file.to_string(), &metadata.to_string(), "yes", remark];
        Self { client: client.to_owned(), cells: cells.map(str::to_owned).into() }
    }

    /// A tested client that does not run long enough for that.
    pub fn new_short(client: &str, version: &str, outcomes: [Outcome; 2], remark: &str) -> Self {
        let mut row = Self::new(client, version, outcomes, remark);
        "–".clone_into(&mut row.cells[3]);
        row
    }

    fn untried((client, remark): (&str, &str)) -> Self {
        let cells = ["–", "not tried", "not tried", "–", remark];
        Self { client: client.to_owned(), cells: cells.map(str::to_owned).into() }
    }

    fn parse(line: &str) -> Option<Self> {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let mut cells = cells.split(" | ").map(str::to_owned);
        Some(Self { client: cells.next()?, cells: cells.collect() })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "| {} | {} |", self.client, self.cells.join(" | "))
    }
}

/// A line of the file of records for a client that is not installed.
pub fn absence(client: &str) -> String {
    format!("- {client}")
}

/// The results of one run of the tests.
#[derive(Debug)]
pub struct Seen {
    rows: BTreeSet<Row>,
    absent: BTreeSet<String>,
}

impl Seen {
    /// Reads the file of records.
    pub fn parse(records: &str) -> Self {
        let rows = records.lines().filter_map(Row::parse).chain(NOT_TRIED.map(Row::untried)).collect();
        let absent = records.lines().filter_map(|line| line.strip_prefix("- ")).map(str::to_owned).collect();
        Self { rows, absent }
    }

    /// The table of these rows, and of those shown rows whose client is not installed.
    pub fn table(&self, page: &str) -> String {
        let kept = shown(page).into_iter().filter(|row| self.absent.contains(&row.client));
        let rows: BTreeSet<Row> = kept.chain(self.rows.iter().cloned()).collect();
        rows.iter().fold(HEAD.to_owned(), |table, row| format!("{table}{row}\n"))
    }

    /// The page with that table instead of its own; none if it has no marks for a table.
    pub fn rewrite(&self, page: &str) -> Option<String> {
        let (before, rest) = page.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}{}{END}{after}", self.table(page)))
    }

    /// The differences between the page's table and the tests.
    pub fn differences(&self, page: &str) -> Vec<String> {
        let shown = shown(page);
        let wrong = shown.iter().filter(|row| !self.rows.contains(row) && !self.absent.contains(&row.client));
        let wrong = wrong.map(|row| format!("the page has, and no test has seen: {row}"));
        let missing = self.rows.iter().filter(|row| !shown.contains(row));
        wrong.chain(missing.map(|row| format!("a test has seen, and the page has not: {row}"))).collect()
    }
}

/// The rows of the page's table.
fn shown(page: &str) -> BTreeSet<Row> {
    let table = page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map_or("", |(table, _)| table);
    table.lines().skip(HEAD.lines().count()).filter_map(Row::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: [Outcome; 2] = [Outcome::Works, Outcome::Refuses];

    fn seen(records: &[String]) -> Seen {
        Seen::parse(&records.iter().map(|record| format!("{record}\n")).collect::<String>())
    }

    fn page(seen: &Seen) -> String {
        seen.rewrite(&format!("# Title\n{BEGIN}{HEAD}{END}\nEnd.\n")).unwrap()
    }

    #[test]
    fn a_table_that_the_tests_have_seen_differs_in_nothing() {
        let records =
            [Row::new("Go: a", "1", WORKS, "x"), Row::new("Go: a", "2", WORKS, "")].map(|row| row.to_string());
        let seen = seen(&records);
        let page = page(&seen);
        assert!(page.starts_with("# Title\n") && page.ends_with("-->\nEnd.\n"), "{page}");
        assert!(page.contains("\n| Go: a | 1 | yes | no | yes | x |\n| Go: a | 2 | yes | no | yes |  |\n"), "{page}");
        assert!(page.contains("| Nextflow | – | not tried | not tried | – | "), "{page}");
        assert_eq!(seen.differences(&page), [""; 0]);
        assert_eq!(seen.rewrite(&page), Some(page));
        assert_eq!(seen.rewrite("no table"), None);
    }

    #[test]
    fn a_planted_difference_is_named() {
        let seen = seen(&[Row::new("Go: a", "1", WORKS, "x").to_string()]);
        let page = page(&seen);
        for (from, to) in [("a | 1 |", "a | 2 |"), ("yes | no", "yes | yes"), ("x |", "y |")] {
            let planted = page.replacen(from, to, 1);
            let told = seen.differences(&planted);
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[0].starts_with("the page has, and no test has seen: | Go: a | "), "{told:?}");
            assert_eq!(told[1], "a test has seen, and the page has not: | Go: a | 1 | yes | no | yes | x |");
        }
        let told = seen.differences(&page.replace("| Go: a | 1 | yes | no | yes | x |\n", ""));
        assert_eq!(told, ["a test has seen, and the page has not: | Go: a | 1 | yes | no | yes | x |"]);
    }

    #[test]
    fn a_row_without_a_test_is_named_unless_its_client_is_absent() {
        let row = Row::new_short("R: b", "1", WORKS, "");
        let full = seen(&[row.to_string()]);
        let page = page(&full);
        assert_eq!(seen(&[]).differences(&page), [format!("the page has, and no test has seen: {row}")]);
        let absent = seen(&[absence("R: b")]);
        assert_eq!(absent.differences(&page), [""; 0]);
        // Nor is it lost.
        assert_eq!(absent.rewrite(&page), Some(page));
    }
}
