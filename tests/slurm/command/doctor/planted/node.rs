//! Faults in the node's files.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::Fault;
use crate::cluster::{command_path, set_mode, set_owner};
use crate::failures::{edit_config, edit_credential, reset, with_key};
use crate::google::Claims;
use crate::site::Site;

const SITE: (&str, &str) = ("configuration", "site configuration");
const RUNTIME: (&str, &str) = ("files", "runtime directory");

pub(super) const FAULTS: [Fault; 17] = [
    Fault::new("no site configuration", SITE, |site| fs::remove_file(site.cluster.node(1).config_path()).unwrap()).by(
        |site, line| {
            assert!(line.contains("write it, see \"Configure\""), "{line}");
            site.configure(json!({}));
        },
    ),
    Fault::new("a site configuration that group can write", SITE, |site| {
        set_mode(site.cluster.node(1).config_path(), 0o664);
    }),
    Fault::new("a site configuration of a user's", SITE, |site| set_owner(site.cluster.node(1).config_path(), 61001)),
    Fault::new("a key misspelt", SITE, |site| with_key(site, r#""atuo": true"#)).by(|site, line| {
        assert!(line.contains("unknown field `atuo`") && line.ends_with("correct it"), "{line}");
        edit_config(site, |text| text.replace("atuo", "auto"));
    }),
    Fault::new(
        "a credential configuration without its audience",
        ("configuration", "credential configuration"),
        |site| {
            edit_credential(site, "audience", Value::Null);
        },
    )
    .by(|site, line| {
        assert!(line.contains("audience is missing"), "{line}");
        site.trust(&site.source());
    }),
    Fault::new("no subject token", ("subject token", "file"), |site| {
        fs::remove_file(site.cluster.node(1).tokens_dir().join("token")).unwrap();
    })
    .by(|site, line| {
        assert!(line.contains("check the projected volume"), "{line}");
        symlink("..data/token", site.cluster.node(1).tokens_dir().join("token")).unwrap();
    }),
    Fault::new("a subject token that has expired", ("subject token", "expiry"), |site| {
        site.rotate(&site.google.subject_token(&Claims::default().issued_in(-7200).expires_in(-3600)));
    })
    .by(|site, line| {
        assert!(line.contains("find out why it is not renewed"), "{line}");
        site.rotate(&site.google.subject_token(&Claims::default()));
    }),
    Fault::new("a subject token that everybody reads", ("subject token", "mode"), |site| {
        reset(site, json!({"delivery": "agent", "command": command_path()}));
    })
    .by(|site, line| {
        assert!(line.ends_with("make it readable only by root (defaultMode: 0400)"), "{line}");
        set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o400);
    }),
    Fault::new("rules that everybody can pass by", ("rules", "rules"), |site| {
        site.configure(json!({"delivery": "direct", "rules": [{"users": ["alice"]}]}));
    })
    .warns()
    .by(|site, line| {
        let fix = "set delivery to \"agent\" and make the token readable only by root (defaultMode: 0400)";
        assert!(line.ends_with(fix), "{line}");
        site.configure(json!({"delivery": "agent", "command": command_path(), "rules": [{"users": ["alice"]}]}));
        set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o400);
    }),
    Fault::new("a runtime directory of a user's", RUNTIME, |site| {
        let path = site.cluster.node(1).run_dir().join("gcp-wif");
        fs::create_dir(&path).unwrap();
        set_owner(path, 61001);
    }),
    Fault::new("a runtime directory that all can write", RUNTIME, |site| {
        let path = site.cluster.node(1).run_dir().join("gcp-wif");
        fs::create_dir(&path).unwrap();
        set_mode(path, 0o777);
    }),
    Fault::new("a full runtime directory", ("files", "free space"), |site| {
        fs::write(site.cluster.node(1).run_dir().join("filler"), vec![0; 65 << 20]).unwrap_err();
    })
    .by(|site, line| {
        assert!(line.ends_with("free some space"), "{line}");
        fs::remove_file(site.cluster.node(1).run_dir().join("filler")).unwrap();
    }),
    Fault::new("no parent of the runtime directory", RUNTIME, |site| {
        with_key(site, r#""runtime_dir": "/run/none/gcp-wif""#);
    })
    .by(|site, line| {
        assert!(
            line.contains("/run/none: ") && line.ends_with("make it a directory that root owns, with mode 0711"),
            "{line}"
        );
        site.cluster.node(1).command(["install", "-d", "-m", "0711", "/run/none"]).run().ok();
    }),
    Fault::new("an agent's program that is missing", ("agent", "command"), |site| agent(site, "/usr/bin/none")).by(
        |site, line| {
            assert!(line.ends_with("install it, or set command"), "{line}");
            agent(site, command_path());
        },
    ),
    Fault::new("an agent's program of another release", ("agent", "command"), |site| {
        let path = site.cluster.dir().join("older");
        fs::write(&path, "#!/bin/sh\necho gcp-wif 0.0.9\n").unwrap();
        set_mode(&path, 0o755);
        agent(site, &path.display().to_string());
    })
    .warns()
    .by(|site, line| {
        assert!(line.ends_with("install one of them"), "{line}");
        let path = site.cluster.dir().join("older");
        fs::remove_file(&path).unwrap();
        fs::copy(command_path(), &path).unwrap();
    }),
    Fault::new("a file that a pod has mounted by subPath", ("configuration", "mounts"), |site| {
        // Lays a ConfigMap out as the kubelet does, binds one of its files, and replaces the ConfigMap later.
        let line = "d=/run/volume; mkdir -p $d/..2026_11_24; cp /etc/slurm/gcp-wif.json $d/..2026_11_24/; \
                    mount --bind $d/..2026_11_24/gcp-wif.json /etc/slurm/gcp-wif.json; \
                    cp -a $d/..2026_11_24 $d/..2026_11_25; rm -r $d/..2026_11_24";
        site.cluster.node(1).command(["bash", "-ec", line]).run().ok();
    })
    .warns()
    .by(|site, line| {
        assert!(line.ends_with("restart the pod, and mount the whole directory instead of a subPath"), "{line}");
        // A restarted pod sees this.
        let line = "umount /etc/slurm/gcp-wif.json && rm -r /run/volume";
        site.cluster.node(1).command(["bash", "-c", line]).run().ok();
    }),
    Fault::new("a subject token that a pod has mounted by subPath", ("subject token", "mounts"), |site| {
        let line = "cd /var/run/secrets/tokens; d=/run/volume/..2026_11_24; mkdir -p $d; cp token $d/; rm token; \
                    touch token; mount --bind $d/token token";
        site.cluster.node(1).command(["bash", "-ec", line]).run().ok();
    })
    .warns()
    .by(|site, line| {
        assert!(line.ends_with("restart the pod, and mount the whole directory instead of a subPath"), "{line}");
        let line = "cd /var/run/secrets/tokens; umount token; rm -r /run/volume; ln -sf ..data/token token";
        site.cluster.node(1).command(["bash", "-ec", line]).run().ok();
    }),
];

fn agent(site: &Site, command: &str) {
    site.configure(json!({"delivery": "agent", "command": command}));
    set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o400);
}
