//! What a step gives to enroot: the merged configuration. The tests check its lines with curl against a real registry,
//! and its mounts with findmnt.

mod registries;
mod system;
mod users;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{ALICE, Settings, command_path, set_mode, set_owner, wait_until};
use crate::golden::Golden;
use crate::google::SERVICE_ACCOUNT;
use crate::registry::{COMPANY, COMPANY_LOGIN, HOST, Registries};
use crate::site::{OBJECT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);

/// The step's configuration as the job sees it: each file with the start of each line, and each link with its target.
const SHOW: &str = "cd $ENROOT_CONFIG_PATH && pwd && find . -printf '%P %y %m %u %l\\n' | sort && \
                    for f in .credentials mounts.d/*.fstab environ.d/*.env; do echo \"== $f\"; cut -c-200 $f; done";

/// Writes a file of alice's below her home.
fn write(site: &Site, path: &str, text: &str) {
    let file = site.cluster.home("alice").join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    give(&site.cluster.home("alice"), &file);
}

/// Gives a file and the directories above it to alice.
fn give(home: &Path, file: &Path) {
    for path in file.ancestors().take_while(|path| *path != home) {
        set_owner(path, ALICE);
    }
}

/// The plugin's only line in what a user reads.
#[track_caller]
fn only_line(stderr: &str) -> String {
    let ours: Vec<&str> = stderr.lines().filter(|line| line.starts_with("gcp-wif: ")).collect();
    assert_eq!(ours.len(), 1, "{stderr}");
    ours[0].to_owned()
}

fn show(site: &Site) -> String {
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW]).run().ok().stdout
}

#[test]
fn each_step_has_its_own_enroot_configuration_until_it_ends() {
    let site = Site::start();
    let shown = show(&site);
    let directory = shown.lines().next().unwrap();
    assert_eq!(directory, "/run/gcp-wif/jobs/1/enroot-0");
    for file in [".credentials", "mounts.d/50-gcp-wif.fstab", "environ.d/50-gcp-wif.env"] {
        // The last digit of the mode is the permission of others.
        let is_roots = |line: &str| line.starts_with(&format!("{file} f ")) && line.ends_with("0 root ");
        assert!(shown.lines().any(is_roots), "{file}: {shown}");
    }
    assert!(shown.contains(&format!("machine {HOST} login oauth2accesstoken password ya29.")), "{shown}");
    assert!(shown.contains("machine gcr.io login oauth2accesstoken password ya29."), "{shown}");
    let fstab = "/run/gcp-wif/jobs /run/gcp-wif/jobs none x-create=dir,bind,ro,nosuid,nodev,noexec,private 0 -1\n\
                 /var/run/secrets/tokens /var/run/secrets/tokens none x-create=dir,bind,ro,nosuid,nodev,noexec,private,nofail,silent 0 -1\n";
    assert!(shown.contains(fstab), "{shown}");
    assert!(shown.contains(&format!("GCP_WIF_SERVICE_ACCOUNT={SERVICE_ACCOUNT}\n")), "{shown}");
    assert!(shown.contains("GOOGLE_APPLICATION_CREDENTIALS=/run/gcp-wif/jobs/1/credentials.json\n"), "{shown}");

    // Each of a job's two steps has its own configuration while it runs. The first one's is removed at its end.
    let list = "srun --gcp-wif bash -c 'ls /run/gcp-wif/jobs/$SLURM_JOB_ID'";
    let line = format!("{list}; {list}");
    let run = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", &line]).run().ok();
    let listed: Vec<&str> = run.stdout.lines().collect();
    let files = |tree| ["access_token", "credentials.json", tree, "status"];
    assert_eq!(listed, [files("enroot-0"), files("enroot-1")].concat());
    site.finish();
}

#[test]
fn credentials_is_the_only_file_of_a_steps_directory_with_a_token_in_it() {
    let site = Site::start();
    let node = site.cluster.node(1);
    for delivery in ["direct", "agent"] {
        site.configure(json!({"delivery": delivery, "command": command_path()}));
        let (job, id) = site.running_job();
        let mut secrets = site.google.tokens();
        secrets.extend(fs::read_to_string(node.job_dir(&id).join("handle")));
        let directory = node.job_dir(&id).join("enroot-0");
        let mut with_token = Vec::new();
        for below in ["", "hooks.d", "mounts.d", "environ.d"] {
            for name in names(&directory.join(below)) {
                let text = fs::read_to_string(directory.join(below).join(&name)).unwrap_or_default();
                if secrets.iter().any(|secret| text.contains(&**secret)) {
                    with_token.push(name);
                }
            }
        }
        assert_eq!(with_token, [".credentials"], "{delivery}");
        site.cancel(job);
    }
    site.finish();
}

