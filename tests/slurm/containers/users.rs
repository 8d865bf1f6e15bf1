//! Files of users that are dangerous to read or to copy: too many, too long, from the kernel, or on a file system that
//! does not respond.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::{LIMIT, give, only_line, write};
use crate::agent;
use crate::cluster::{Node, wait_until};
use crate::registry::HOST;
use crate::site::{OBJECT, Site};

/// The limits of what is taken over: bytes of `.credentials`, and names in each directory.
const LONGEST: usize = 64 << 10;
const MOST: usize = 100;

/// Writes a configuration of alice's with this many names of this many bytes, and credentials of this length.
fn write_own(site: &Site, place: &str, names: [usize; 3], length: usize, credentials: usize) -> String {
    let home = site.cluster.home("alice");
    let directory = home.join(place);
    let _ = fs::remove_dir_all(&directory);
    let line = "machine nvcr.io login a password b\n";
    write(site, &format!("{place}/.credentials"), &format!("{line}{}", "#".repeat(credentials - line.len())));
    for (below, count) in ["hooks.d", "mounts.d", "environ.d"].into_iter().zip(names) {
        fs::create_dir(directory.join(below)).unwrap();
        give(&home, &directory.join(below));
        for number in 0..count {
            fs::write(directory.join(below).join(format!("{number:0length$}")), "").unwrap();
        }
    }
    directory.display().to_string()
}

#[test]
fn a_configuration_at_the_limit_works_and_a_larger_one_is_reported() {
    let site = Site::start();
    let run = |path: &str, line: &str| {
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", line];
        site.cluster.as_user("alice").command(words).env("ENROOT_CONFIG_PATH", path).run().ok()
    };
    let path = write_own(&site, "mine", [MOST; 3], 3, LONGEST);
    let largest = run(
        &path,
        "find $ENROOT_CONFIG_PATH -type l | wc -l; wc -c <$ENROOT_CONFIG_PATH/.credentials; \
         grep -v '^#' $ENROOT_CONFIG_PATH/.credentials | cut -c-90",
    );
    assert_eq!(largest.stderr, "");
    let mut lines = largest.stdout.lines();
    assert_eq!(lines.next().unwrap(), (3 * MOST).to_string());
    assert!(lines.next().unwrap().parse::<usize>().unwrap() > LONGEST, "{}", largest.stdout);
    assert!(largest.stdout.contains("\nmachine nvcr.io login a password b\n"), "{}", largest.stdout);
    assert!(largest.stdout.contains(&format!("\nmachine {HOST} login oauth2accesstoken password ya29.")));

    for (names, credentials, file, limit) in [
        ([MOST + 1, 0, 0], LONGEST, "hooks.d", MOST),
        ([0, MOST + 1, 0], LONGEST, "mounts.d", MOST),
        ([0, 0, MOST + 1], LONGEST, "environ.d", MOST),
        ([MOST; 3], LONGEST + 1, ".credentials", LONGEST),
    ] {
        let path = write_own(&site, "mine", names, 3, credentials);
        let run = run(&path, &format!("echo path=$ENROOT_CONFIG_PATH; {}", site.list()));
        assert!(
            run.stdout.starts_with(&format!("path={path}\n")) && run.stdout.contains(OBJECT),
            "{file}: {}",
            run.stdout
        );
        let line = only_line(&run.stderr);
        assert!(line.starts_with(&format!("gcp-wif: files: {path}/{file}: ")), "{line}");
        assert!(line.contains(&format!(" {limit} ")) && line.contains("containers get no credentials"), "{line}");
    }
    site.finish();
}

/// How much of the runtime directory's file system is used: KiB and inodes.
fn used(node: &Node) -> [u64; 2] {
    let run = node.command(["df", "-k", "--output=used,iused", "/run"]).run().ok();
    let fields = run.stdout.lines().last().unwrap().split_whitespace().map(|field| field.parse().unwrap());
    fields.collect::<Vec<u64>>().try_into().unwrap()
}

#[test]
fn twenty_steps_of_one_user_take_a_small_share_of_the_runtime_directory() {
    const STEPS: usize = 20;
    const INODES: u64 = 8000;
    let site = Site::start();
    let (node, home) = (site.cluster.node(1), site.cluster.home("alice"));
    // A link to more than 128 bytes takes a page of a tmpfs.
    for (case, names, length, credentials, most, beyond_share) in [
        ("the largest", MOST, 3, LONGEST, 16 << 10, STEPS - 4096 / (3 * MOST)),
        ("with the longest names", MOST, 255, LONGEST, 32 << 10, STEPS - (16 << 20) / (2 * LONGEST + 3 * MOST * 4096)),
        ("larger ones", 10 * MOST, 255, 16 * LONGEST, 16 << 10, 0),
    ] {
        let path = write_own(&site, "mine", [names; 3], length, credentials);
        let before = used(&node);
        let step = "srun -Q -n1 --overlap --gcp-wif bash -c 'echo >>started; until [ -e go ]; do sleep 0.1; done'";
        let line = format!("for i in $(seq {STEPS}); do {step} & done; wait");
        let steps = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", &line]);
        let steps = steps.env("ENROOT_CONFIG_PATH", &path).spawn();
        let started = || fs::read(home.join("started")).unwrap_or_default().len();
        wait_until(LIMIT, || started() == STEPS);
        let after = used(&node);
        let [size, inodes] = [0, 1].map(|which| after[which].saturating_sub(before[which]));
        assert!(size <= most && inodes <= INODES, "{case}: {size} KiB and {inodes} inodes");
        fs::write(home.join("go"), "").unwrap();
        let told = steps.wait(LIMIT).ok().stderr;
        let refused = told.matches("together with the copies of your other steps on this node").count();
        assert_eq!(refused, beyond_share, "{case}: {told}");
        site.cluster.assert_healthy();
        for name in ["go", "started"] {
            fs::remove_file(home.join(name)).unwrap();
        }
    }
    site.finish();
}

