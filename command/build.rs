//! Leaves the symbols out of the command that is installed. ci/valgrind sets GCP_WIF_SYMBOLS, because it needs them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GCP_WIF_SYMBOLS");
    // The profile says so, too, but cargo forgets `strip` for a package with settings of its own in the profile.
    let is_release = std::env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    if is_release && std::env::var_os("GCP_WIF_SYMBOLS").is_none() {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
