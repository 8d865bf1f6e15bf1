# The values that differ from site to site. Replace the text after the second bar of each line with your own, then run
#
#   sed -i -f deploy/site.sed deploy/sunk/*.yaml deploy/sunk/*.json deploy/slinky/*.yaml deploy/slinky/*.json
#
# The namespace that Slurm runs in:
s|<SLURM_NAMESPACE>|tenant-slurm|g
# Google's side, as `gcloud projects describe` and `gcloud iam workload-identity-pools providers describe` print it:
s|<GCP_PROJECT_ID>|my-project|g
s|<GCP_PROJECT_NUMBER>|123456789012|g
s|<WIF_POOL>|slurm|g
s|<WIF_PROVIDER>|cluster|g
# The service account that jobs use, without the @ and the text after it:
s|<GCP_SA>|job-runner|g
# The image built from deploy/image/Containerfile, with a tag that names the release of Slurm:
s|<IMAGE>|registry.example/gcp-wif:slurm25.11-0.2.0|g
# The repository that Argo CD follows, and its branch:
s|<GITOPS_REPO_URL>|git@github.com:my-org/my-repo.git|g
s|<BRANCH>|main|g