#[test]
fn the_users_configuration_stays_in_force_wherever_it_is() {
    let site = Site::start();
    let alice = site.cluster.as_user("alice");
    for (place, environment) in [
        (".config/enroot", None),
        ("xdg/enroot", Some(("XDG_CONFIG_HOME", "HOME/xdg"))),
        ("mine", Some(("ENROOT_CONFIG_PATH", "HOME/mine"))),
    ] {
        write(&site, &format!("{place}/.credentials"), "machine nvcr.io login $oauthtoken password in-PLACE");
        write(&site, &format!("{place}/hooks.d/10-mine.sh"), "#!/bin/sh\n");
        write(&site, &format!("{place}/mounts.d/20-mine.fstab"), "");
        write(&site, &format!("{place}/environ.d/30-mine.env"), "");
        let home = site.cluster.home("alice").display().to_string();
        let mut command = alice.command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW]);
        if let Some((name, value)) = environment {
            command = command.env(name, &value.replace("HOME", &home));
        }
        let shown = command.run().ok().stdout;
        assert!(
            shown.contains("== .credentials\nmachine nvcr.io login $oauthtoken password in-PLACE\nmachine "),
            "{place}: {shown}"
        );
        for entry in ["hooks.d/10-mine.sh", "mounts.d/20-mine.fstab", "environ.d/30-mine.env"] {
            assert!(
                shown.contains(&format!("{entry} l 777 root {home}/{place}/{entry}\n")),
                "{place} {entry}: {shown}"
            );
        }
        fs::remove_dir_all(site.cluster.home("alice").join(place)).unwrap();
    }
    site.finish();
}

#[test]
fn the_users_own_path_comes_back_for_a_nested_job_and_a_step_without() {
    let site = Site::start();
    let script = "#!/bin/bash\n#SBATCH --gcp-wif\necho batch=$ENROOT_CONFIG_PATH\nsrun bash -c 'echo step=$ENROOT_CONFIG_PATH'\n\
                  srun --no-gcp-wif bash -c 'echo without=$ENROOT_CONFIG_PATH'\n\
                  sbatch --parsable --no-gcp-wif -W -o nested.out --wrap 'echo nested=$ENROOT_CONFIG_PATH' >/dev/null\ncat nested.out\n";
    let (_, output) = site.cluster.run_batch("alice", script, &["--export=ALL,ENROOT_CONFIG_PATH=/opt/mine"]);
    // Newer releases say when they created a step.
    assert_eq!(
        output.lines().filter(|line| !line.starts_with("srun: ")).collect::<Vec<_>>(),
        [
            "batch=/run/gcp-wif/jobs/1/enroot-batch",
            "step=/run/gcp-wif/jobs/1/enroot-0",
            "without=/opt/mine",
            "nested=/opt/mine"
        ]
    );
    site.finish();
}

