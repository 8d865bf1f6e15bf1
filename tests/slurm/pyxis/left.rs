//! What is left of a job in what outlives it: named containers, saved images, bundles.

use serde_json::json;

use super::{SHOW, expected, nothing_left, srun, world};
use crate::cluster::JobState;
use crate::site::credential_path;

#[test]
fn the_mount_points_in_named_and_saved_containers_name_no_job() {
    let Some((site, registries)) = world("what stays in containers") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let (alice, node) = (site.cluster.as_user("alice"), site.cluster.node(1));
    let set_up = "mount -t tmpfs tmpfs /srv && mkdir /srv/tokens && cp -L /var/run/secrets/tokens/token /srv/tokens";
    node.command(["sh", "-c", set_up]).run().ok();
    let find = |root: &str| {
        // Where the image's /var/run leads to /run, enroot mounts a tmpfs, in which it makes the mount points.
        let line = format!("cd {root} && find . -path '*gcp-wif*' -o -path '*tokens*' | sort");
        node.command(["sh", "-c", &line]).run().ok().stdout
    };
    // An export leaves the mount points themselves out.
    for (runtime, tokens, in_named, in_saved) in [
        ("/run/gcp-wif", "/var/run/secrets/tokens", &[][..], &[][..]),
        ("/srv/gcp-wif", "/srv/tokens", &["./srv/gcp-wif", "./srv/gcp-wif/jobs", "./srv/tokens"], &["./srv/gcp-wif"]),
    ] {
        let configuration = std::fs::read_to_string(credential_path(&node)).unwrap();
        site.write_credential_configuration(&configuration.replace("/var/run/secrets/tokens", tokens));
        site.configure(json!({"runtime_dir": runtime}));
        let saved = "/run/enroot/saved.sqsh";
        let save = format!("--container-save={saved}");
        let line = format!("test -s $GCP_WIF_ACCESS_TOKEN_FILE && test -s {tokens}/token && echo both");
        for _ in 0..2 {
            let options = ["--gcp-wif", "--container-name=kept", &save];
            let run = alice.command(srun(&image, &options, &["sh", "-c", &line])).run().ok();
            assert_eq!(run.stdout, "both\n", "{runtime}: {}", run.stderr);
        }
        let unpack = format!("cd /run/enroot && rm -rf saved && unsquashfs -n -q -d saved {saved}");
        node.command(["sh", "-c", &unpack]).run().ok();
        for (root, left) in [("/run/enroot/data-61001/pyxis_kept", in_named), ("/run/enroot/saved", in_saved)] {
            assert_eq!(find(root).lines().collect::<Vec<_>>(), left, "{runtime}: {root}");
        }
        alice.command(["srun", "-w", "n1", "enroot", "remove", "-f", "pyxis_kept"]).run().ok();
    }
    nothing_left(&site);
    site.finish();
}

#[test]
fn a_bundle_holds_no_token_and_uses_the_token_of_its_starter() {
    let Some((site, registries)) = world("bundles") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let (show, ours) = (SHOW.replace('\'', "'\\''"), "$GOOGLE_OAUTH_ACCESS_TOKEN");
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif -w n1\nset -e\nenroot import -o tiny.sqsh 'docker://{image}'\n\
         enroot bundle --all --target unpacked -o tiny.run tiny.sqsh\nbash tiny.run --extract\n\
         ls unpacked/.enroot/etc/user/environ.d unpacked/.enroot/etc/user/mounts.d\n\
         grep -rlaF -f $GCP_WIF_ACCESS_TOKEN_FILE unpacked && exit 1\n\
         echo started; bash tiny.run sh -c '{show}'\n\
         enroot create -n tiny tiny.sqsh\n\
         GOOGLE_OAUTH_ACCESS_TOKEN=later enroot start tiny sh -c 'echo [{ours}]'\n\
         env -u GOOGLE_OAUTH_ACCESS_TOKEN enroot start tiny sh -c 'echo [{ours}]'\n\
         enroot start tiny sleep 300 & until set -- $(enroot list -f | grep 'sleep 300') && [ $# -gt 1 ]; do sleep 0.1; done\n\
         enroot exec $2 sh -c '{show}'; kill $2; enroot remove -f tiny\n"
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!(state, JobState::Completed, "{output}");
    assert!(output.contains("50-gcp-wif.env"), "{output}");
    assert!(output.contains(&format!("started\n{}", expected(1))), "{output}");
    assert!(output.contains("\n[later]\n[]\n"), "{output}");
    assert!(output.ends_with(&expected(1)), "{output}");
    nothing_left(&site);
    site.finish();
}
