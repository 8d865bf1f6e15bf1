//! Checks for paths in the site configuration.
#![forbid(unsafe_code)]

use std::path::Path;

use super::names::clip;

/// Refuses paths that cannot be written into enroot's files, where blanks separate fields and `$` is expanded.
///
/// # Errors
/// A message that names the key.
pub fn check_path(key: &str, path: &Path) -> Result<(), String> {
    let text = path.to_str().unwrap_or_default();
    let plain = text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"$`\"'\\".contains(&b))
        && !text.split('/').any(|part| part == "..");
    if plain {
        Ok(())
    } else {
        Err(format!(
            "{key}: \"{}\" is not an absolute path without \"..\", blanks, quotes and \"$\"",
            clip(&path.to_string_lossy(), 80)
        ))
    }
}
