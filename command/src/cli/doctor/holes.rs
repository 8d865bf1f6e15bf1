//! Slurm releases with known vulnerabilities.
//!
//! The versions are from SchedMD's release notes (<https://github.com/SchedMD/slurm/releases>, tags slurm-26-05-5-1,
//! slurm-25-11-8-1, slurm-25-05-9-1) and announcements (<https://www.schedmd.com/security-archive/>), as of 2026-11-24.
//! CVE-2024-42511 is omitted because it affects only switch plugins.
#![forbid(unsafe_code)]

/// Major, minor and micro.
pub(super) type Release = (u32, u32, u32);

/// The oldest major release that SchedMD still maintains, and what remains unfixed in older ones.
const MAINTAINED: (u32, u32) = (25, 5);
const FOR_EVER: &str = "SchedMD no longer fixes it, CVE-2026-65107 and CVE-2026-65108 among others";

/// For each major.minor, the first release with the fix, and the vulnerability. If there are several, the latest one is
/// listed, because it includes the earlier fixes.
const FIXES: [(Release, &str); 9] = [
    ((26, 5, 5), "slurmd accepted a task launch credential from another user than the one it was issued to"),
    ((25, 11, 8), "CVE-2026-65107 (sbcast without the credential's check), CVE-2026-65108 (a long SPANK option)"),
    ((25, 5, 9), "CVE-2026-65107 (sbcast without the credential's check), CVE-2026-65108 (a long SPANK option)"),
    ((24, 11, 5), "CVE-2025-43904 (coordinators make administrators)"),
    ((24, 5, 8), "CVE-2025-43904 (coordinators make administrators), before 24.05.4 CVE-2024-48936 (stepmgr)"),
    ((23, 11, 11), "CVE-2025-43904 (coordinators make administrators), before 23.11.1 CVE-2023-49933 to -49938"),
    ((23, 2, 7), "CVE-2023-49933 to -49938 (changed messages, files with a wrong group)"),
    ((22, 5, 11), "CVE-2023-49933 to -49938 (changed messages, files with a wrong group)"),
    ((21, 8, 8), "CVE-2022-29500 to -29502 (anybody becomes SlurmUser)"),
];

/// Returns the known vulnerabilities of a release, with advice.
pub(super) fn of(release: Release) -> Option<String> {
    let (major, minor, _) = release;
    let fix = FIXES.iter().find(|((fixed_major, fixed_minor, _), _)| (*fixed_major, *fixed_minor) == (major, minor));
    let open = fix.filter(|(fixed, _)| release < *fixed);
    let text = |(a, b, c): Release| format!("{a}.{b:02}.{c}");
    match (open, (major, minor) < MAINTAINED) {
        (Some((fixed, hole)), false) => Some(format!("{hole}; install {} or newer", text(*fixed))),
        (Some((fixed, hole)), true) => {
            Some(format!("before {}: {hole}; {FOR_EVER}; install a newer major release", text(*fixed)))
        }
        (None, true) => Some(format!("{FOR_EVER}; install a newer major release")),
        (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_with_the_fix_of_its_major_release() {
        for (release, expected) in [
            ((26, 5, 5), None),
            ((26, 11, 0), None),
            ((26, 5, 4), Some("install 26.05.5 or newer")),
            ((25, 11, 7), Some("install 25.11.8 or newer")),
            ((25, 11, 8), None),
            ((24, 11, 5), Some("SchedMD no longer fixes it")),
            ((24, 11, 4), Some("before 24.11.5: CVE-2025-43904")),
            ((22, 5, 8), Some("before 22.05.11: CVE-2023-49933")),
            ((20, 11, 0), Some("install a newer major release")),
        ] {
            let told = of(release);
            assert_eq!(told.is_some(), expected.is_some(), "{release:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(expected.unwrap_or_default()), "{release:?}");
        }
    }
}
