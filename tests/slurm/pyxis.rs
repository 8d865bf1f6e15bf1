//! Containers to the end, through the real pyxis and enroot, on a machine that has them.

mod apart;
mod attached;
mod left;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cluster::{ALICE, JobState, Node, Settings, set_mode, set_owner};
use crate::google::{Fault, SERVICE_ACCOUNT, Times};
use crate::readme::commands;
use crate::registry::{COMPANY, COMPANY_LOGIN, IMAGES_OWN, Registries};
use crate::site::{Site, names};
use crate::skipped::{is_installed, skip};

/// enroot's settings on the nodes of these tests: everything on the node's own /run, and a registry without TLS.
const ENROOT: &str = "ENROOT_RUNTIME_PATH /run/enroot/runtime-$(id -u)\nENROOT_DATA_PATH /run/enroot/data-$(id -u)\n\
                      ENROOT_CACHE_PATH /run/enroot/cache-$(id -u)\nENROOT_ALLOW_HTTP yes\n";

/// The image of the README's commands.
const README_IMAGE: &str = "us-central1-docker.pkg.dev#my-project/my-repo/image:tag";

/// What a container prints of what it was given.
const SHOW: &str = "echo $GCP_WIF_SERVICE_ACCOUNT; echo $GOOGLE_APPLICATION_CREDENTIALS; \
                    cat $GOOGLE_APPLICATION_CREDENTIALS | grep -c external_account; \
                    test \"$(cat $GCP_WIF_ACCESS_TOKEN_FILE)\" = \"$GOOGLE_OAUTH_ACCESS_TOKEN\" && echo same; \
                    test -s /var/run/secrets/tokens/token && echo subject; \
                    (echo x >$GCP_WIF_ACCESS_TOKEN_FILE) 2>/dev/null || echo read-only";

/// A site whose Slurm has pyxis, with its registries. None where this machine has no pyxis.
pub fn world(test: &str) -> Option<(Site, Registries)> {
    let Some(pyxis) = pyxis().filter(|_| is_installed("enroot")) else {
        skip(&format!("enroot and pyxis are not installed: {test}"));
        return None;
    };
    let site = Site::with(Settings { after: vec![format!("required {}", pyxis.display())], ..Settings::default() });
    site.google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
    let registries = Registries::start(&site);
    for node in site.cluster.nodes() {
        prepare(&site, &node);
    }
    Some((site, registries))
}

fn pyxis() -> Option<PathBuf> {
    [
        "/usr/lib/x86_64-linux-gnu/slurm-wlm",
        "/usr/lib/x86_64-linux-gnu/slurm",
        "/usr/lib64/slurm",
        "/usr/local/lib/slurm",
    ]
    .map(|directory| Path::new(directory).join("spank_pyxis.so"))
    .into_iter()
    .find(|path| path.exists())
}

/// Gives a node an /etc/enroot of its own, a copy of the machine's.
#[track_caller]
fn prepare(site: &Site, node: &Node) {
    let own = site.cluster.dir().join(format!("etc-enroot-{}", node.name())).display().to_string();
    let line = format!(
        "install -d -m 1777 /run/enroot && cp -a /etc/enroot {own} && rm -f {own}/enroot.conf.d/*.conf && \
         mkdir -p {own}/enroot.conf.d && cat >{own}/enroot.conf.d/50-test.conf && mount --bind {own} /etc/enroot"
    );
    node.command(["sh", "-c", &line]).stdin(ENROOT).run().ok();
}

/// The words of an srun in a container of the image in Artifact Registry.
fn srun<'a>(image: &'a str, options: &[&'a str], command: &[&'a str]) -> Vec<String> {
    let image = format!("--container-image={image}");
    let words = ["srun", "-w", "n1"].into_iter().chain(options.iter().copied());
    words.map(str::to_owned).chain([image]).chain(command.iter().map(|word| (*word).to_owned())).collect()
}

fn expected(job: u32) -> String {
    format!("{SERVICE_ACCOUNT}\n/run/gcp-wif/jobs/{job}/credentials.json\n1\nsame\nsubject\nread-only\n")
}

#[test]
fn a_private_image_is_pulled_and_finds_the_credentials() {
    let Some((site, registries)) = world("private images") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let alice = site.cluster.as_user("alice");
    let run = alice.command(srun(&image, &["--gcp-wif"], &["sh", "-c", SHOW])).run().ok();
    assert_eq!(run.stdout, expected(1), "{}{}", run.stderr, registries.logs());
    let regional = format!("{}#team/tiny:1", registries.regional());
    let run = alice.command(srun(&regional, &["--gcp-wif"], &["cat", "/etc/os-release"])).run().ok();
    assert!(run.stdout.contains("ID=tiny"), "{}{}", run.stderr, registries.logs());
    for command in commands("pyxis") {
        let command = command.replace(README_IMAGE, &image);
        let run = alice.shell(&format!("{command} | grep ID=tiny")).run().ok();
        assert_eq!(run.stdout, "ID=tiny\n", "{command}: {}", run.stderr);
    }
    // Without credentials the registry refuses, so that the pull above was theirs.
    let run = alice.command(srun(&image, &[], &["true"])).env("HOME", "/nonexistent").run();
    assert!(run.status != 0 && run.stderr.contains("401"), "{} {}", run.status, run.stderr);
    nothing_left(&site);
    site.finish();
}