#[test]
fn files_of_the_kernel_are_not_copied() {
    let site = Site::start();
    let credentials = site.cluster.home("alice").join("mine/.credentials");
    write(&site, "mine/hooks.d/10-mine.sh", "#!/bin/sh\n");
    let path = credentials.parent().unwrap().display().to_string();
    for (target, leaks) in [
        ("/proc/self/maps", "r-xp"),
        ("/proc/thread-self/maps", "r-xp"),
        ("/proc/self/environ", "SLURM"),
        ("/proc/self/status", "VmRSS"),
        ("/proc/self/mountinfo", "tmpfs"),
        ("/proc/self/../version", "Linux"),
        ("/sys/kernel/uevent_seqnum", ""),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu"),
    ] {
        if fs::read(target).is_err() {
            continue;
        }
        let _ = fs::remove_file(&credentials);
        symlink(target, &credentials).unwrap();
        // The step's whole configuration, and whether it exists.
        let line = format!(
            "echo path=$ENROOT_CONFIG_PATH; {}; cat /run/gcp-wif/jobs/$SLURM_JOB_ID/enroot*/.cred*",
            site.list()
        );
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line];
        let run = site.cluster.as_user("alice").command(words).env("ENROOT_CONFIG_PATH", &path).run();
        assert!(leaks.is_empty() || !run.stdout.contains(leaks), "{target} is in a copy");
        if target == "/proc/self/environ" {
            // Readable only by root in a process that has changed its user. Then it counts as missing.
            continue;
        }
        assert!(
            run.stdout.starts_with(&format!("path={path}\n")) && run.stdout.contains(OBJECT),
            "{target}: {}",
            run.stdout
        );
        let line = only_line(&run.stderr);
        assert!(line.starts_with(&format!("gcp-wif: files: {path}/.credentials: ")), "{target}: {line}");
        assert!(line.contains("not on a real file system (such as /proc)"), "{target}: {line}");
    }
    site.finish();
}

/// A FUSE file system that accepts each request and answers only the first one, which sets it up. A process that uses
/// it cannot even be killed while it runs.
const SILENT: &str = "import ctypes, os, struct\n\
    fd = os.open('/dev/fuse', os.O_RDWR)\n\
    os.makedirs('/run/silent', exist_ok=True)\n\
    options = f'fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    assert libc.mount(b'silent', b'/run/silent', b'fuse', 0, options) == 0, os.strerror(ctypes.get_errno())\n\
    print('silent', flush=True)\n\
    while True:\n    \
        request = os.read(fd, 1 << 20)\n    \
        operation, unique = struct.unpack_from('=IQ', request, 4)\n    \
        if operation == 26:\n        \
            answer = struct.pack('=IIIIHHIIHHI28x', 7, 31, 0, 0, 8, 8, 4096, 1, 1, 0, 0)\n        \
            os.write(fd, struct.pack('=IiQ', 16 + len(answer), 0, unique) + answer)\n";

#[test]
fn a_home_that_never_responds_keeps_no_job_from_its_refresh_and_its_next_step() {
    let site = agent::site(json!({}), Some(12));
    let node = site.cluster.node(1);
    let fuse = node.command(["python3", "-c", SILENT]).spawn();
    wait_until(LIMIT, || fuse.stdout().contains("silent"));
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID; sleep 300"];
    let job = site.cluster.as_user("alice").command(words).env("ENROOT_CONFIG_PATH", "/run/silent/enroot").spawn();
    wait_until(LIMIT, || job.stdout().ends_with('\n'));
    assert!(only_line(&job.stderr()).contains("cannot be read in time"), "{}", job.stderr());
    let id = job.stdout().trim().to_owned();
    // The process that still waits for the home must not have the job's lock.
    let token = node.job_dir(&id).join("access_token");
    let first = fs::read(&token).unwrap();
    let words = ["srun", "--jobid", &id, "--overlap", "--gcp-wif", "bash", "-c", &site.list()];
    let run = site.cluster.as_user("alice").command(words).run();
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
    wait_until(LIMIT, || fs::read(&token).is_ok_and(|now| now != first));
    site.cancel(job);
    drop(fuse);
    site.finish();
}
