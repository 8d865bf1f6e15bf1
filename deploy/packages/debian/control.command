
Package: gcp-wif
Architecture: any
Depends: ${shlibs:Depends}, ${misc:Depends}
Recommends: ca-certificates
Description: Google Cloud credentials for Slurm jobs: command and node agent
 The companion of the plugin that gives Slurm jobs Google Cloud credentials
 by Workload Identity Federation. It checks a node, explains its rules, prints
 a job's variables, and keeps the credentials of running jobs fresh.
