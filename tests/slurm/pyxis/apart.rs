//! A container with a network of its own: the agent's port is not in it, the files are.

use std::time::Duration;

use serde_json::json;

use super::{nothing_left, srun, world};
use crate::cluster::{command_path, wait_until};
use crate::google::SERVICE_ACCOUNT;

const LIMIT: Duration = Duration::from_secs(120);

/// Asks the metadata endpoint who it is, then prints the access token's file again and again.
const LINE: &str = "/bin/busybox wget -q -O - --header 'Metadata-Flavor: Google' \
                    http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email; echo; \
                    while cat $GCP_WIF_ACCESS_TOKEN_FILE; do echo; sleep 1; done";

#[test]
fn a_container_without_the_nodes_network_has_a_token_that_is_refreshed() {
    let Some((site, registries)) = world("containers with a network of their own") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    site.google.configure(|options| options.access_token_life = Some(12));
    site.configure(json!({"delivery": "agent", "command": command_path()}));
    // enroot's hook mounts cgroups into a sysfs that is new with the network, where an old kernel has no place for them.
    site.cluster.node(1).command(["rm", "-f", "/etc/enroot/hooks.d/10-cgroups.sh"]).run().ok();
    let cases = [
        (&[][..], &[][..], SERVICE_ACCOUNT),
        (&["--container-unshare=net"], &[], ""),
        (&[], &[("ENROOT_UNSHARE_NET", "y")], ""),
    ];
    for (options, variables, answer) in cases {
        let options = [&["--gcp-wif"], options].concat();
        let mut command = site.cluster.as_user("alice").command(srun(&image, &options, &["sh", "-c", LINE]));
        for (name, value) in variables {
            command = command.env(name, value);
        }
        let mut job = command.spawn();
        let mut seen = Vec::new();
        wait_until(LIMIT, || {
            assert!(job.is_running(), "{options:?}: {}", job.stderr());
            let printed = job.stdout();
            let mut lines: Vec<&str> =
                printed.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).collect();
            if lines.is_empty() {
                return false;
            }
            assert_eq!(lines.remove(0), answer, "{options:?} {variables:?}: {}", job.stderr());
            // What is in the file now has not ended.
            if let Some(last) = lines.last().filter(|_| printed.len() > seen.len()) {
                let token = site.google.state.token(last).expect("Google knows the token");
                assert!(token.expires > site.google.state.now(), "{options:?} {variables:?}");
            }
            lines.dedup();
            seen = lines.into_iter().map(str::to_owned).collect();
            seen.len() == 2
        });
        site.cancel(job);
    }
    nothing_left(&site);
    site.finish();
}
