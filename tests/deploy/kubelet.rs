//! A pod on a node of the cluster: its volumes, init containers and mounts, as the kubelet makes them. Only the volumes
//! that the manifests add are created; the others belong to the test's cluster.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{User, set_mode};
use crate::google::ProjectedVolume;
use crate::image;
use crate::manifests::{checkout, list, named, text};

/// Gives a view its own /etc and /opt, so that mount points can be created there. Mounts below /etc stay.
const OWN_ROOT: &str = "\
mkdir -p /run/pod && mount -t tmpfs -o mode=0755 tmpfs /run/pod
mkdir /run/pod/old /run/pod/upper /run/pod/work
mount --rbind /etc /run/pod/old
mount -t overlay -o lowerdir=/etc,upperdir=/run/pod/upper,workdir=/run/pod/work overlay /etc
awk '$5 ~ \"^/run/pod/old/\" { print substr($5, 14) }' /proc/self/mountinfo | while read -r name; do
  mount --bind \"/run/pod/old/$name\" \"/etc/$name\"
done
mount -t tmpfs -o mode=0755 tmpfs /opt
";

/// How the names of the manifests' volumes and containers begin.
const OURS: &str = "gcp-wif";

/// A pod that was started in a view of the cluster.
pub struct Kubelet {
    directory: TempDir,
    view: User,
    pod: Value,
    tokens: Vec<ProjectedVolume>,
}

impl Kubelet {
    /// Takes over a view, in which root runs commands. The pod is not started yet.
    #[track_caller]
    pub fn new(view: User, pod: Value) -> Self {
        view.command(["sh", "-euc", OWN_ROOT]).run().ok();
        let directory = tempfile::tempdir().expect("a directory can be made");
        Self { directory, view, pod, tokens: Vec::new() }
    }

