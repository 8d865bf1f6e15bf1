#!/usr/bin/env python3
"""Reads the shards of a data set from a bucket with several processes, as a PyTorch DataLoader with workers does.

    srun --gcp-wif python3 shards.py gs://my-bucket/shards --workers 4 --epochs 10

It needs gcsfs, and no code for credentials: gcsfs finds the job's credentials, and refreshes them for as long as the job
runs. With PyTorch, derive Shards from torch.utils.data.IterableDataset, get worker and workers in __iter__ from
torch.utils.data.get_worker_info(), and let the DataLoader start the workers with multiprocessing_context="spawn".
"""

import argparse
import multiprocessing

import fsspec


class Shards:
    """The records of this worker's shards. Each line is one record."""

    def __init__(self, url, worker, workers):
        self.url, self.worker, self.workers = url, worker, workers

    def __iter__(self):
        # Opened in the worker, because a file system does not survive a fork. With an explicit token, gcsfs fails
        # without credentials instead of continuing anonymously.
        system, path = fsspec.url_to_fs(self.url, token="google_default", use_listings_cache=False)
        for shard in sorted(system.find(path))[self.worker :: self.workers]:
            with system.open(shard, "rb") as lines:
                yield from lines


def work(url, worker, workers, epochs, queue):
    try:
        for _ in range(epochs):
            queue.put(sum(1 for _ in Shards(url, worker, workers)))
    except Exception as error:
        queue.put(RuntimeError(f"worker {worker}: {error!r}"))


def take(queue):
    taken = queue.get()
    if isinstance(taken, Exception):
        raise taken
    return taken


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    # With a size of one, a worker is at most one epoch ahead.
    queues = [context.Queue(1) for _ in range(arguments.workers)]
    for worker, queue in enumerate(queues):
        words = (arguments.url, worker, arguments.workers, arguments.epochs, queue)
        context.Process(target=work, args=words, daemon=True).start()
    for epoch in range(1, arguments.epochs + 1):
        records = sum(take(queue) for queue in queues)
        print(f"epoch {epoch}: {records} records", flush=True)


if __name__ == "__main__":
    main()
