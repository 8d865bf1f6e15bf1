#!/usr/bin/env python3
"""Saves checkpoints to a bucket, and resumes from the newest one after a restart.

    sbatch --gcp-wif --requeue --wrap "python3 checkpoint.py gs://my-bucket/run-1 --steps 100000"

It needs gcsfs. The job may run for days, because each checkpoint is written with a token that is valid at that time.
"""

import argparse
import json
import time

import fsspec


class Checkpoints:
    """The checkpoints of a run. Each is one object, which Cloud Storage shows either completely or not at all."""

    KEPT = 3

    def __init__(self, url):
        # With an explicit token, gcsfs fails without credentials instead of continuing anonymously.
        self.system, self.path = fsspec.url_to_fs(url, token="google_default", use_listings_cache=False)

    def _names(self):
        return sorted(name for name in self.system.find(self.path) if name.endswith(".json"))

    def newest(self):
        names = self._names()
        return json.loads(self.system.cat_file(names[-1])) if names else None

    def save(self, state):
        self.system.pipe_file(f"{self.path}/{state['step']:010}.json", json.dumps(state).encode())
        for name in self._names()[: -self.KEPT]:
            self.system.rm_file(name)


def train(state):
    """One training step."""
    time.sleep(0.05)
    return {"step": state["step"] + 1, "loss": state["loss"] * 0.99}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    arguments = parser.parse_args()
    checkpoints = Checkpoints(arguments.url)
    state = checkpoints.newest() or {"step": 0, "loss": 1.0}
    print(f"begins at step {state['step']}", flush=True)
    while state["step"] < arguments.steps:
        state = train(state)
        if state["step"] % arguments.every == 0 or state["step"] == arguments.steps:
            checkpoints.save(state)
            print(f"checkpoint at step {state['step']}", flush=True)
    print(f"done at step {state['step']}")


if __name__ == "__main__":
    main()
