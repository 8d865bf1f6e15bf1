//! Compares the table of clients in docs/clients.md with the tests' results: `clients-table RECORDS PAGE`. Prints the
//! table, ends with status 1 if they differ, and rewrites the page if BLESS is set.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used, clippy::indexing_slicing)]

mod rows;

use std::process::ExitCode;
use std::{env, fs};

use self::rows::Seen;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [records, path] = arguments.as_slice() else {
        eprintln!("usage: clients-table RECORDS PAGE");
        return ExitCode::from(2);
    };
    // There is no file if no test ran a client.
    let seen = Seen::parse(&fs::read_to_string(records).unwrap_or_default());
    let page = fs::read_to_string(path).expect("the page can be read");
    print!("{}", seen.table(&page));
    if env::var_os("BLESS").is_some() {
        let Some(text) = seen.rewrite(&page) else {
            eprintln!("{path} has no place for the table of clients");
            return ExitCode::FAILURE;
        };
        fs::write(path, text).expect("the page can be written");
        return ExitCode::SUCCESS;
    }
    let differences = seen.differences(&page);
    for difference in &differences {
        println!("{difference}");
    }
    if differences.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("the table of clients in docs/clients.md is not what the tests have seen: BLESS=1 ci/test writes it");
    ExitCode::FAILURE
}
