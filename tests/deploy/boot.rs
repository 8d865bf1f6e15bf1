//! Jobs on nodes that have all of the project's files from the manifests, and a read-only /etc/slurm.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::{Node, Plugin, Settings};
use crate::google::{Claims, Google, SERVICE_ACCOUNT};
use crate::image;
use crate::kubelet::Kubelet;
use crate::manifests::{Kind, Manifests, list, text};
use crate::registry::Registries;
use crate::site::{Site, credential_path};
use crate::skipped::{is_installed, skip};

/// Where a line of plugstack.conf names pyxis, on nodes and login nodes.
const PYXIS_CONF: &str = "plugstack.conf.d/pyxis.conf";

/// A site whose nodes n1 and submit host are pods.
pub struct World {
    pub manifests: Manifests,
    pub node: Kubelet,
    login: Kubelet,
    pub objects: Vec<Value>,
    pub site: Site,
}

impl World {
    /// Boots a Slurm without the project's files. None, with a note, if manifests cannot be parsed here.
    #[track_caller]
    pub fn new(test: &str, kind: Kind) -> Option<Self> {
        Manifests::fill(test, &[])?;
        // The cluster's own lines, as in the chart: from a directory, or from the values.
        let after = match kind {
            Kind::Sunk => vec!["include /etc/slurm/plugstack.conf.d/*".to_owned()],
            Kind::Slinky => {
                let values = Manifests::fill(test, &[])?.values(Kind::Slinky);
                let lines = text(&values["configFiles"]["plugstack.conf"]).to_owned();
                lines.lines().map(|line| line.replace("/usr/share/pyxis/*", "/etc/slurm/plugstack.conf.d/*")).collect()
            }
        };
        let site = Site::with(Settings { after, ..Settings::with(Plugin::Absent) });
        for node in site.cluster.nodes() {
            fs::remove_file(node.config_path()).unwrap();
            fs::remove_file(credential_path(&node)).unwrap();
        }
        let manifests = fill(test, &site.google)?;
        let objects = manifests.objects(kind);
        let [compute, login] = manifests.pods(kind);
        let node = Kubelet::new(site.cluster.node(1).as_user("root"), compute);
        let login = Kubelet::new(site.cluster.as_user("root"), login);
        for view in ["submit", "node1"] {
            let directory = site.cluster.dir().join(view).join("etc-slurm/plugstack.conf.d");
            fs::create_dir(&directory).unwrap();
        }
        Some(Self { manifests, node, login, objects, site })
    }

    /// Makes Slurm load pyxis on n1 and on the submit host. False, with a note, if pyxis is not installed.
    #[track_caller]
    pub fn add_pyxis(&self, test: &str) -> bool {
        let Some(pyxis) = pyxis().filter(|_| is_installed("enroot")) else {
            skip(&format!("enroot and pyxis are not installed: {test}"));
            return false;
        };
        for view in ["submit", "node1"] {
            let path = self.site.cluster.dir().join(view).join("etc-slurm").join(PYXIS_CONF);
            fs::write(path, format!("required {}\n", pyxis.display())).unwrap();
        }
        true
    }

    /// Starts both pods, and slurmd in the one of n1.
    #[track_caller]
    pub fn start(&mut self, kind: Kind) {
        let google = &self.site.google;
        let token = |audience: &str| subject_token(google, audience);
        self.login.start(&self.objects, token);
        self.node.start(&self.objects, token);
        if kind == Kind::Sunk {
            let script = &self.manifests.values(kind)["compute"]["s6"]["gcp-wif-runtime"]["script"];
            self.node.shell(text(script));
        }
        self.restart();
    }

    /// Mounts nothing but the subject token on n1.
    #[track_caller]
    pub fn start_token(&mut self) {
        let google = &self.site.google;
        let token = |audience: &str| subject_token(google, audience);
        self.node.start_some(&self.objects, token, |name| name == "gcp-wif-token");
    }