    /// Changes the pod before it is started.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.pod);
    }

    /// Makes the volumes, runs the init containers, and mounts what the main container mounts. A subject token comes
    /// from this function, which gets its audience.
    #[track_caller]
    pub fn start(&mut self, objects: &[Value], token: impl Fn(&str) -> String) {
        self.start_some(objects, token, |name| name.starts_with(OURS));
    }

    /// The same for some volumes and init containers, by name. What was started before stays as it is.
    #[track_caller]
    pub fn start_some(&mut self, objects: &[Value], token: impl Fn(&str) -> String, is_wanted: impl Fn(&str) -> bool) {
        let spec = self.pod["spec"].clone();
        let volumes = list(&spec["volumes"]).iter().filter(|volume| is_wanted(text(&volume["name"])));
        let new: Vec<&Value> = volumes.filter(|volume| !self.volume(text(&volume["name"])).exists()).collect();
        for volume in &new {
            self.make(volume, objects, &token);
        }
        for container in list(&spec["initContainers"]).iter().filter(|container| is_wanted(text(&container["name"]))) {
            self.run_init(container);
        }
        let mounts = list(&spec["containers"][0]["volumeMounts"]).iter();
        let mounts = mounts.filter(|mount| new.iter().any(|volume| volume["name"] == mount["name"]));
        self.shell(&mounts.map(|mount| self.mount(mount, "")).collect::<String>());
    }

    /// Runs a script in the main container.
    #[track_caller]
    pub fn shell(&self, script: &str) {
        self.view.command(["bash", "-euc", script]).run().ok();
    }

    /// Replaces a ConfigMap's content, as the kubelet does after a change.
    #[track_caller]
    pub fn update(&self, volume: &str, key: &str, content: &str) {
        let directory = self.volume(volume);
        let old = fs::read_link(directory.join("..data")).unwrap();
        let new = Path::new("..2026_11_24_13_00_00.2");
        fs::create_dir(directory.join(new)).unwrap();
        for entry in fs::read_dir(directory.join(&old)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, directory.join(new).join(path.file_name().unwrap())).unwrap();
        }
        let path = directory.join(new).join(key);
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
        set_mode(&path, 0o444);
        symlink(new, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        fs::remove_dir_all(directory.join(old)).unwrap();
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    #[track_caller]
    fn make(&mut self, volume: &Value, objects: &[Value], token: &impl Fn(&str) -> String) {
        let path = self.volume(text(&volume["name"]));
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o777);
        if volume["image"].is_object() {
            set_mode(&path, 0o755);
            image::make(&path);
        } else if volume["emptyDir"].is_object() {
            if volume["emptyDir"]["medium"] == "Memory" {
                self.shell(&format!("mount -t tmpfs -o mode=0777,size=64m tmpfs {}", path.display()));
            }
        } else if volume["configMap"].is_object() {
            make_config_map(&path, &volume["configMap"], objects);
        } else {
            let projected = &volume["projected"];
            let source = &projected["sources"][0]["serviceAccountToken"];
            assert_eq!(source["path"], "token", "a volume that is new to the test: {volume}");
            // Without a mode the kubelet takes this one, as the containers of the pod do not all name their user.
            let mode = projected["defaultMode"].as_u64().map_or(0o644, |mode| u32::try_from(mode).unwrap());
            self.tokens.push(ProjectedVolume::with_mode(&path, &token(text(&source["audience"])), mode));
        }
    }

    /// Gives the file with the subject token another mode.
    #[track_caller]
    pub fn chmod_token(&self, mode: u32) {
        let path = fs::canonicalize(self.tokens[0].token()).unwrap();
        set_mode(path, mode);
    }

    #[track_caller]
    fn run_init(&self, container: &Value) {
        let name = text(&container["name"]);
        let root = self.directory.path().join(format!("root-{name}"));
        fs::create_dir(&root).unwrap();
        image::make(&root);
        let root = root.display();
        let mut script = format!("mount --bind {root} {root}\n");
        for mount in list(&container["volumeMounts"]) {
            script.push_str(&self.mount(mount, &root.to_string()));
        }
        let security = &container["securityContext"];
        assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
        let access = if security["readOnlyRootFilesystem"] == true { "read-only" } else { "writable" };
        let runner = checkout().join("tests/deploy/container.py");
        let _ = write!(script, "exec python3 {} {root} {access} \"$@\"", runner.display());
        let command = list(&container["command"]).iter().chain(list(&container["args"])).map(text);
        let words = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", &script, "-"];
        self.view.command(words.into_iter().chain(command)).run().ok();
    }

    /// The lines that make a mount of a container whose root directory is this one.
    #[track_caller]
    fn mount(&self, mount: &Value, root: &str) -> String {
        assert!(named(&self.pod["spec"]["volumes"], text(&mount["name"])).is_some(), "no volume: {mount}");
        let from = self.volume(text(&mount["name"])).join(mount["subPath"].as_str().unwrap_or_default());
        let (from, to) = (from.display(), format!("{root}{}", text(&mount["mountPath"])));
        let mut script = format!(
            "if [ -d {from} ]; then mkdir -p {to}; else mkdir -p $(dirname {to}); : >>{to}; fi\n\
             mount --bind {from} {to}\n"
        );
        if mount["readOnly"] == true {
            let _ = writeln!(script, "mount -o remount,bind,ro {to}");
        }
        script
    }
}

#[track_caller]
fn make_config_map(path: &Path, source: &Value, objects: &[Value]) {
    let version = Path::new("..2026_11_24_12_00_00.1");
    fs::create_dir(path.join(version)).unwrap();
    let map = objects.iter().find(|object| object["metadata"]["name"] == source["name"]).expect("a ConfigMap");
    for (key, content) in map["data"].as_object().expect("data") {
        let file = path.join(version).join(key);
        fs::write(&file, text(content)).unwrap();
        set_mode(&file, u32::try_from(source["defaultMode"].as_u64().unwrap_or(0o644)).unwrap());
        symlink(Path::new("..data").join(key), path.join(key)).unwrap();
    }
    symlink(version, path.join("..data")).unwrap();
}
