locals {
  sts = var.sts_location == null ? "https://sts.googleapis.com" : "https://sts.${var.sts_location}.rep.googleapis.com"

  emails = [for name in var.service_accounts : google_service_account.jobs[name].email]
}

output "credential_configuration" {
  description = "For /etc/slurm/credential-configuration.json on the nodes. It is not a secret."
  value = jsonencode(merge(
    {
      universe_domain    = "googleapis.com"
      type               = "external_account"
      audience           = "//iam.googleapis.com/${local.provider_name}"
      subject_token_type = "urn:ietf:params:oauth:token-type:jwt"
      token_url          = "${local.sts}/v1/token"
      credential_source  = { file = var.credential_source_file }
    },
    local.is_direct ? { token_info_url = "https://sts.googleapis.com/v1/introspect" } : {},
    local.is_direct ? {} : { service_account_impersonation_url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/${local.emails[0]}:generateAccessToken" },
    local.is_direct || var.lifetime == null ? {} : { service_account_impersonation = { token_lifetime_seconds = var.lifetime } },
  ))
}

output "gcp_wif" {
  description = "For /etc/slurm/gcp-wif.json on the nodes."
  value = jsonencode(merge(
    { credential_configuration = "/etc/slurm/credential-configuration.json", project = var.project },
    length(local.emails) < 2 ? {} : { rules = [{ service_account = local.emails[0], allow = slice(local.emails, 1, length(local.emails)) }] },
  ))
}

output "audience" {
  description = "The audience of the nodes' projected token."
  value       = length(var.audiences) > 0 ? var.audiences[0] : "https://iam.googleapis.com/${local.provider_name}"
}

output "service_accounts" {
  description = "Emails of the service accounts, the default one first."
  value       = local.emails
}
