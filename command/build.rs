//! Leaves the symbols out of the command that is installed.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The profile says so, too, but cargo forgets `strip` for a package with settings of its own in the profile.
    if std::env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
