"""Lists a bucket with the credentials that google-auth finds, until a file appears."""

import os
import sys
import time

import google.auth
from google.auth.exceptions import TransportError
from google.auth.transport.requests import AuthorizedSession

url, bucket, stop = sys.argv[1:]
credentials, _ = google.auth.default(
    scopes=["https://www.googleapis.com/auth/cloud-platform"]
)
session = AuthorizedSession(credentials)


def get(url):
    # A request that is under way when the agent is killed fails, and google-auth exchanges tokens once only. Like
    # google-cloud-storage this tries again; much sooner, so that a second failure is told.
    try:
        return session.get(url)
    except TransportError:
        time.sleep(0.02)
        return session.get(url)


while not os.path.exists(stop):
    answer = get(f"{url}/storage/v1/b/{bucket}/o")
    answer.raise_for_status()
    assert answer.json()["items"]
    time.sleep(0.2)
print(type(credentials).__module__)