#[test]
fn curl_pulls_with_the_merged_lines_and_the_users_own_login_works_beside_them() {
    let site = Site::start();
    site.google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
    let registries = Registries::start(&site);
    let (login, password) = COMPANY_LOGIN;
    write(&site, ".config/enroot/.credentials", &format!("machine {COMPANY} login {login} password {password}"));
    let manifest = "v2/team/tiny/manifests/1 -o /dev/null -w '%{http_code}\\n'";
    let token = format!(
        "{}/token?service={HOST}&scope=repository:team/tiny:pull",
        site.google.http_url().replace("127.0.0.1", HOST)
    );
    // As enroot does it: it asks the realm with netrc, then the registry with the realm's token. The other registry
    // takes netrc itself.
    let line = format!(
        "n=\"--netrc-file $ENROOT_CONFIG_PATH/.credentials\"\n\
         t=$(curl -sS $n '{token}' | sed 's/.*\"token\": *\"\\([^\"]*\\)\".*/\\1/')\n\
         printf 'Authorization: Bearer %s' $t | curl -sS -H @- http://{artifact}/{manifest}\n\
         curl -sS http://{artifact}/{manifest}\n\
         curl -sS $n http://{company}/{manifest}\n\
         curl -sS http://{company}/{manifest}\n",
        artifact = registries.artifact(),
        company = registries.company(),
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    assert_eq!(run.stdout, "200\n401\n200\n401\n", "{}\n{}", run.stderr, registries.logs());
    site.finish();
}

#[test]
fn findmnt_understands_the_mounts() {
    let site = Site::start();
    let line = "cat $ENROOT_CONFIG_PATH/mounts.d/50-gcp-wif.fstab | grep -v nofail >fstab; findmnt --verify --tab-file $PWD/fstab; \
                findmnt -n --tab-file $PWD/fstab -o TARGET,OPTIONS";
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", line]).run().ok();
    assert!(
        run.stdout.contains("Success, no errors or warnings detected")
            || run.stdout.contains("0 parse errors, 0 errors"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("/run/gcp-wif/jobs x-create=dir,bind,ro,nosuid,nodev,noexec,private"),
        "{}",
        run.stdout
    );
    site.finish();
}

#[test]
fn the_site_names_its_registries_or_none() {
    let site = Site::start();
    site.configure(json!({"registries": ["registry.example"]}));
    let shown = show(&site);
    assert_eq!(shown.matches("machine ").count(), 1, "{shown}");
    assert!(shown.contains("machine registry.example login oauth2accesstoken password ya29."), "{shown}");
    site.configure(json!({"registries": []}));
    let shown = show(&site);
    assert!(!shown.contains("machine ") && shown.contains("50-gcp-wif.fstab"), "{shown}");
    site.finish();
}

#[test]
fn a_configuration_that_cannot_be_taken_over_stays_and_is_reported() {
    let site = Site::start();
    let home = site.cluster.home("alice");
    let credentials = home.join(".config/enroot/.credentials");
    write(&site, ".config/enroot/hooks.d/x.sh", "");
    let mkfifo = format!("mkfifo {0} && chown alice {0}", credentials.display());
    let cases: [(&str, &dyn Fn()); 3] = [
        ("a directory", &|| fs::create_dir(&credentials).unwrap()),
        ("a FIFO", &|| drop(site.cluster.node(1).command(["sh", "-c", &mkfifo]).run().ok())),
        ("ten megabytes", &|| fs::write(&credentials, "x".repeat(10 << 20)).unwrap()),
    ];
    let mut golden = Golden::new("enroot");
    for (case, sabotage) in cases {
        let _ = fs::remove_dir(&credentials);
        let _ = fs::remove_file(&credentials);
        sabotage();
        let line = format!("echo path=$ENROOT_CONFIG_PATH; {}", site.list());
        let run =
            site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
        assert!(run.stdout.starts_with("path=\n") && run.stdout.contains(OBJECT), "{}", run.stdout);
        golden.add(case, &only_line(&run.stderr), &site);
    }
    let run = site
        .cluster
        .as_user("alice")
        .shell("ENROOT_CONFIG_PATH=enroot srun -w n1 --gcp-wif printenv ENROOT_CONFIG_PATH")
        .run()
        .ok();
    assert_eq!(run.stdout, "enroot\n");
    golden.add("a relative path", &only_line(&run.stderr), &site);
    golden.check();
    site.finish();
}

#[test]
fn missing_and_foreign_paths_count_as_nothing() {
    let site = Site::start();
    write(&site, "file", "");
    let bobs = site.cluster.home("bob").join("enroot");
    fs::create_dir(&bobs).unwrap();
    fs::write(bobs.join(".credentials"), "machine nvcr.io login bob password bobs-own").unwrap();
    set_mode(&bobs, 0o700);
    let home = site.cluster.home("alice").display().to_string();
    for path in [format!("{home}/none"), format!("{home}/file"), bobs.display().to_string()] {
        let command = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW]);
        let run = command.env("ENROOT_CONFIG_PATH", &path).run().ok();
        assert!(
            run.stdout.contains(&format!("machine {HOST} ")) && !run.stdout.contains("bobs-own"),
            "{path}: {}",
            run.stdout
        );
    }
    site.finish();
}

