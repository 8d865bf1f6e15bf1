//! From the hand-made setup to the plugin, in the order of deploy/sunk/README.md, with a pull of a private image after
//! each step.
#![forbid(unsafe_code)]

use std::fs;

use tempfile::TempDir;

use crate::boot::{World, prepare_enroot};
use crate::cluster::{Run, set_mode};
use crate::google::{Endpoint, SERVICE_ACCOUNT};
use crate::manifests::{Kind, checkout};
use crate::registry::{HOST, Registries};

/// The hand-made setup's files on a compute node, in addition to the token: a directory with the script and the line of
/// .credentials, and two files below /etc/enroot.
#[track_caller]
fn start_by_hand(world: &World) -> TempDir {
    let files = tempfile::tempdir().expect("a directory can be made");
    let write = |name: &str, content: &str, mode: u32| {
        let path = files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        set_mode(&path, mode);
    };
    let (url, audience) = (world.site.google.http_url(), world.site.google.audience());
    // Its two requests are those of the script that ci/bench measures.
    let script = fs::read_to_string(checkout().join("tests/bench/seed.sh")).unwrap();
    let settings = format!(
        "#!/bin/sh\nAUDIENCE='{audience}' SERVICE_ACCOUNT='{SERVICE_ACCOUNT}' STS='{url}' IAM='{url}'\n\
         TOKEN_PATH=/var/run/secrets/tokens/token\n"
    );
    write("gar/get-gar-token.sh", &script.replacen("#!/bin/sh\n", &settings, 1), 0o555);
    let login = "login oauth2accesstoken password $(/var/run/secrets/gar/get-gar-token.sh)";
    write("gar/.credentials", &format!("machine {HOST} {login}\n"), 0o555);
    write("30-gar-config.conf", "ENROOT_CONFIG_PATH /var/run/secrets/gar\n", 0o444);
    let options = "none  x-create=dir,bind,ro,nosuid,nodev,noexec,private  0  -1";
    write("50-wif-token.fstab", &format!("/var/run/secrets/tokens  /var/run/secrets/tokens  {options}\n"), 0o444);
    let from = files.path().display();
    // The two files are mounted by subPath, the directory as a whole.
    world.node.shell(&format!(
        "mkdir -p /run/secrets/gar; mount --bind {from}/gar /run/secrets/gar; mount -o remount,bind,ro /run/secrets/gar\n\
         for file in enroot.conf.d/30-gar-config.conf mounts.d/50-wif-token.fstab; do\n\
         : >/etc/enroot/$file; mount --bind {from}/${{file#*/}} /etc/enroot/$file\ndone"
    ));
    files
}

/// What a container prints: whether it sees the subject token, and its identity.
const SHOW: &str = "test -e /var/run/secrets/tokens/token && echo token; echo \"<$GCP_WIF_SERVICE_ACCOUNT>\"";

/// A pull of alice's on n1, and how many exchanges at Google it took.
#[track_caller]
fn pull(world: &World, registries: &Registries) -> (Run, usize) {
    let exchanges = || world.site.google.requests_to(Endpoint::Sts).len();
    let image = format!("--container-image={}#team/tiny:1", registries.artifact());
    let before = exchanges();
    let run = world.site.cluster.as_user("alice").command(["srun", "-w", "n1", &image, "sh", "-c", SHOW]).run();
    (run, exchanges() - before)
}

#[test]
fn the_hand_made_setup_is_retired_with_a_pull_after_each_step() {
    let test = "retiring the hand-made setup";
    let Some(mut world) = World::new(test, Kind::Sunk) else { return };
    if !world.add_pyxis(test) {
        return;
    }
    world.site.google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
    let registries = Registries::start(&world.site);
    prepare_enroot(&world);
    let ours = format!("<{SERVICE_ACCOUNT}>\n");

    // Before: the token volume has no mode, so everyone can read the token, and the script asks Google for each pull.
    world.node.edit(|pod| {
        let volume = pod["spec"]["volumes"].as_array_mut().unwrap().iter_mut().find(|v| v["name"] == "gcp-wif-token");
        volume.unwrap()["projected"].as_object_mut().unwrap().remove("defaultMode").expect("a mode");
    });
    world.start_token();
    let _files = start_by_hand(&world);
    world.node_n1().restart_slurmd();
    let (run, exchanges) = pull(&world, &registries);
    assert_eq!(run.ok().stdout, "token\n<>\n");
    assert!(exchanges > 0, "the script was not asked");

    // 1: the plugin in addition. Each job has credentials, and the script's line takes precedence.
    world.start(Kind::Sunk);
    pull(&world, &registries).0.ok();
    let (run, exchanges) = pull(&world, &registries);
    assert_eq!(run.ok().stdout, format!("token\n{ours}"));
    assert!(exchanges > 0, "the line of the hand-made setup is not in force");
    // If only root could read the token, the script would fail, and enroot tries no other line. The mode comes last.
    world.node.chmod_token(0o400);
    let (run, _) = pull(&world, &registries);
    assert!(run.status != 0 && run.stdout.is_empty(), "the order of the steps does not matter: {}", run.stderr);
    world.node.chmod_token(0o644);

    // 2: without script and .credentials.
    world.node.shell("umount /run/secrets/gar; rmdir /run/secrets/gar");
    let (run, exchanges) = pull(&world, &registries);
    assert_eq!((run.ok().stdout, exchanges), (format!("token\n{ours}"), 0));

    // 3: without the drop-in that names their directory.
    world
        .node
        .shell("umount /etc/enroot/enroot.conf.d/30-gar-config.conf; rm /etc/enroot/enroot.conf.d/30-gar-config.conf");
    let (run, exchanges) = pull(&world, &registries);
    assert_eq!((run.ok().stdout, exchanges), (format!("token\n{ours}"), 0));

    // 4: without the mount of the token, which only root can read from now on. One change without the other does no
    // harm.
    world.node.chmod_token(0o400);
    assert_eq!(pull(&world, &registries).0.ok().stdout, format!("token\n{ours}"));
    world.node.shell("umount /etc/enroot/mounts.d/50-wif-token.fstab; rm /etc/enroot/mounts.d/50-wif-token.fstab");
    assert_eq!(pull(&world, &registries).0.ok().stdout, ours);
    world.site.finish();
}
