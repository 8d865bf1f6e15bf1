"""Reads a bucket with google-auth, for scopes of its own; prints the service account that it knows."""

import sys

import google.auth
import google.auth.transport.requests

url, bucket, *scopes = sys.argv[1:]
credentials, _ = google.auth.default(scopes=scopes)
session = google.auth.transport.requests.AuthorizedSession(credentials)
session.get(f"{url}/storage/v1/b/{bucket}/o").raise_for_status()
print(credentials.service_account_email)