#[test]
fn hooks_by_the_hundred_dangling_links_and_links_to_what_is_roots_are_only_links() {
    let site = Site::start();
    for number in 0..98 {
        write(&site, &format!(".config/enroot/hooks.d/{number:03}.sh"), "#!/bin/sh\n");
    }
    let hooks = site.cluster.home("alice").join(".config/enroot/hooks.d");
    symlink("/etc/shadow", hooks.join("shadow.sh")).unwrap();
    symlink("nowhere", hooks.join("dangling.sh")).unwrap();
    write(&site, ".config/enroot/environ.d/x.env", "");
    fs::remove_file(site.cluster.home("alice").join(".config/enroot/environ.d/x.env")).unwrap();
    symlink("/etc/shadow", site.cluster.home("alice").join(".config/enroot/.credentials")).unwrap();
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW]).run().ok();
    assert_eq!(run.stdout.matches("hooks.d/").count(), 200, "each link and its target: {}", run.stdout);
    assert!(!run.stdout.contains("root:"), "root read for the user what he cannot read himself");
    site.finish();
}

#[test]
fn a_home_that_hangs_delays_a_step_by_seconds_and_is_reported() {
    let site = Site::start();
    let node = site.cluster.node(1);
    // A FUSE file system that nobody serves. A process that accesses it waits until it is killed.
    let hang = "import ctypes, os, sys, time\n\
                fd = os.open('/dev/fuse', os.O_RDWR)\n\
                os.makedirs('/run/hanging', exist_ok=True)\n\
                options = f'fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()\n\
                libc = ctypes.CDLL(None, use_errno=True)\n\
                assert libc.mount(b'hang', b'/run/hanging', b'fuse', 0, options) == 0, os.strerror(ctypes.get_errno())\n\
                print('hangs', flush=True)\n\
                time.sleep(600)\n";
    let fuse = node.command(["python3", "-c", hang]).spawn();
    wait_until(LIMIT, || fuse.stdout().contains("hangs"));
    let command = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]);
    let run = command.env("ENROOT_CONFIG_PATH", "/run/hanging/enroot").limit(LIMIT).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    let mut golden = Golden::new("enroot_home");
    golden.add("a home that hangs", &only_line(&run.stderr), &site);
    golden.check();
    drop(fuse);
    site.finish();
}

#[test]
fn pyxis_before_the_plugin_is_noticed_once_for_a_job() {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    let (source, object) = (directory.path().join("pyxis.c"), directory.path().join("spank_pyxis.so"));
    fs::write(&source, "#include <slurm/spank.h>\nSPANK_PLUGIN(pyxis, 1)\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&object).arg(&source).status().unwrap();
    assert!(built.success());
    let line = format!("optional {}", object.display());
    let told = |settings: Settings| {
        let site = Site::with(settings);
        let steps = "srun --gcp-wif true; srun --gcp-wif true";
        let run = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", steps]).run().ok();
        if run.stderr.contains("gcp-wif: ") {
            let mut golden = Golden::new("pyxis");
            golden.add("pyxis first", &only_line(&run.stderr), &site);
            golden.check();
        }
        let logged = site.cluster.node(1).log().contains("names pyxis before gcp-wif");
        site.finish();
        (run.stderr.matches("gcp-wif: configuration: plugstack.conf names pyxis before gcp-wif").count(), logged)
    };
    assert_eq!(told(Settings { after: vec![line.clone()], ..Settings::default() }), (0, false));
    assert_eq!(told(Settings { before: vec![line], ..Settings::default() }), (1, true));
}

#[test]
fn nothing_is_written_below_etc_and_nothing_of_a_cancelled_step_is_left() {
    let site = Site::start();
    let node = site.cluster.node(1);
    let listing = ["sh", "-c", "find /etc -printf '%p %s %T@ %C@\\n' 2>/dev/null | grep -v /etc/slurm/ | sort | cksum"];
    let before = node.command(listing).run().ok().stdout;
    let (job, id) = site.running_job();
    assert!(names(&node.job_dir(&id)).contains(&"enroot-0".to_owned()));
    assert_eq!(node.command(listing).run().ok().stdout, before);
    site.cancel(job);
    site.finish();
}
