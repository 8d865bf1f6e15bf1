//! Cloud Storage, and paths that do not exist.

use serde_json::json;

use crate::client::*;
use crate::google::*;

#[test]
fn a_bucket_is_listed_and_read() {
    let google = Google::start(Options::default());
    for token in [access_token(&google), federated(&google)] {
        let page = get(&google, "/storage/v1/b/demo-bucket/o", &token).json();
        let names: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
        assert_eq!(names, ["data/part-0.csv", "hello.txt"]);
        let page = get(&google, "/storage/v1/b/demo-bucket/o?delimiter=/", &token).json();
        assert_eq!(page["prefixes"], json!(["data/"]));
        let page = get(&google, "/storage/v1/b/demo-bucket/o?maxResults=1", &token).json();
        assert_eq!(page["nextPageToken"], "data/part-0.csv");
        let page = get(&google, "/storage/v1/b/demo-bucket/o?pageToken=data/part-0.csv", &token).json();
        assert_eq!(page["items"][0]["name"], "hello.txt");
        assert_eq!(get(&google, "/storage/v1/b/demo-bucket", &token).json()["kind"], "storage#bucket");
        for target in [
            "/storage/v1/b/demo-bucket/o/hello.txt?alt=media",
            "/download/storage/v1/b/demo-bucket/o/hello.txt?alt=media",
        ] {
            let reply = get(&google, target, &token);
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello\n"));
            assert!(reply.headers.contains("X-Goog-Hash: crc32c="), "{}", reply.headers);
        }
        let reply = get(&google, "/storage/v1/b/demo-bucket/o/data%2Fpart-0.csv", &token);
        assert_eq!(reply.json()["size"], "8");
    }
    let bearer = format!("Bearer {}", access_token(&google));
    let headers = [("Authorization", bearer.as_str()), ("Range", "bytes=1-2")];
    let reply = send(&google, "GET", "/storage/v1/b/demo-bucket/o/hello.txt?alt=media", &headers, "");
    assert_eq!((reply.status, reply.text().as_str()), (206, "el"));
}

#[test]
fn a_bucket_is_refused() {
    let google = Google::start(Options {
        buckets: vec![Bucket::new("demo-bucket", &[], &[]), Bucket::new("mine", &[], &[SUBJECT])],
        ..Options::default()
    });
    let list = "/storage/v1/b/demo-bucket/o";
    let check = |reply: Reply, code: u16, reason: &str, message: &str| {
        let error = &reply.json()["error"];
        assert_eq!((reply.status, error["code"].as_u64()), (code, Some(code.into())));
        assert_eq!(error["errors"][0]["reason"], reason);
        assert_eq!(error["message"], message);
    };
    let denied = |who: &str| {
        format!(
            "{who} does not have storage.objects.list access to the Google Cloud Storage bucket. \
             Permission 'storage.objects.list' denied on resource (or it may not exist)."
        )
    };
    let token = access_token(&google);
    check(send(&google, "GET", list, &[], ""), 401, "required", &denied("Anonymous caller"));
    check(get(&google, list, "x"), 401, "authError", "Invalid Credentials");
    check(get(&google, list, &token), 403, "forbidden", &denied(SERVICE_ACCOUNT));
    check(get(&google, list, &federated(&google)), 403, "forbidden", &denied(&google.principal(SUBJECT)));
    check(get(&google, "/storage/v1/b/no/o", &token), 404, "notFound", "The specified bucket does not exist.");
    let reply = get(&google, "/storage/v1/b/mine/o/x?alt=media", &federated(&google));
    check(reply, 404, "notFound", "No such object: mine/x");
    google.expire(&token);
    check(get(&google, list, &token), 401, "authError", "Invalid Credentials");
}

#[test]
fn other_paths_and_methods_are_refused() {
    let google = Google::start(Options::default());
    let reply = send(&google, "GET", "/nowhere", &[], "");
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("<code>/nowhere</code> was not found on this server"));
    let reply = send(&google, "GET", "/v1/token", &[], "");
    assert_eq!(reply.status, 405);
    assert!(reply.text().contains("Error 405 (Method Not Allowed)!!1"));
}
