//! Faults at Google, which the node cannot see by itself, except for the audience.

use std::sync::Arc;

use super::Fault;
use crate::google::{Claims, SUBJECT, ServiceAccount};
use crate::site::{OTHER_ACCOUNT, accounts};

pub(super) const FAULTS: [Fault; 4] = [
    Fault::new("another audience", ("subject token", "audience"), |site| {
        site.rotate(&site.google.subject_token(&Claims::default().audience("https://kubernetes.default.svc")));
    })
    .by(|site, line| {
        assert!(line.ends_with("project the token with the provider's audience"), "{line}");
        site.rotate(&site.google.subject_token(&Claims::default()));
    })
    .offline(Some(0)),
    Fault::new("a condition of the provider's", ("token exchange", "exchange"), |site| {
        site.google.configure(|options| options.attribute_condition = Some(Arc::new(|_| false)));
    })
    .by(|site, line| {
        assert!(line.contains("attribute condition"), "{line}");
        site.google.configure(|options| options.attribute_condition = None);
    })
    .offline(None),
    Fault::new("no such service account", ("impersonation", "access token"), |site| {
        let other = || vec![ServiceAccount::new(OTHER_ACCOUNT, &[SUBJECT])];
        site.google.configure(|options| options.service_accounts = other());
    })
    .by(|site, line| {
        assert!(line.ends_with("correct its name, or create it"), "{line}");
        site.google.configure(|options| options.service_accounts = accounts());
    })
    .offline(None),
    Fault::new("an IAM Credentials API that is not enabled", ("impersonation", "access token"), |site| {
        site.google.configure(|options| options.iam_credentials_enabled = false);
    })
    .by(|site, line| {
        assert!(line.contains("iamcredentials"), "{line}");
        site.google.configure(|options| options.iam_credentials_enabled = true);
    })
    .offline(None),
];
