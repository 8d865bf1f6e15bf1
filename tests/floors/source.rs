//! The project's Rust files, and the paths in their code.

use std::path::Path;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

pub(crate) const CORE: &str = "core/src";
pub(crate) const COMMAND: &str = "command/src";
pub(crate) const PLUGIN: &str = "src";

/// A path in a file's code, and the module that it is in: that of the file, or one within it.
pub(crate) struct Mention {
    pub(crate) line: usize,
    pub(crate) module: Vec<String>,
    pub(crate) segments: Vec<String>,
}

pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) package: &'static str,
    /// `["world", "fs"]`; empty for the package's first file.
    pub(crate) module: Vec<String>,
    pub(crate) mentions: Vec<Mention>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Option<Self> {
        let package = [CORE, COMMAND, PLUGIN].into_iter().find(|package| Path::new(path).starts_with(package))?;
        let below = path.strip_prefix(package)?.strip_prefix('/')?.strip_suffix(".rs")?;
        let mut module: Vec<String> = below.split('/').map(str::to_owned).collect();
        let is_tests = path == "core/src/testing.rs" || module.iter().any(|part| part == "tests");
        if module.len() == 1 && ["lib", "main"].contains(&module[0].as_str()) {
            module.clear();
        }
        let mut mentions = Vec::new();
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        scan(stream, &module, &mut mentions);
        (!is_tests).then(|| Self { path: path.to_owned(), package, module, mentions })
    }
}

/// Finds the paths in code.
fn scan(stream: TokenStream, module: &[String], found: &mut Vec<Mention>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        rest = match (token, after) {
            (TokenTree::Group(group), _) if is_cfg_test(&group.stream()) => after_item(after),
            (TokenTree::Group(group), _) => {
                scan(group.stream(), module, found);
                after
            }
            (TokenTree::Ident(word), [TokenTree::Ident(name), TokenTree::Group(body), after @ ..]) if word == "mod" => {
                scan(body.stream(), &[module, &[name.to_string()]].concat(), found);
                after
            }
            (TokenTree::Ident(word), _) if word == "use" => {
                let end = after.iter().position(is_semicolon).unwrap_or(after.len());
                imports(&after[..end], &[], module, found);
                &after[end..]
            }
            (TokenTree::Ident(word), _) => {
                let (mut segments, mut after) = (vec![word.to_string()], after);
                while let [first, second, TokenTree::Ident(next), further @ ..] = after
                    && is_colon(first, Spacing::Joint)
                    && is_colon(second, Spacing::Alone)
                {
                    segments.push(next.to_string());
                    after = further;
                }
                found.push(Mention { line: word.span().start().line, module: module.to_vec(), segments });
                after
            }
            _ => after,
        };
    }
}

/// Takes a `use` line apart, from `prefix` on.
fn imports(tokens: &[TokenTree], prefix: &[String], module: &[String], found: &mut Vec<Mention>) {
    for tree in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
        let mut segments = prefix.to_vec();
        let mut line = None;
        for token in tree {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => {
                    line = Some(word.span().start().line);
                    segments.push(word.to_string());
                }
                TokenTree::Group(group) => {
                    line = None;
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    imports(&inner, &segments, module, found);
                }
                _ => {}
            }
        }
        if let Some(line) = line {
            found.push(Mention { line, module: module.to_vec(), segments });
        }
    }
}

fn is_colon(token: &TokenTree, spacing: Spacing) -> bool {
    // What follows the second colon is a word, so that it stands alone.
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':' && punct.spacing() == spacing)
}

fn is_semicolon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';')
}

fn is_cfg_test(attribute: &TokenStream) -> bool {
    attribute.to_string().replace(' ', "") == "cfg(test)"
}

/// What follows the item that an attribute is about.
fn after_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_semicolon(token),
    };
    tokens.iter().position(is_end).map_or(&[], |end| &tokens[end + 1..])
}

/// Whether the word is anywhere in code.
pub(crate) fn has_unsafe_code(stream: TokenStream) -> bool {
    stream.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => has_unsafe_code(group.stream()),
        _ => false,
    })
}

/// The project's Rust files with their texts.
pub(crate) fn rust_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut next) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = next.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && name != "target" {
                next.push(path);
            } else if name.ends_with(".rs") {
                let below = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.push((below, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}
