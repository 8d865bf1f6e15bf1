use std::os::unix::fs::symlink;

use super::*;
use crate::testing;

fn path(
    environment: &[(&str, &str)],
    config_path: Option<&str>,
    system: &[(&str, &str)],
) -> Result<String, SourceError> {
    let directory = testing::directory();
    std::fs::create_dir(directory.join("enroot.conf.d")).unwrap();
    for (name, text) in system {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let config_path = config_path.map(str::to_owned);
    Search { environment: &environment, config_path, system: &directory.join("enroot.conf"), uid: 61001 }.path()
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
        (&[home, ("UID", "0")], None, &[file("ENROOT_CONFIG_PATH /e/$UID\n")], "/e/61001"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH $NONE\nENROOT_CONFIG_PATH /second\n")], "/second"),
        (&[home], None, &[file("ENROOT_CONFIG_PATH $NONE\n"), drop_in("ENROOT_CONFIG_PATH /later\n")], "/later"),
        (&[home], None, &[("enroot.conf.d/.x.conf", "ENROOT_CONFIG_PATH /hidden\n")], "/home/alice/.config/enroot"),
        (&[home], Some("/mine"), &[file("ENROOT_CONFIG_PATH $(id)\n")], "/mine"),
    ] {
        assert_eq!(path(environment, own, system).as_deref(), Ok(expected), "{environment:?} {own:?} {system:?}");
    }
}

#[test]
fn a_path_that_needs_a_shell_is_reported_with_its_file() {
    for value in ["/e/$(id -u)", "/e/$HOSTNAME", "/e/${PWD}", "$BASH_VERSION", "$ENROOT_X/e", "$file"] {
        let text = format!("ENROOT_CONFIG_PATH {value}\n");
        let error =
            path(&[("HOME", "/h"), ("PWD", "/p"), ("ENROOT_X", "/x")], None, &[("enroot.conf.d/9.conf", &text)])
                .unwrap_err();
        let expected = format!("/enroot.conf.d/9.conf: ENROOT_CONFIG_PATH: only a shell can expand \"{value}\", ");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(!is_expandable(value), "{value}");
    }
    for value in ["/e", "~/e", "${XDG_CONFIG_HOME:-$HOME/.config}/e", "/e/$USER", "/e/$UID"] {
        assert!(is_expandable(value), "{value}");
    }
}

fn read(directory: &Path) -> Result<Source, SourceError> {
    let config_path = Some(directory.to_str().unwrap().to_owned());
    Source::read(&Search { environment: &[], config_path, system: Path::new("/nonexistent/enroot.conf"), uid: 61001 })
}

#[test]
fn existing_files_are_merged_and_absent_ones_are_ignored() {
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
fn files_that_cannot_be_merged_are_named() {
    let directory = testing::directory();
    let credentials = directory.join(".credentials");
    std::fs::create_dir(&credentials).unwrap();
    assert!(read(&directory).unwrap_err().to_string().ends_with(".credentials: not a regular file"));
    std::fs::remove_dir(&credentials).unwrap();
    std::fs::write(&credentials, vec![b'x'; LONGEST_CREDENTIALS as usize + 1]).unwrap();
    assert!(read(&directory).unwrap_err().to_string().ends_with(".credentials: longer than 65536 bytes"));
    std::fs::write(&credentials, b"\xff").unwrap();
    assert!(read(&directory).unwrap_err().to_string().ends_with(".credentials: not UTF-8 text"));
    std::fs::remove_file(&credentials).unwrap();
    symlink("/proc/self/status", &credentials).unwrap();
    assert!(
        read(&directory).unwrap_err().to_string().ends_with(".credentials: not on a real file system (such as /proc)")
    );
    std::fs::remove_file(&credentials).unwrap();
    let environs = directory.join("environ.d");
    std::fs::create_dir(&environs).unwrap();
    for number in 0..MOST_NAMES {
        std::fs::write(environs.join(format!("{number}.env")), "").unwrap();
    }
    assert_eq!(read(&directory).unwrap().entries[2].len(), MOST_NAMES);
    std::fs::write(environs.join("one more"), "").unwrap();
    assert!(read(&directory).unwrap_err().to_string().ends_with("environ.d: more than 100 names"));
    let config_path = Some("enroot".to_owned());
    let relative = Search { environment: &[], config_path, system: Path::new("/none"), uid: 61001 };
    assert!(matches!(Source::read(&relative), Err(SourceError::Path(_))));
}

fn source(path: &str, credentials: usize, names: &[&str]) -> Source {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let credentials = Secret::new("x".repeat(credentials));
    Source { path: path.to_owned(), credentials, entries: [names, Vec::new(), Vec::new()] }
}

#[test]
fn a_copy_counts_credentials_twice_and_long_links_as_pages() {
    let name = "n".repeat(LONG_TARGET - "/e/hooks.d/".len());
    for (source, bytes, names, is_large) in [
        (source("/e", 0, &[]), 0, 0, false),
        (source("/e", 8 << 10, &["a"; 32]), 16 << 10, 32, false),
        (source("/e", (8 << 10) + 1, &[]), (16 << 10) + 2, 0, true),
        (source("/e", 0, &["a"; 33]), 0, 33, true),
        (source("/e", 0, &[&name[1..], &name]), PAGE, 2, false),
        (source("/e", 0, &[&*name; 5]), 5 * PAGE, 5, true),
    ] {
        assert_eq!(source.size(), Size { bytes, names });
        assert_eq!(source.size().is_large(), is_large, "{:?}", source.size());
    }
}

#[test]
fn large_copies_of_a_user_are_limited() {
    let largest = source("/e", 64 << 10, &["a"; 300]);
    let has_room = |copies: &[Size]| largest.check_share(copies.iter().copied()).is_ok();
    let (bytes, names) = (Size { bytes: 1 << 20, names: 0 }, Size { bytes: 0, names: 100 });
    assert!(has_room(&[]) && has_room(&[bytes; 15]) && !has_room(&[bytes; 16]));
    assert!(has_room(&[names; 37]) && !has_room(&[names; 38]));
    assert!(has_room(&[SMALL; 5000]), "small ones count");
}
