"""Reads an object with one of the libraries that data pipelines use, until a file appears.

Each is told where Cloud Storage is, and finds its credentials by itself.
"""

import os
import sys
import time

library, url, bucket, name, stop = sys.argv[1:]


def pyarrow():
    from pyarrow.fs import GcsFileSystem

    host = url.removeprefix("http://")
    system = GcsFileSystem(endpoint_override=host, scheme="http")

    def read():
        with system.open_input_stream(f"{bucket}/{name}") as stream:
            return stream.read()

    return read


def gcsfs():
    # Else it asks the Storage Control API, by gRPC and at Google's host name alone, what kind of bucket it is.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    from gcsfs import GCSFileSystem

    # Without a name it would go on as nobody where it finds no credentials.
    system = GCSFileSystem(token="google_default", endpoint_url=url)

    def read():
        system.invalidate_cache()
        return system.cat(f"{bucket}/{name}")

    return read


def tensorstore():
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = url
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": bucket}).result()
    return lambda: store.read(name).result().value


read = {"pyarrow": pyarrow, "gcsfs": gcsfs, "tensorstore": tensorstore}[library]()
while not os.path.exists(stop):
    assert read() == b"hello\n"
    time.sleep(0.2)
print("read")
