//! Files, directories and processes of root's.

use super::{Defence, edit};

const HELD: &str = "core/src/world/fs/held.rs";
const CHILD: &str = "core/src/world/sys/child.rs";
const SOURCE: &str = "core/src/plan/enroot/source.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "links-when-removing",
        without: "what is removed is held open without following a link",
        edits: &[edit(
            HELD,
            "match rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW,",
            "match rustix::fs::openat(parent, name, directory_flags(),",
        )],
        red: &["attacks::planted_links"],
    },
    Defence {
        name: "links-when-making",
        without: "a directory is made or opened without following a link",
        edits: &[edit(
            HELD,
            "let open = || rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW,",
            "let open = || rustix::fs::openat(parent, name, directory_flags(),",
        )],
        red: &["attacks::trees::a_tree_that_changes_while_root_works_leads_it_nowhere"],
    },
    Defence {
        name: "owner-of-directories",
        without: "a directory below which root writes belongs to root",
        edits: &[edit(HELD, "if stat.st_uid != owner {", "if false {")],
        red: &["attacks::trees::a_tree_that_is_there_before_root_makes_its_own_is_refused"],
    },
    Defence {
        name: "mode-of-directories",
        without: "nobody but root can write to such a directory",
        edits: &[edit(HELD, "if present & 0o022 != 0 {", "if false {")],
        red: &["attacks::trees::a_tree_that_is_there_before_root_makes_its_own_is_refused"],
    },
    Defence {
        name: "jobs-directory",
        without: "nobody can list the jobs' directories",
        edits: &[edit(
            "core/src/world/fs/runtime.rs",
            r#"&path.join("jobs"), Some(0o711)"#,
            r#"&path.join("jobs"), Some(0o755)"#,
        )],
        red: &[
            "jobs::another_user_can_neither_list_nor_read_a_jobs_files",
            "pyxis::attached::no_user_reads_anothers_files_through_a_container",
        ],
    },
    Defence {
        name: "one-job-removed",
        without: "the end of a job removes this job's directory alone",
        edits: &[edit(
            "core/src/world/fs/runtime.rs",
            "remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST)",
            "self.jobs().iter().try_for_each(|job| remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST))",
        )],
        red: &["attacks::clean_up_of_one_job"],
    },
    Defence {
        name: "roots-files",
        without: "what root rewrites for a job belongs to root",
        edits: &[edit(HELD, "match acl::let_read(file, owner.uid) {", "match Err(Errno::NOTSUP) {")],
        red: &[
            "published::files_that_root_rewrites_for_a_job_are_open_to_its_user_alone",
            "published::a_user_cannot_make_the_agent_read_more_than_it_wrote",
        ],
    },
    Defence {
        name: "room",
        without: "room is made where users' files have filled the runtime directory",
        edits: &[edit(
            "core/src/world/fs/runtime/room.rs",
            "Err(error) if error.is_full() && self.make_room()",
            "Err(error) if error.is_full() && false",
        )],
        red: &[
            "published::a_user_who_fills_the_runtime_directory_keeps_no_other_user_from_credentials",
            "published::a_user_who_keeps_filling_the_runtime_directory_keeps_no_other_user_from_credentials",
        ],
    },
    Defence {
        name: "limits-of-a-step",
        without: "a step takes over a limited part of the user's enroot configuration",
        edits: &[
            edit(SOURCE, "const LONGEST_CREDENTIALS: u64 = 64 << 10;", "const LONGEST_CREDENTIALS: u64 = 64 << 20;"),
            edit(SOURCE, "const MOST_NAMES: usize = 100;", "const MOST_NAMES: usize = 10_000;"),
        ],
        red: &["containers::users::a_configuration_at_the_limit_works_and_a_larger_one_is_reported"],
    },
    Defence {
        name: "share-of-a-user",
        without: "all steps of a user have a share of the runtime directory",
        edits: &[edit(
            SOURCE,
            "const SHARE: Size = Size { bytes: 16 << 20, names: 4096 };",
            "const SHARE: Size = Size { bytes: 16 << 30, names: 1 << 20 };",
        )],
        red: &["containers::users::twenty_steps_of_one_user_take_a_small_share_of_the_runtime_directory"],
    },
    Defence {
        name: "real-file-systems",
        without: "only files of real file systems are copied",
        edits: &[edit("core/src/world/fs/users.rs", "if PSEUDO.contains(&(stat.f_type as u32)) {", "if false {")],
        red: &["containers::users::files_of_the_kernel_are_not_copied"],
    },
    Defence {
        name: "as-the-user",
        without: "a process that has become the user reads the user's files",
        edits: &[edit(CHILD, "match become_user(uid, gid, groups) {", "match Ok::<_, Errno>(()) {")],
        red: &[
            "containers::missing_and_foreign_paths_count_as_nothing",
            "attacks::processes::a_users_file_is_read_with_the_users_groups_and_with_no_other",
        ],
    },
    Defence {
        name: "groups-of-the-user",
        without: "it has the groups of the user, and none of root's",
        edits: &[edit("core/src/world/sys.rs", "set_thread_groups(&groups)?;", "let _ = groups;")],
        red: &["attacks::processes::a_users_file_is_read_with_the_users_groups_and_with_no_other"],
    },
    Defence {
        name: "no-shell",
        without: "no shell expands the node's enroot.conf",
        edits: &[edit(
            SOURCE,
            "match expand(value, &|name| self.bashs(name)) {",
            r#"let bash = std::process::Command::new("bash")
                    .args(["-c", &format!("echo {value}")])
                    .envs(self.environment.iter().cloned())
                    .output();
                match bash.map_err(|_| Unexpanded::Unset).map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned()) {"#,
        )],
        red: &["containers::system::no_exported_function_runs_at_a_steps_start_or_leaves_a_process"],
    },
    Defence {
        name: "left-behind",
        without: "a process that waits for a user's home is left behind",
        edits: &[edit(CHILD, "for _ in 0..100 {", "for _ in 0..10_000 {")],
        red: &["containers::users::a_home_that_never_responds_keeps_no_job_from_its_refresh_and_its_next_step"],
    },
    Defence {
        name: "deadline-of-a-home",
        without: "a user's home has some seconds to respond",
        edits: &[edit(
            CHILD,
            "read_until(ours, Instant::now() + limit)",
            "read_until(ours, Instant::now() + limit * 20)",
        )],
        red: &["containers::a_home_that_hangs_delays_a_step_by_seconds_and_is_reported"],
    },
    Defence {
        name: "real-users-of-processes",
        without: "the real user of a process that is called slurmstepd counts",
        edits: &[edit(
            "core/src/job/processes.rs",
            "self.proc.real_uid(*pid) == Some(0)",
            "self.proc.owner(*pid) == Some(0)",
        )],
        red: &["published::what_a_crash_left_is_swept_even_if_a_process_is_named_after_the_jobs_steps"],
    },
    Defence {
        name: "no-core",
        without: "a process that holds tokens leaves no core",
        edits: &[edit(
            "core/src/world/sys.rs",
            "NotDumpable);\n    let _ = setrlimit(",
            "NotDumpable);\n    let _ = (",
        )],
        red: &["attacks::processes::no_process_that_holds_tokens_leaves_a_core"],
    },
    Defence {
        name: "trusted-files",
        without: "a configuration is root's, and nobody else can write to it",
        edits: &[edit(
            "core/src/world/fs.rs",
            "projected::look(path, || read(path, LONGEST, check))",
            "projected::look(path, || read(path, LONGEST, |stat| check(stat).or(Ok(()))))",
        )],
        red: &["attacks::a_configuration_that_others_can_write"],
    },
    Defence {
        name: "exposed-subject-token",
        without: "the doctor looks at who can read the subject token",
        edits: &[edit(
            "command/src/cli/doctor/subject_token.rs",
            "Ok((mode, owner || group || others))",
            "Ok((mode, owner && group && others))",
        )],
        red: &["command::doctor::planted::on_the_node"],
    },
];