#[test]
fn each_way_to_start_a_container_has_the_credentials() {
    let Some((site, registries)) = world("options of containers") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let alice = site.cluster.as_user("alice");
    let ways: [&[&str]; 5] = [
        &["--container-remap-root"],
        &["--container-writable"],
        &["--container-readonly"],
        &["--no-container-mount-home"],
        &["--container-remap-root", "--container-mount-home"],
    ];
    for (options, job) in ways.into_iter().zip(1..) {
        let options: Vec<&str> = ["--gcp-wif"].into_iter().chain(options.iter().copied()).collect();
        let run = alice.command(srun(&image, &options, &["sh", "-c", SHOW])).run().ok();
        assert_eq!(run.stdout, expected(job), "{options:?} {}", run.stderr);
    }
    let run = alice.command(srun(&image, &[], &["true"])).run();
    assert_ne!(run.status, 0, "an image in the cache was not asked for again");
    nothing_left(&site);
    site.finish();
}

#[test]
fn the_images_own_environment_hides_nothing() {
    let Some((site, registries)) = world("the image's environment") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let alice = site.cluster.as_user("alice");
    let own = "--container-env=GOOGLE_APPLICATION_CREDENTIALS,GOOGLE_OAUTH_ACCESS_TOKEN";
    for (options, job) in [(&["--gcp-wif"][..], 1), (&["--gcp-wif", own], 2)] {
        let run = alice.command(srun(&image, options, &["sh", "-c", SHOW])).run().ok();
        assert_eq!(run.stdout, expected(job), "{options:?} {}", run.stderr);
    }
    // Where the site gives credentials to nobody, the image has its own.
    let plain = "srun --gcp-wif --container-image=IMAGE --container-name=kept true; srun --container-name=kept sh -c 'echo $GOOGLE_APPLICATION_CREDENTIALS $GOOGLE_OAUTH_ACCESS_TOKEN'";
    let run = alice.command(["salloc", "-Q", "-w", "n1", "bash", "-c", &plain.replace("IMAGE", &image)]).run().ok();
    assert_eq!(run.stdout.trim(), IMAGES_OWN.join(" "), "{}", run.stderr);
    nothing_left(&site);
    site.finish();
}

#[test]
fn batch_scripts_inner_steps_and_plain_enroot() {
    let Some((site, registries)) = world("batch jobs") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let script = format!("#!/bin/sh\n{SHOW}\n");
    let (state, output) =
        site.cluster.run_batch("alice", &script, &["--gcp-wif", "-w", "n1", &format!("--container-image={image}")]);
    assert_eq!(state, JobState::Completed, "{output}");
    assert!(output.ends_with(&expected(1)), "{output}");

    let escaped = |image: &str| image.replace('#', "\\#");
    let script = commands("batch").join("\n").replace(&escaped(README_IMAGE), &escaped(&image));
    let (state, output) = site.cluster.run_batch("alice", &script, &["-w", "n1"]);
    assert_eq!(state, JobState::Completed, "{output}");
    assert!(output.ends_with("\nNAME=Tiny\nID=tiny\n"), "{output}");

    let show = SHOW.replace('\'', "'\\''");
    let script =
        format!("#!/bin/bash\n#SBATCH --gcp-wif -N2\nsrun -w n2 -N1 -n1 --container-image={image} sh -c '{show}'\n");
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!(state, JobState::Completed, "{output}");
    assert!(output.ends_with(&expected(3)), "{output}");

    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif -w n1\nset -e\nenroot import -o tiny.sqsh 'docker://{image}'\n\
         enroot create -n tiny tiny.sqsh\nenroot start tiny sh -c '{show}'\nenroot remove -f tiny\n"
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!(state, JobState::Completed, "{output}");
    assert!(output.contains(&expected(4)), "{output}");
    nothing_left(&site);
    site.finish();
}

