//! Tests of the embedded Google itself: every check refuses what it must in Google's words, correct requests pass, and
//! faults really happen.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "self_test/client.rs"]
mod client;
#[path = "self_test/faults.rs"]
mod faults;
#[path = "mod.rs"]
mod google;
#[path = "self_test/iam.rs"]
mod iam;
#[path = "self_test/records.rs"]
mod records;
#[path = "self_test/storage.rs"]
mod storage;
#[path = "self_test/sts.rs"]
mod sts;
#[path = "self_test/writing.rs"]
mod writing;
