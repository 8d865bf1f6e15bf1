//! Defences of root's files, directories and processes.

use super::{Defence, edit};

const HELD: &str = "core/src/world/fs/held.rs";
const CHILD: &str = "core/src/world/sys/child.rs";
const SOURCE: &str = "core/src/plan/enroot/source.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "links-when-removing",
        property: "removing a directory follows no symbolic link",
        edits: &[edit(
            HELD,
            "match rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW,",
            "match rustix::fs::openat(parent, name, directory_flags(),",
        )],
        must_fail: &["attacks::planted_links"],
    },
    Defence {
        name: "links-when-making",
        property: "creating or opening a directory follows no symbolic link",
        edits: &[edit(
            HELD,
            "let open = || rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW,",
            "let open = || rustix::fs::openat(parent, name, directory_flags(),",
        )],
        must_fail: &["attacks::trees::a_tree_that_changes_while_root_works_leads_it_nowhere"],
    },
    Defence {
        name: "owner-of-directories",
        property: "root writes only below directories that root owns",
        edits: &[edit(HELD, "if stat.st_uid != owner {", "if false {")],
        must_fail: &["attacks::trees::a_tree_that_is_there_before_root_makes_its_own_is_refused"],
    },
    Defence {
        name: "mode-of-directories",
        property: "root writes only below directories that nobody else can write to",
        edits: &[edit(HELD, "if present & 0o022 != 0 {", "if false {")],
        must_fail: &["attacks::trees::a_tree_that_is_there_before_root_makes_its_own_is_refused"],
    },
    Defence {
        name: "jobs-directory",
        property: "users cannot list the directory of all jobs",
        edits: &[edit(
            "core/src/world/fs/runtime.rs",
            r#"&path.join("jobs"), Some(0o711)"#,
            r#"&path.join("jobs"), Some(0o755)"#,
        )],
        must_fail: &[
            "jobs::another_user_can_neither_list_nor_read_a_jobs_files",
            "pyxis::attached::no_user_reads_anothers_files_through_a_container",
        ],
    },
    Defence {
        name: "one-job-removed",
        property: "the end of a job removes only this job's directory",
        edits: &[edit(
            "core/src/world/fs/runtime.rs",
            "remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST)",
            "self.jobs().iter().try_for_each(|job| remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST))",
        )],
        must_fail: &["attacks::clean_up_of_one_job"],
    },
    Defence {
        name: "roots-files",
        property: "root owns the files that it rewrites for a job",
        edits: &[edit(HELD, "match acl::let_read(file, owner.uid) {", "match Err(Errno::NOTSUP) {")],
        must_fail: &[
            "published::files_that_root_rewrites_for_a_job_are_open_to_its_user_alone",
            "published::a_user_cannot_make_the_agent_read_more_than_it_wrote",
        ],
    },
    Defence {
        name: "room",
        property: "root makes room if users' files fill the runtime directory",
        edits: &[edit(
            "core/src/world/fs/runtime/room.rs",
            "Err(error) if error.is_full() && self.make_room()",
            "Err(error) if error.is_full() && false",
        )],
        must_fail: &[
            "published::a_user_who_fills_the_runtime_directory_keeps_no_other_user_from_credentials",
            "published::a_user_who_keeps_filling_the_runtime_directory_keeps_no_other_user_from_credentials",
        ],
    },
    Defence {
        name: "limits-of-a-step",
        property: "the copy of the user's enroot configuration for a step has a size limit",
        edits: &[
            edit(SOURCE, "const LONGEST_CREDENTIALS: u64 = 64 << 10;", "const LONGEST_CREDENTIALS: u64 = 64 << 20;"),
            edit(SOURCE, "const MOST_NAMES: usize = 100;", "const MOST_NAMES: usize = 10_000;"),
        ],
        must_fail: &["containers::users::a_configuration_at_the_limit_works_and_a_larger_one_is_reported"],
    },
    Defence {
        name: "share-of-a-user",
        property: "the copies for all steps of a user have a common size limit",
        edits: &[edit(
            SOURCE,
            "const SHARE: Size = Size { bytes: 16 << 20, names: 4096 };",
            "const SHARE: Size = Size { bytes: 16 << 30, names: 1 << 20 };",
        )],
        must_fail: &["containers::users::twenty_steps_of_one_user_take_a_small_share_of_the_runtime_directory"],
    },
    Defence {
        name: "real-file-systems",
        property: "only files on real file systems are copied",
        edits: &[edit("core/src/world/fs/users.rs", "if PSEUDO.contains(&(stat.f_type as u32)) {", "if false {")],
        must_fail: &["containers::users::files_of_the_kernel_are_not_copied"],
    },
    Defence {
        name: "as-the-user",
        property: "a process that has become the user reads the user's files",
        edits: &[edit(CHILD, "match become_user(uid, gid, groups) {", "match Ok::<_, Errno>(()) {")],
        must_fail: &[
            "containers::missing_and_foreign_paths_count_as_nothing",
            "attacks::processes::a_users_file_is_read_with_the_users_groups_and_with_no_other",
        ],
    },
    Defence {
        name: "groups-of-the-user",
        property: "this process has the user's groups and none of root's",
        edits: &[edit("core/src/world/sys.rs", "set_thread_groups(&groups)?;", "let _ = groups;")],
        must_fail: &["attacks::processes::a_users_file_is_read_with_the_users_groups_and_with_no_other"],
    },
    Defence {
        name: "no-shell",
        property: "no shell expands values of the node's enroot.conf",
        edits: &[edit(
            SOURCE,
            "match expand(value, &|name| self.bashs(name)) {",
            r#"let bash = std::process::Command::new("bash")
                    .args(["-c", &format!("echo {value}")])
                    .envs(self.environment.iter().cloned())
                    .output();
                match bash.map_err(|_| Unexpanded::Unset).map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned()) {"#,
        )],
        must_fail: &["containers::system::no_exported_function_runs_at_a_steps_start_or_leaves_a_process"],
    },
    Defence {
        name: "left-behind",
        property: "root stops waiting for a process that hangs on the user's home directory",
        edits: &[edit(CHILD, "for _ in 0..100 {", "for _ in 0..10_000 {")],
        must_fail: &["containers::users::a_home_that_never_responds_keeps_no_job_from_its_refresh_and_its_next_step"],
    },
    Defence {
        name: "deadline-of-a-home",
        property: "reading the user's home directory has a deadline of some seconds",
        edits: &[edit(
            CHILD,
            "read_until(ours, Instant::now() + limit)",
            "read_until(ours, Instant::now() + limit * 20)",
        )],
        must_fail: &["containers::a_home_that_hangs_delays_a_step_by_seconds_and_is_reported"],
    },
    Defence {
        name: "real-users-of-processes",
        property: "the real user ID decides whether a process named slurmstepd is Slurm's",
        edits: &[edit(
            "core/src/job/processes.rs",
            "self.proc.real_uid(*pid) == Some(0)",
            "self.proc.owner(*pid) == Some(0)",
        )],
        must_fail: &["published::what_a_crash_left_is_swept_even_if_a_process_is_named_after_the_jobs_steps"],
    },
    Defence {
        name: "no-core",
        property: "a process that holds tokens writes no core dump",
        edits: &[edit(
            "core/src/world/sys.rs",
            "NotDumpable);\n    let _ = setrlimit(",
            "NotDumpable);\n    let _ = (",
        )],
        must_fail: &["attacks::processes::no_process_that_holds_tokens_leaves_a_core"],
    },
    Defence {
        name: "trusted-files",
        property: "a configuration file that others own or can write to is refused",
        edits: &[edit(
            "core/src/world/fs.rs",
            "projected::look(path, || read(path, LONGEST, check))",
            "projected::look(path, || read(path, LONGEST, |stat| check(stat).or(Ok(()))))",
        )],
        must_fail: &["attacks::a_configuration_that_others_can_write"],
    },
    Defence {
        name: "exposed-subject-token",
        property: "the doctor checks who can read the subject token",
        edits: &[edit(
            "command/src/cli/doctor/subject_token.rs",
            "Ok((mode, owner || group || others))",
            "Ok((mode, owner && group && others))",
        )],
        must_fail: &["command::doctor::planted::on_the_node"],
    },
];
