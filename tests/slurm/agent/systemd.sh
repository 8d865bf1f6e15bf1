#!/bin/bash
# systemd as the first process of namespaces of its own, with the packages' unit and nothing else. /run/gcp-wif is the
# node's.
#
#   systemd.sh UNIT COMMAND
set -euo pipefail
mkdir -p /run/systemd
mount -t tmpfs -o mode=0755 tmpfs /run/systemd
mkdir -p /run/systemd/system/gcp-wif-agent.service.d
sed "s:/usr/bin/gcp-wif agent:$2 agent --config /etc/slurm/gcp-wif.json:" "$1" >/run/systemd/system/gcp-wif-agent.service
# Without the units that a whole system has.
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/gcp-wif-agent.service.d/alone.conf
exec env -i PATH="$PATH" container=lxc /lib/systemd/systemd --system --unit=gcp-wif-agent.service --log-target=console --show-status=no