    /// Restarts slurmd of n1, whose /etc/slurm is read-only from now on.
    #[track_caller]
    pub fn restart(&self) {
        self.node.shell("mount -o remount,bind,ro /etc/slurm");
        self.node_n1().restart_slurmd();
        self.site.cluster.assert_healthy();
    }

    pub fn node_n1(&self) -> Node {
        self.site.cluster.node(1)
    }
}

fn subject_token(google: &Google, audience: &str) -> String {
    google.subject_token(&Claims { audience: Some(vec![audience.to_owned()]), ..Claims::default() })
}

/// The manifests for this Google. These tests change only its host names in them.
#[track_caller]
fn fill(test: &str, google: &Google) -> Option<Manifests> {
    let audience = google.audience();
    let words: Vec<&str> = audience.split('/').collect();
    let [.., number, "locations", "global", "workloadIdentityPools", pool, "providers", provider] = words[..] else {
        panic!("{audience}");
    };
    let (account, project) = SERVICE_ACCOUNT.split_once('@').unwrap();
    let project = project.split('.').next().unwrap();
    let values = [
        ("GCP_PROJECT_NUMBER", number),
        ("WIF_POOL", pool),
        ("WIF_PROVIDER", provider),
        ("GCP_SA", account),
        ("GCP_PROJECT_ID", project),
    ];
    let manifests = Manifests::fill(test, &values)?;
    for kind in Kind::BOTH {
        for host in ["https://sts.googleapis.com", "https://iamcredentials.googleapis.com"] {
            manifests.replace(kind, "credential-configuration.json", host, &google.http_url());
        }
    }
    Some(manifests)
}

fn pyxis() -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu/slurm-wlm", "/usr/lib/x86_64-linux-gnu/slurm", "/usr/local/lib/slurm"]
        .map(|directory| Path::new(directory).join("spank_pyxis.so"))
        .into_iter()
        .find(|path| path.exists())
}

/// Settings of enroot for these tests, in the node's own /etc/enroot.
pub fn prepare_enroot(world: &World) {
    world.node.shell(
        "install -d -m 1777 /run/enroot /run/pod/enroot && cp -a /etc/enroot/. /run/pod/enroot\n\
         rm -f /run/pod/enroot/enroot.conf.d/*.conf && mkdir -p /run/pod/enroot/{enroot.conf,mounts}.d\n\
         mount --bind /run/pod/enroot /etc/enroot\n\
         printf '%s\\n' 'ENROOT_RUNTIME_PATH /run/enroot/runtime-$(id -u)' 'ENROOT_DATA_PATH /run/enroot/data-$(id -u)' \
           'ENROOT_CACHE_PATH /run/enroot/cache-$(id -u)' 'ENROOT_ALLOW_HTTP yes' >/etc/enroot/enroot.conf.d/50-test.conf",
    );
}

