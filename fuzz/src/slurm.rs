//! The fuzz targets for the files and headers that the doctor reads.

use gcp_wif::fuzzing::{Plugins, fits, slurm_conf as read, token_service};

/// Checks plugstack.conf, and the patterns of its include lines.
pub(crate) fn plugstack_conf(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let plugins = Plugins::parse(&text);
    assert!(plugins.config.is_none() || plugins.has_ours);
    assert!(plugins.has_ours || !plugins.pyxis_is_earlier);
    assert!(!plugins.has_ours || text.contains("spank_gcp_wif.so"));
    // Comments and blanks must make no difference.
    let commented: String = text.lines().map(|line| format!(" {line} # spank_pyxis.so\n")).collect();
    let again = Plugins::parse(&commented);
    assert_eq!((again.config, again.pyxis_is_earlier), (plugins.config, plugins.pyxis_is_earlier));
    for pattern in plugins.included.iter().take(4) {
        let name = pattern.replace(['*', '?'], "x");
        assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern}");
        let others = [&name[..], "10-gcp-wif.conf", &"a".repeat(200)];
        for other in others {
            let is_plain = !pattern.contains(['*', '?']);
            assert!(!is_plain || fits(pattern.as_bytes(), other.as_bytes()) == (pattern == other), "{pattern} {other}");
        }
    }
}

/// Checks slurm.conf.
pub(crate) fn slurm_conf(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (key, word) in [("PluginDir", "/a"), ("prologflags", "alloc"), ("MessageTimeout", "25")] {
        let (value, has, _) = read(&text, key, word);
        assert!(!has || value.is_some());
        if let Some(value) = value {
            assert!(!value.contains(['#', '\n']) && value.trim() == value, "{value:?}");
        }
        // The first line must win, in upper and lower case.
        if !word.contains('/') && !text.starts_with('\\') {
            let first = format!("{} = {word} # x\n{text}", key.to_ascii_uppercase());
            assert_eq!(read(&first, key, word).0.as_deref(), Some(word));
        }
    }
}

/// Checks that a registry's header WWW-Authenticate cannot send the job's token to another host.
pub(crate) fn registry_challenge(bytes: &[u8]) {
    let challenge = String::from_utf8_lossy(bytes);
    for (image, host) in [("us-docker.pkg.dev/p/r/i:1", "us-docker.pkg.dev"), ("127.0.0.1:5000/i", "127.0.0.1")] {
        let Some(url) = token_service(&challenge, image) else { continue };
        let uri: http::Uri = url.parse().unwrap();
        assert_eq!(uri.host(), Some(host), "{url}");
        assert!(!url.contains('@') || uri.authority().is_some_and(|authority| !authority.as_str().contains('@')));
        assert!(uri.scheme_str() == Some("https") || host == "127.0.0.1", "{url}");
    }
}
