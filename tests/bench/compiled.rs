//! Programs in C, like Slurm's own interface.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSymbol};

use crate::cluster::plugin_path;
use crate::target;

/// Builds a program from a source in tests/bench.
pub fn compile(name: &str, arguments: &[&str]) -> PathBuf {
    let directory = target().join("bench");
    fs::create_dir_all(&directory).expect("target is writable");
    let path = directory.join(name);
    let status = Command::new("gcc")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench"))
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&path)
        .args(arguments)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "gcc builds {name}");
    path
}

/// The plugin that does nothing.
pub fn empty_plugin() -> PathBuf {
    let path = compile("empty.so", &["empty.c", "-shared", "-fPIC"]);
    assert_eq!(hooks(&path), hooks(&plugin_path()), "tests/bench/empty.c has the plugin's hooks");
    path
}

/// The hooks that a plugin has.
fn hooks(plugin: &Path) -> BTreeSet<String> {
    let bytes = fs::read(plugin).expect("the plugin is there");
    let file = object::File::parse(&*bytes).expect("the plugin is an ELF file");
    let defined = file.dynamic_symbols().filter(ObjectSymbol::is_definition);
    let names = defined.filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    names.filter(|name| name.starts_with("slurm_spank_")).collect()
}
