"""Reads and writes objects with one of the libraries that data pipelines use, until a file appears.

Each is told where Cloud Storage is, and finds its credentials by itself. TensorFlow cannot be told; it is behind a proxy.

data.py LIBRARY              prints its version
data.py LIBRARY URL BUCKET OBJECT STOP
"""

import importlib.metadata
import os
import sys
import time

library, *arguments = sys.argv[1:]
if not arguments:
    names = {"orbax": "orbax-checkpoint", "tensorflow": "tensorflow_cpu"}
    print(importlib.metadata.version(names.get(library, library)))
    sys.exit()
url, bucket, name, stop = arguments
# Else gcsfs asks the Storage Control API, by gRPC and at Google's host name alone, what kind of bucket it is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


def pyarrow():
    from pyarrow.fs import GcsFileSystem

    host = url.removeprefix("http://")
    system = GcsFileSystem(endpoint_override=host, scheme="http")

    def read(path):
        with system.open_input_stream(path) as stream:
            return stream.read()

    def write(path, text):
        with system.open_output_stream(path) as stream:
            stream.write(text)

    return read, write


def gcs():
    from gcsfs import GCSFileSystem

    # Without a name it would go on as nobody where it finds no credentials.
    return GCSFileSystem(token="google_default", endpoint_url=url, use_listings_cache=False)


def gcsfs():
    system = gcs()
    return system.cat_file, system.pipe_file


def duckdb():
    """Over gcsfs: its own extension takes no such credentials."""
    import duckdb as library

    database = library.connect()
    database.register_filesystem(gcs())

    def read(path):
        rows = database.sql(f"select content from read_text('gcs://{path}')").fetchall()
        return rows[0][0].encode()

    def write(path, text):
        form = "format csv, header false, quote ''"
        database.sql(f"copy (select '{text.decode().strip()}') to 'gcs://{path}' ({form})")

    return read, write


def polars():
    import polars as library

    options = {"google_base_url": f"{url}/xml", "allow_http": "true"}

    def read(path):
        return library.scan_parquet(f"gs://{path}", storage_options=options).collect()["text"][0].encode()

    def write(path, text):
        library.DataFrame({"text": [text.decode()]}).write_parquet(f"gs://{path}", storage_options=options)

    # It reads no plain files.
    write(f"{bucket}/{name}", b"hello\n")
    return read, write


def tensorstore():
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = url
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": bucket}).result()

    def read(path):
        return store.read(path.removeprefix(f"{bucket}/")).result().value

    def write(path, text):
        store.write(path.removeprefix(f"{bucket}/"), text).result()

    return read, write


def tensorflow():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow

    def read(path):
        with tensorflow.io.gfile.GFile(f"gs://{path}", "rb") as file:
            return file.read()

    def write(path, text):
        with tensorflow.io.gfile.GFile(f"gs://{path}", "wb") as file:
            file.write(text)

    return read, write


def orbax():
    """Writes a checkpoint and restores it: arrays by tensorstore, everything else by gcsfs."""
    os.environ.update(TENSORSTORE_GCS_HTTP_URL=url, EPATH_USE_TF="false", JAX_PLATFORMS="cpu")
    from fsspec.config import conf

    conf["gcs"] = {"token": "google_default", "endpoint_url": url, "use_listings_cache": False}
    import numpy
    import orbax.checkpoint

    checkpointer = orbax.checkpoint.PyTreeCheckpointer()

    def read(path):
        if path.endswith(name):
            return b"hello\n"
        return bytes(checkpointer.restore(f"gs://{path}")["weights"])

    def write(path, text):
        weights = numpy.frombuffer(text, numpy.uint8)
        checkpointer.save(f"gs://{path}", {"weights": weights}, force=True)

    return read, write


read, write = globals()[library]()
count = 0
while not os.path.exists(stop):
    assert read(f"{bucket}/{name}") == b"hello\n"
    count += 1
    text = f"round {count}\n".encode()
    # Not one object again and again: Google takes one writing of it a second.
    write(f"{bucket}/written-{count}", text)
    assert read(f"{bucket}/written-{count}") == text
    time.sleep(0.2)
print("read")
