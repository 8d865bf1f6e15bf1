use std::os::unix::fs::symlink;

use super::*;
use crate::testing;

fn path(environment: &[(&str, &str)], config_path: Option<&str>, system: &[(&str, &str)]) -> String {
    let directory = testing::directory();
    std::fs::create_dir(directory.join("enroot.conf.d")).unwrap();
    for (name, text) in system {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let config_path = config_path.map(str::to_owned);
    Search { environment: &environment, config_path, system: &directory.join("enroot.conf") }.path()
}

#[test]
fn the_path_is_found_as_enroot_finds_it() {
    let home = ("HOME", "/home/alice");
    let file = |text| ("enroot.conf", text);
    let drop_in = |text| ("enroot.conf.d/30-x.conf", text);
    for (environment, own, system, expected) in [
        (&[home][..], None, &[][..], "/home/alice/.config/enroot"),
        (&[home, ("XDG_CONFIG_HOME", "/xdg")], None, &[], "/xdg/enroot"),
        (&[home, ("XDG_CONFIG_HOME", "")], None, &[], "/home/alice/.config/enroot"),
        (&[home], Some("/mine"), &[file("ENROOT_CONFIG_PATH /site\n")], "/mine"),
        (&[home], Some(""), &[file("ENROOT_CONFIG_PATH /site\n")], "/site"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH /site\n"), drop_in("ENROOT_CONFIG_PATH /later\n")], "/site"),
        (
            &[home],
            None,
            &[file("#ENROOT_CONFIG_PATH /no\nENROOT_DATA_PATH /x\n"), drop_in("ENROOT_CONFIG_PATH=/later\n")],
            "/later",
        ),
        (&[home], None, &[file("  ENROOT_CONFIG_PATH \t /site \n")], "/site"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH /no-newline")], "/home/alice/.config/enroot"),
        (&[home], None, &[file("ENROOT_CONFIG_PATHS /no\n")], "/home/alice/.config/enroot"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH ${HOME}/.enroot\n")], "/home/alice/.enroot"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH ~/.enroot\n")], "/home/alice/.enroot"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH \"${XDG_CONFIG_HOME:-/etc/x}/e\"\n")], "/etc/x/e"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH ${XDG_CONFIG_HOME}/e\n")], "/home/alice/.config/enroot"),
        (&[home, ("USER", "alice")], None, &[file("ENROOT_CONFIG_PATH /e/$USER\n")], "/e/alice"),
    ] {
        assert_eq!(path(environment, own, system), expected, "{environment:?} {own:?} {system:?}");
    }
}

fn read(directory: &Path) -> Result<Source, SourceError> {
    let config_path = Some(directory.to_str().unwrap().to_owned());
    Source::read(&Search { environment: &[], config_path, system: Path::new("/nonexistent/enroot.conf") })
}

#[test]
fn what_is_there_is_taken_over_and_what_is_not_is_nothing() {
    let directory = testing::directory();
    let at = |name: &str| directory.join(name);
    assert_eq!(read(&at("none")).map(|s| s.credentials.expose().len()), Ok(0));
    std::fs::write(at("file"), "").unwrap();
    assert_eq!(read(&at("file")).map(|s| s.entries), Ok([const { Vec::new() }; 3]), "a file in the directory's place");
    std::fs::write(at(".credentials"), "machine a login b password c").unwrap();
    std::fs::create_dir(at("hooks.d")).unwrap();
    for name in ["20-b.sh", "10-a.sh"] {
        std::fs::write(at("hooks.d").join(name), "").unwrap();
    }
    symlink("/etc/shadow", at("hooks.d/30-shadow.sh")).unwrap();
    symlink("nowhere", at("hooks.d/40-dangling.sh")).unwrap();
    let source = read(&directory).unwrap();
    assert_eq!(source.credentials.expose(), "machine a login b password c");
    assert_eq!(source.entries[0], ["10-a.sh", "20-b.sh", "30-shadow.sh", "40-dangling.sh"]);
}

#[test]
fn what_cannot_be_taken_over_is_named() {
    let directory = testing::directory();
    let credentials = directory.join(".credentials");
    std::fs::create_dir(&credentials).unwrap();
    assert!(read(&directory).unwrap_err().to_string().ends_with(".credentials: not a regular file"));
    std::fs::remove_dir(&credentials).unwrap();
    std::fs::write(&credentials, "x".repeat(10 << 20)).unwrap();
    assert!(read(&directory).unwrap_err().to_string().contains("longer than"));
    std::fs::remove_file(&credentials).unwrap();
    std::fs::create_dir(directory.join("environ.d")).unwrap();
    for number in 0..=MOST_ENTRIES {
        std::fs::write(directory.join(format!("environ.d/{number}.env")), "").unwrap();
    }
    assert!(matches!(read(&directory), Err(SourceError::TooMany(_))));
    let relative = Search { environment: &[], config_path: Some("enroot".to_owned()), system: Path::new("/none") };
    assert!(matches!(Source::read(&relative), Err(SourceError::Path(_))));
}
