#!/usr/bin/env python3
"""image.py DIRECTORY [NAME=VALUE...]: an OCI layout with one layer of Debian's busybox-static and this ENV.

The configuration has a `history`, without which docker-registry cannot answer a client that names no format.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile

COMMANDS = "cat env false grep id ls mount sh sleep stat test touch true".split()
FOREVER_AGO = "2020-01-01T00:00:00Z"


def layer():
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:

        def add(name, kind, data=b"", mode=0o755, link=""):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
            tar.addfile(info, io.BytesIO(data) if data else None)

        for name in "bin dev etc proc root run sys tmp usr usr/bin var".split():
            add(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        add("var/run", tarfile.SYMTYPE, link="/run")
        with open("/bin/busybox", "rb") as busybox:
            add("bin/busybox", tarfile.REGTYPE, busybox.read())
        for command in COMMANDS:
            add(f"bin/{command}", tarfile.SYMTYPE, link="busybox")
        add("etc/os-release", tarfile.REGTYPE, b"NAME=Tiny\nID=tiny\n", 0o644)
        add("etc/passwd", tarfile.REGTYPE, b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        add("etc/group", tarfile.REGTYPE, b"root:x:0:\n", 0o644)
    return raw.getvalue()


def main(directory, env):
    os.makedirs(f"{directory}/blobs/sha256")

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{directory}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def document(media_type, value):
        return blob(media_type, json.dumps(value).encode())

    raw = layer()
    prefix = "application/vnd.oci.image"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": FOREVER_AGO,
        "config": {"Env": ["PATH=/bin:/usr/bin", *env], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(raw).hexdigest()}"]},
        "history": [{"created": FOREVER_AGO, "created_by": "hand"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.manifest.v1+json",
        "config": document(f"{prefix}.config.v1+json", config),
        "layers": [blob(f"{prefix}.layer.v1.tar+gzip", gzip.compress(raw, mtime=0))],
    }
    index = document(f"{prefix}.manifest.v1+json", manifest)
    index["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(f"{directory}/index.json", "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "manifests": [index]}, file)
    with open(f"{directory}/oci-layout", "w", encoding="utf-8") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')


main(sys.argv[1], sys.argv[2:])