#[track_caller]
fn serves_a_job(kind: Kind) {
    let test = format!("a node of deploy/{}", kind.folder());
    let Some(mut world) = World::new(&test, kind) else { return };
    world.start(kind);
    let alice = world.site.cluster.as_user("alice");
    // The plugin is at its path in the image, and nowhere else.
    let run = alice.command(["srun", "--help"]).run().ok();
    assert!(run.stdout.contains("[gcp-wif]"), "{}", run.stdout);

    let show = "echo $GCP_WIF_SERVICE_ACCOUNT $GOOGLE_CLOUD_PROJECT; test -n \"$GCE_METADATA_HOST\" && echo agent; \
                cat /var/run/secrets/tokens/token >/dev/null 2>&1 || echo hidden; \
                touch /etc/slurm/x 2>/dev/null || echo read-only";
    let line = format!("{show}; {}", world.site.list());
    let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "sh", "-c", &line]).run().ok();
    let project = SERVICE_ACCOUNT.split(['@', '.']).nth(1).unwrap();
    let expected = format!("{SERVICE_ACCOUNT} {project}\nagent\nhidden\nread-only\n");
    assert!(run.stdout.starts_with(&expected) && run.stdout.contains("hello.txt"), "{}{}", run.stdout, run.stderr);
    let agent = "for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep /gcp-wif$ | sort -u";
    let run = world.node_n1().command(["sh", "-c", agent]).run().ok();
    assert_eq!(run.stdout, "/opt/gcp-wif/gcp-wif\n", "the agent is the image's");
    let on_tmpfs = world.node_n1().command(["findmnt", "-no", "FSTYPE", "/run/gcp-wif"]).run().ok();
    assert_eq!(on_tmpfs.stdout, "tmpfs\n");
    // Nobody except root can change what root runs.
    let writable = "find /opt/gcp-wif ! -type l \\( -perm /022 -o ! -user root \\); touch /opt/gcp-wif/x 2>&1";
    let run = world.node_n1().command(["sh", "-c", writable]).run().expect_status(1);
    assert!(run.stdout.contains("Read-only") && run.stdout.lines().count() == 1, "{}", run.stdout);

    // The doctor reports the same.
    let words = ["/opt/gcp-wif/gcp-wif", "doctor", "--config", "/etc/gcp-wif/gcp-wif.json"];
    let run = world.node_n1().command(words).run();
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);

    // A changed ConfigMap reaches the node without a restart.
    let config = world.manifests.path(kind, "gcp-wif.json");
    let config = fs::read_to_string(config).unwrap().replace(&format!("\"{project}\""), "\"another-project\"");
    world.node.update("gcp-wif-config", "gcp-wif.json", &config);
    let run = alice.shell("srun -w n1 --gcp-wif sh -c 'echo $GOOGLE_CLOUD_PROJECT'").run().ok();
    assert_eq!(run.stdout, "another-project\n", "{}", run.stderr);

    // The kubelet's runtime directory, writable by all users: the plugin reports it, and no node is drained.
    world.node.shell("chmod 0777 /run/gcp-wif");
    let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().expect_status(1);
    assert!(run.stderr.contains("gcp-wif: files: /run/gcp-wif: mode 0777"), "{}", run.stderr);
    world.node.shell("chmod 0711 /run/gcp-wif");
    alice.command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();

    // A container runtime that mounts image volumes noexec: srun reports it, and the step runs.
    if kind == Kind::Sunk {
        world.login.shell("mount -o remount,bind,ro,noexec /opt/gcp-wif");
        let run = alice.command(["srun", "-w", "n1", "true"]).run().ok();
        assert!(run.stderr.contains("failed to map segment"), "{}", run.stderr);
    }
    world.site.finish();
}

#[test]
fn a_node_of_sunk_has_everything_from_the_manifests() {
    serves_a_job(Kind::Sunk);
}

#[test]
fn a_node_of_slinky_has_everything_from_the_manifests() {
    serves_a_job(Kind::Slinky);
}

#[test]
fn a_private_image_is_pulled_on_such_a_node_and_a_denied_pull_says_why_first() {
    for kind in Kind::BOTH {
        let test = format!("pulls on a node of deploy/{}", kind.folder());
        let Some(mut world) = World::new(&test, kind) else { return };
        if !world.add_pyxis(&test) {
            return;
        }
        let google = &world.site.google;
        google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
        let registries = Registries::start(&world.site);
        prepare_enroot(&world);
        world.start(kind);
        let alice = world.site.cluster.as_user("alice");
        let image = format!("--container-image={}#team/tiny:1", registries.artifact());
        let words = ["srun", "-w", "n1", "--gcp-wif", &image, "sh", "-c", "echo $GCP_WIF_SERVICE_ACCOUNT"];
        let run = alice.command(words).run().ok();
        assert_eq!(run.stdout, format!("{SERVICE_ACCOUNT}\n"), "{}{}", run.stderr, registries.logs());
        // The plugin comes before pyxis, so that a step that is going to fail pulls nothing.
        let other = "--gcp-wif-service-account=nobody@demo-project.iam.gserviceaccount.com";
        let run = alice.command(["srun", "-w", "n1", other, &image, "true"]).run().expect_status(1);
        assert!(run.stderr.contains("gcp-wif: ") && !run.stderr.contains("importing"), "{}", run.stderr);
        world.site.finish();
    }
}

