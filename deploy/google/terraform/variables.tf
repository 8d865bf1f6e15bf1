variable "project" {
  description = "Id of the project in which everything is created."
  type        = string
}

variable "issuer" {
  description = "Issuer of the cluster's tokens, exactly as in their iss: kubectl get --raw /.well-known/openid-configuration"
  type        = string

  validation {
    condition     = can(regex("^https://[^[:space:]?#@]+$", var.issuer))
    error_message = "The issuer must be an https URL, exactly as in the tokens' iss."
  }
}

variable "jwks" {
  description = "Keys of an issuer that Google cannot reach, as JSON: kubectl get --raw /openid/v1/jwks"
  type        = string
  default     = null
}

variable "subjects" {
  description = "Subjects whose tokens are accepted, each by its exact name."
  type        = list(string)
  default     = ["system:serviceaccount:tenant-slurm:default"]

  validation {
    condition     = length(var.subjects) > 0 && alltrue([for subject in var.subjects : can(regex("^[^[:space:]*,/]{1,127}$", subject))])
    error_message = "A subject must be one name, exactly as in the tokens' sub: no pattern, at most 127 bytes."
  }
}

variable "pool" {
  description = "Id of the workload identity pool. Google reserves the id of a removed pool for 30 days."
  type        = string
  default     = "slurm"

  validation {
    condition     = can(regex("^[a-z0-9-]{4,32}$", var.pool)) && !startswith(var.pool, "gcp-")
    error_message = "The id must have 4 to 32 characters of a-z, 0-9 and -, and must not begin with gcp-."
  }
}

variable "provider_id" {
  description = "Id of the provider in the pool."
  type        = string
  default     = "cluster"

  validation {
    condition     = can(regex("^[a-z0-9-]{4,32}$", var.provider_id)) && !startswith(var.provider_id, "gcp-")
    error_message = "The id must have 4 to 32 characters of a-z, 0-9 and -, and must not begin with gcp-."
  }
}

variable "audiences" {
  description = "Audiences that the provider accepts, instead of its own name."
  type        = list(string)
  default     = []
}

variable "condition" {
  description = "Attribute condition, in CEL. Google refuses tokens for which it is false."
  type        = string
  default     = null
}

variable "service_accounts" {
  description = "Service accounts that jobs impersonate; the first one is the default. If empty, the roles go to the subjects themselves."
  type        = list(string)
  default     = ["job-runner"]

  validation {
    condition     = alltrue([for name in var.service_accounts : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", name))])
    error_message = "The name must have 6 to 30 characters of a-z, 0-9 and -, without the project."
  }
}

variable "buckets" {
  description = "Buckets that jobs can use, with the role: {training-data = \"objectUser\"} for roles/storage.objectUser."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for role in values(var.buckets) : can(regex("^object[A-Za-z]+$", role))])
    error_message = "The role must be objectViewer, objectUser, objectCreator or objectAdmin."
  }
}

variable "repositories" {
  description = "Docker repositories to create, from which jobs can pull, each as LOCATION/NAME."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.repositories : can(regex("^[a-z0-9-]+/[a-z][a-z0-9-]{0,61}[a-z0-9]$", name))])
    error_message = "A repository must be LOCATION/NAME, such as us-central1/images."
  }
}

variable "service_usage" {
  description = "Whether jobs can bill requests to the project (roles/serviceusage.serviceUsageConsumer)."
  type        = bool
  default     = false
}

variable "credential_source_file" {
  description = "The projected token on the nodes."
  type        = string
  default     = "/var/run/secrets/tokens/token"
}

variable "lifetime" {
  description = "Lifetime of access tokens in seconds. If null, Google's default of 3600. A longer lifetime needs an organization policy."
  type        = number
  default     = null

  validation {
    condition     = var.lifetime == null ? true : var.lifetime >= 600 && var.lifetime <= 43200
    error_message = "The lifetime must be 600 to 43200 seconds."
  }
}

variable "sts_location" {
  description = "Region in which tokens are exchanged. If null, the global endpoint."
  type        = string
  default     = null
}
