variable "project" {
  description = "Id of the project in which all of this is made."
  type        = string
}

variable "issuer" {
  description = "Issuer of the cluster's tokens, to the letter: kubectl get --raw /.well-known/openid-configuration"
  type        = string

  validation {
    condition     = can(regex("^https://[^[:space:]?#@]+$", var.issuer))
    error_message = "The issuer is an https URL, as the tokens' iss has it."
  }
}

variable "jwks" {
  description = "Keys of an issuer that Google cannot reach, as JSON: kubectl get --raw /openid/v1/jwks"
  type        = string
  default     = null
}

variable "subjects" {
  description = "Whose tokens are taken, each by its exact name."
  type        = list(string)
  default     = ["system:serviceaccount:tenant-slurm:default"]

  validation {
    condition     = length(var.subjects) > 0 && alltrue([for subject in var.subjects : can(regex("^[^[:space:]*,/]{1,127}$", subject))])
    error_message = "A subject is one name, as the tokens' sub has it: no pattern, at most 127 bytes."
  }
}

variable "pool" {
  description = "Id of the workload identity pool. A removed one keeps its id for 30 days."
  type        = string
  default     = "slurm"

  validation {
    condition     = can(regex("^[a-z0-9-]{4,32}$", var.pool)) && !startswith(var.pool, "gcp-")
    error_message = "The id is 4 to 32 of a-z, 0-9 and -, and does not begin with gcp-."
  }
}

variable "provider_id" {
  description = "Id of the provider in the pool."
  type        = string
  default     = "cluster"

  validation {
    condition     = can(regex("^[a-z0-9-]{4,32}$", var.provider_id)) && !startswith(var.provider_id, "gcp-")
    error_message = "The id is 4 to 32 of a-z, 0-9 and -, and does not begin with gcp-."
  }
}

variable "audiences" {
  description = "Audiences that the provider takes, instead of its own name."
  type        = list(string)
  default     = []
}

variable "condition" {
  description = "Attribute condition, in CEL: tokens for which it is false are refused."
  type        = string
  default     = null
}

variable "service_accounts" {
  description = "What jobs are; the first one is the default. Empty: roles go to the subjects themselves."
  type        = list(string)
  default     = ["job-runner"]

  validation {
    condition     = alltrue([for name in var.service_accounts : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", name))])
    error_message = "The name is 6 to 30 of a-z, 0-9 and -, without the project."
  }
}

variable "buckets" {
  description = "Buckets that they can use, with the role: {training-data = \"objectUser\"} for roles/storage.objectUser."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for role in values(var.buckets) : can(regex("^object[A-Za-z]+$", role))])
    error_message = "A role is objectViewer, objectUser, objectCreator or objectAdmin."
  }
}

variable "repositories" {
  description = "Docker repositories that are made, and that they can pull from, each as LOCATION/NAME."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.repositories : can(regex("^[a-z0-9-]+/[a-z][a-z0-9-]{0,61}[a-z0-9]$", name))])
    error_message = "A repository is LOCATION/NAME, such as us-central1/images."
  }
}

variable "service_usage" {
  description = "Whether they can name the project as the one that pays (roles/serviceusage.serviceUsageConsumer)."
  type        = bool
  default     = false
}

variable "credential_source_file" {
  description = "The projected token on the nodes."
  type        = string
  default     = "/var/run/secrets/tokens/token"
}

variable "lifetime" {
  description = "Life of access tokens in seconds. Null: Google's, an hour. More than that needs an organization policy."
  type        = number
  default     = null

  validation {
    condition     = var.lifetime == null ? true : var.lifetime >= 600 && var.lifetime <= 43200
    error_message = "The lifetime is 600 to 43200 seconds."
  }
}

variable "sts_location" {
  description = "Region in which tokens are exchanged. Null: the global endpoint."
  type        = string
  default     = null
}