#[test]
fn a_node_without_the_image_runs_the_step_without_credentials() {
    let Some(world) = World::new("a node without the plugin", Kind::Slinky) else { return };
    // Only the login node has it.
    let mut world = world;
    world.login.start(&world.objects, |_| unreachable!("login nodes have no token"));
    world.restart();
    let alice = world.site.cluster.as_user("alice");
    let words = ["srun", "-w", "n1", "--gcp-wif", "sh", "-c", "echo \"<$GCP_WIF_SERVICE_ACCOUNT>\""];
    let run = alice.command(words).run().ok();
    assert_eq!(run.stdout, "<>\n", "{}", run.stderr);
    world.site.finish();
}

#[test]
fn s6_can_keep_the_agent() {
    let Some(mut world) = World::new("the agent under s6", Kind::Sunk) else { return };
    let script = text(&world.manifests.values(Kind::Sunk)["compute"]["s6"]["gcp-wif-agent"]["script"]).to_owned();
    assert!(script.lines().last().unwrap().starts_with("exec "), "s6 waits for the agent itself");
    world.start(Kind::Sunk);
    // The service serves until it is told to end.
    let mut agent = world.node_n1().command(["bash", "-c", &script]).spawn();
    let alice = world.site.cluster.as_user("alice");
    alice.command(["srun", "-w", "n1", "--gcp-wif", "printenv", "GCE_METADATA_HOST"]).run().ok();
    assert!(agent.is_running(), "{}{}", agent.stdout(), agent.stderr());
    agent.signal("TERM");
    agent.wait(std::time::Duration::from_secs(60));
    world.site.finish();
}

#[test]
fn the_health_check_drains_a_node_that_is_not_ready_and_resumes_it() {
    let Some(mut world) = World::new("the health check", Kind::Sunk) else { return };
    world.start(Kind::Sunk);
    let check = || {
        // slurmd sets nothing more than this.
        let words = ["env", "-i", "SLURMD_NODENAME=n1", "/opt/gcp-wif/health-check"];
        world.node_n1().command(words).run().ok();
        let show =
            world.site.cluster.as_user("root").command(["sinfo", "-hN", "-n", "n1", "-p", "debug", "-o", "%T %E"]);
        // The star marks a node that has not reported to slurmctld since.
        show.run().ok().stdout.replace('*', "")
    };
    assert_eq!(check(), "idle none\n");
    // The state before the oneshot.
    world.node.shell("chmod 0777 /run/gcp-wif");
    assert_eq!(check(), "drained gcp-wif doctor --offline failed\n");
    assert_eq!(check(), "drained gcp-wif doctor --offline failed\n");
    world.node.shell("chmod 0711 /run/gcp-wif");
    assert_eq!(check(), "idle none\n");
    // The script leaves a node with another reason alone.
    let root = world.site.cluster.as_user("root");
    root.command(["scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=disk"]).run().ok();
    for mode in ["0777", "0711"] {
        world.node.shell(&format!("chmod {mode} /run/gcp-wif"));
        assert_eq!(check(), "drained disk\n");
    }
    root.command(["scontrol", "update", "NodeName=n1", "State=RESUME"]).run().ok();
    world.site.finish();
}

#[test]
fn the_copies_of_both_folders_are_alike() {
    let Some(manifests) = Manifests::fill("copies of the files", &[]) else { return };
    let read = |kind, name| fs::read_to_string(manifests.path(kind, name)).unwrap();
    let name = "credential-configuration.json";
    assert_eq!(read(Kind::Sunk, name), read(Kind::Slinky, name));
    assert!(image::drop_in().starts_with("optional /opt/gcp-wif/"));
    let both = Kind::BOTH.map(|kind| list(&manifests.pods(kind)[0]["spec"]["containers"][0]["volumeMounts"]).len());
    assert!(both.iter().all(|&mounts| mounts >= 6), "{both:?}");
}
