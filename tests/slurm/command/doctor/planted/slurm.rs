//! Faults in Slurm's files, and in what slurmd has loaded.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::{Fault, number};
use crate::cluster::plugin_path;
use crate::command::doctor::patched;
use crate::site::Site;

const PLUGSTACK: (&str, &str) = ("configuration", "plugstack.conf");

pub(super) const FAULTS: [Fault; 10] = [
    Fault::new("plugstack.conf without the plugin", PLUGSTACK, |site| write(site, "plugstack.conf", "")).by(
        |site, line| {
            // The line exactly as the doctor prints it. Slurm's own folder has the plugin, because slurm.conf has it in
            // PluginDir.
            let line = line.split_once("add the line: ").unwrap().1;
            write(site, "plugstack.conf", &format!("{line}\n"));
        },
    ),
    Fault::new("pyxis before the plugin", PLUGSTACK, |site| {
        write(site, "plugstack.conf", "optional spank_pyxis.so\noptional spank_gcp_wif.so\n");
    })
    .by(|site, line| {
        assert!(line.contains("move gcp-wif's line before pyxis's"), "{line}");
        write(site, "plugstack.conf", "optional spank_gcp_wif.so\noptional spank_pyxis.so\n");
    }),
    Fault::new("a plugin's file that is missing", PLUGSTACK, |site| fs::remove_file(plugin(site)).unwrap()).by(install),
    Fault::new("a plugin for another Slurm", ("configuration", "Slurm's release"), |site| {
        fs::write(plugin(site), patched("plugin_version", &0x0063_0b00_u32.to_ne_bytes())).unwrap();
    })
    .by(install),
    Fault::new("a plugin of another release", ("configuration", "plugin's version"), |site| {
        fs::write(plugin(site), patched("plugin_gcp_wif_version", b"0.0.9\0")).unwrap();
    })
    .warns()
    .by(install),
    Fault::new("a plugin's file that is none", ("configuration", "Slurm's release"), |site| {
        fs::write(plugin(site), "not a plugin").unwrap();
    })
    .by(install),
    Fault::new("an exchange that srun does not wait for", ("configuration", "time limits"), |site| {
        conf(site, "MessageTimeout=5\n");
        site.configure(json!({"timeout_seconds": 30}));
    })
    .warns()
    .by(|site, line| {
        let seconds = number(line, "lower timeout_seconds to ");
        site.configure(json!({"timeout_seconds": seconds}));
    }),
    Fault::new("a step that cannot be killed while it waits", ("configuration", "time limits"), |site| {
        conf(site, "MessageTimeout=60\nUnkillableStepTimeout=30\n");
    })
    .warns()
    .by(|site, line| {
        let seconds = number(line, "set UnkillableStepTimeout to ");
        conf(site, &format!("MessageTimeout=60\nUnkillableStepTimeout={seconds}\n"));
    }),
    Fault::new("a prolog that Slurm does not run", ("rules", "PrologFlags"), |site| {
        conf(site, "MessageTimeout=60\nPrologFlags=Alloc,RunInJob\n");
        site.configure(
            json!({"delivery": "agent", "rules": [{"partitions": ["gpu"]}], "command": crate::cluster::command_path()}),
        );
        crate::cluster::set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o400);
    })
    .by(|site, line| {
        assert!(line.contains("remove RunInJob"), "{line}");
        conf(site, "MessageTimeout=60\nPrologFlags=Alloc\n");
    }),
    Fault::new("a plugin that was installed while slurmd runs", ("configuration", "slurmd"), |site| {
        // Installed as by `install`, at the path from which slurmd loaded it.
        let path = site.cluster.dir().join("lib/spank_gcp_wif.so");
        let status = Command::new("install").args(["-m", "0644"]).arg(plugin_path()).arg(path).status().unwrap();
        assert!(status.success());
    })
    .warns()
    .by(|site, line| {
        assert!(line.ends_with("restart slurmd"), "{line}");
        site.cluster.node(1).restart_slurmd();
    }),
];

/// Gives node 1 its own slurm.conf, with a folder for plugins.
pub(super) fn prepare(site: &Site) {
    let folder = site.cluster.dir().join("planted");
    fs::create_dir(&folder).unwrap();
    install(site, "");
    write(site, "plugstack.conf", "optional spank_gcp_wif.so\n");
    conf(site, "MessageTimeout=60\n");
}

fn plugin(site: &Site) -> PathBuf {
    site.cluster.dir().join("planted/spank_gcp_wif.so")
}

fn install(site: &Site, _: &str) {
    fs::copy(plugin_path(), plugin(site)).unwrap();
}

fn conf(site: &Site, lines: &str) {
    let folder = site.cluster.dir().join("planted");
    write(site, "slurm.conf", &format!("ClusterName=ci\nPluginDir={}\n{lines}", folder.display()));
}

fn write(site: &Site, name: &str, text: &str) {
    fs::write(site.cluster.dir().join("planted").join(name), text).unwrap();
}
