# Google's side of Workload Identity Federation for a Slurm cluster: the same as deploy/google/setup, as a module.

data "google_project" "this" {
  project_id = var.project
}

locals {
  made_by = "Made by Terraform: spank-gcp-wif's deploy/google/terraform"

  services = toset(concat(
    ["iam.googleapis.com", "iamcredentials.googleapis.com", "sts.googleapis.com"],
    length(var.buckets) > 0 ? ["storage.googleapis.com"] : [],
    length(var.repositories) > 0 ? ["artifactregistry.googleapis.com"] : [],
  ))

  pool_name     = "projects/${data.google_project.this.number}/locations/global/workloadIdentityPools/${google_iam_workload_identity_pool.slurm.workload_identity_pool_id}"
  provider_name = "${local.pool_name}/providers/${google_iam_workload_identity_pool_provider.cluster.workload_identity_pool_provider_id}"

  # Each subject by its exact name, never the whole pool.
  principals = { for subject in var.subjects : subject => "principal://iam.googleapis.com/${local.pool_name}/subject/${subject}" }

  # The members that get the roles: the service accounts, or the subjects themselves.
  is_direct = length(var.service_accounts) == 0
  members   = local.is_direct ? local.principals : { for name in var.service_accounts : name => "serviceAccount:${google_service_account.jobs[name].email}" }

  # Their names are known before anything is created.
  member_names = local.is_direct ? var.subjects : var.service_accounts
  identities   = { for pair in setproduct(var.service_accounts, var.subjects) : "${pair[0]} ${pair[1]}" => { account = pair[0], subject = pair[1] } }
  bucket_roles = { for pair in setproduct(keys(var.buckets), local.member_names) : "${pair[0]} ${pair[1]}" => { bucket = pair[0], member = pair[1] } }
  pull_roles   = { for pair in setproduct(var.repositories, local.member_names) : "${pair[0]} ${pair[1]}" => { repository = pair[0], member = pair[1] } }
}

resource "google_project_service" "this" {
  for_each = local.services

  project = var.project
  service = each.value
  # Others may use the API.
  disable_on_destroy = false
}

resource "google_iam_workload_identity_pool" "slurm" {
  project                   = var.project
  workload_identity_pool_id = var.pool
  display_name              = "Slurm nodes"
  description               = local.made_by

  depends_on = [google_project_service.this]
}

resource "google_iam_workload_identity_pool_provider" "cluster" {
  project                            = var.project
  workload_identity_pool_id          = google_iam_workload_identity_pool.slurm.workload_identity_pool_id
  workload_identity_pool_provider_id = var.provider_id
  display_name                       = "Slurm cluster"
  description                        = local.made_by
  attribute_mapping                  = { "google.subject" = "assertion.sub" }
  attribute_condition                = var.condition

  oidc {
    issuer_uri        = var.issuer
    allowed_audiences = var.audiences
    jwks_json         = var.jwks
  }
}

resource "google_service_account" "jobs" {
  for_each = toset(var.service_accounts)

  project      = var.project
  account_id   = each.value
  display_name = "Slurm jobs"
  description  = local.made_by

  depends_on = [google_project_service.this]
}

resource "google_service_account_iam_member" "jobs" {
  for_each = local.identities

  service_account_id = google_service_account.jobs[each.value.account].name
  role               = "roles/iam.workloadIdentityUser"
  member             = local.principals[each.value.subject]
}

resource "google_storage_bucket_iam_member" "jobs" {
  for_each = local.bucket_roles

  bucket = each.value.bucket
  role   = "roles/storage.${var.buckets[each.value.bucket]}"
  member = local.members[each.value.member]
}

resource "google_artifact_registry_repository" "images" {
  # checkov:skip=CKV_GCP_84:Google's own keys encrypt it. A site that needs its own key creates the repository itself.
  for_each = var.repositories

  project       = var.project
  location      = split("/", each.value)[0]
  repository_id = split("/", each.value)[1]
  format        = "DOCKER"
  description   = local.made_by

  depends_on = [google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "jobs" {
  for_each = local.pull_roles

  project    = var.project
  location   = google_artifact_registry_repository.images[each.value.repository].location
  repository = google_artifact_registry_repository.images[each.value.repository].repository_id
  role       = "roles/artifactregistry.reader"
  member     = local.members[each.value.member]
}

resource "google_project_iam_member" "service_usage" {
  for_each = toset(var.service_usage ? local.member_names : [])

  project = var.project
  role    = "roles/serviceusage.serviceUsageConsumer"
  member  = local.members[each.value]
}
