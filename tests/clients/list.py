"""Lists a bucket and reads its objects, with the credentials that google-auth finds."""

import sys
from urllib.parse import quote

import google.auth
from google.auth.transport.requests import AuthorizedSession

(bucket,) = sys.argv[1:]
credentials, project = google.auth.default(
    scopes=["https://www.googleapis.com/auth/cloud-platform"]
)
session = AuthorizedSession(credentials)


def get(url):
    answer = session.get(url)
    answer.raise_for_status()
    return answer


print("project", project)
url = f"https://storage.googleapis.com/storage/v1/b/{bucket}/o"
for item in get(url).json()["items"]:
    print(
        item["name"],
        get(f"{url}/{quote(item['name'], safe='')}?alt=media").text,
        end="",
    )