#[test]
fn the_users_own_setup_keeps_working() {
    let Some((site, registries)) = world("the user's own set-up") else { return };
    let home = site.cluster.home("alice");
    let own = home.join(".config/enroot");
    let (login, password) = COMPANY_LOGIN;
    for (path, text, mode) in [
        (".credentials", format!("machine {COMPANY} login {login} password {password}"), 0o600),
        ("hooks.d/10-mine.sh", format!("#!/bin/sh\necho hook >>{}/hooks.log\n", home.display()), 0o755),
        (
            "mounts.d/20-mine.fstab",
            format!("{0}/shared /shared none x-create=dir,bind,ro 0 -1\n", home.display()),
            0o644,
        ),
        ("environ.d/30-mine.env", "MINE=in-force\n".to_owned(), 0o644),
    ] {
        let file = own.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        set_mode(&file, mode);
    }
    fs::create_dir(home.join("shared")).unwrap();
    fs::write(home.join("shared/file"), "shared\n").unwrap();
    site.cluster.as_user("root").command(["chown", "-R", "alice:alice", home.to_str().unwrap()]).run().ok();
    let line = "cat /shared/file; echo $MINE; echo $GCP_WIF_SERVICE_ACCOUNT";
    let expected = format!("shared\nin-force\n{SERVICE_ACCOUNT}\n");
    let alice = site.cluster.as_user("alice");
    for (host, hooks) in [(registries.artifact(), 1), (registries.company(), 2)] {
        let run = alice.command(srun(&format!("{host}#team/tiny:1"), &["--gcp-wif"], &["sh", "-c", line])).run().ok();
        assert_eq!(run.stdout, expected, "{host}: {}", run.stderr);
        assert_eq!(fs::read_to_string(home.join("hooks.log")).unwrap().lines().count(), hooks, "{host}");
    }
    // The same without us, so that it was he who could do it before.
    alice.command(srun(&format!("{}#team/tiny:1", registries.company()), &[], &["cat", "/shared/file"])).run().ok();
    set_owner(home.join("hooks.log"), ALICE);
    nothing_left(&site);
    site.finish();
}

#[test]
fn two_users_at_once_and_containers_used_again() {
    let Some((site, registries)) = world("several containers at once") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let runs: Vec<_> = ["alice", "bob", "alice", "bob"]
        .map(|user| site.cluster.as_user(user).command(srun(&image, &["--gcp-wif"], &["sh", "-c", SHOW])).spawn())
        .into();
    let mut seen: Vec<String> = runs.into_iter().map(|run| run.wait(Duration::from_secs(120)).ok().stdout).collect();
    seen.sort();
    assert_eq!(seen, (1..=4).map(expected).collect::<Vec<_>>());

    let show = SHOW.replace('\'', "'\\''");
    let line = format!(
        "srun --gcp-wif --container-image={image} --container-name=kept true && \
         srun --gcp-wif --container-name=kept sh -c '{show}'"
    );
    let run = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", &line]).run().ok();
    assert_eq!(run.stdout, expected(5), "{}", run.stderr);
    nothing_left(&site);
    site.finish();
}

#[test]
fn an_image_that_one_user_pulled_is_not_anothers() {
    let Some((site, registries)) = world("the cache of images") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    site.configure(json!({"rules": [{"users": ["alice"]}]}));
    let pull = |user: &str, options: &[&str]| {
        site.cluster.as_user(user).command(srun(&image, options, &["cat", "/etc/os-release"])).run()
    };
    assert!(pull("alice", &["--gcp-wif"]).ok().stdout.contains("ID=tiny"));
    // The rules give bob nothing, and without a token the registry does not.
    for (options, why) in [(&["--gcp-wif"][..], "gcp-wif: rules: no rule gives user bob"), (&[], "401")] {
        let run = pull("bob", options);
        assert!(run.status != 0 && run.stdout.is_empty() && run.stderr.contains(why), "{options:?}: {}", run.stderr);
    }
    nothing_left(&site);
    site.finish();
}

#[test]
fn a_pull_that_gets_no_credentials_says_why_first() {
    let Some((site, registries)) = world("failures of pulls") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    site.google.inject(crate::google::Endpoint::Sts, Fault::status(403), Times::Forever);
    let run = site.cluster.as_user("alice").command(srun(&image, &["--gcp-wif"], &["true"])).run().expect_status(1);
    let lines: Vec<&str> =
        run.stderr.lines().filter(|line| line.contains("gcp-wif") || line.contains("pyxis")).collect();
    assert!(lines[0].starts_with("gcp-wif: token exchange: "), "{}", run.stderr);
    assert!(!run.stderr.contains("importing"), "the image was pulled for a step that must not run: {}", run.stderr);
    nothing_left(&site);
    site.finish();
}

/// Nothing of a step's overlay stays: no directory, no container of pyxis.
#[track_caller]
fn nothing_left(site: &Site) {
    site.cluster.assert_healthy();
    for node in site.cluster.nodes() {
        let run = node.run_dir();
        assert_eq!(names(&run.join("gcp-wif/jobs")), Vec::<String>::new(), "{}", node.name());
        assert_eq!(names(&run.join("gcp-wif/records")), Vec::<String>::new(), "{}", node.name());
    }
}
