//! Objects that are written and deleted.

use crate::client::*;
use crate::google::*;

const UPLOAD: &str = "/upload/storage/v1/b/mine/o";

fn google() -> Google {
    let buckets = vec![
        Bucket::new("mine", &[("old", "old")], &[SERVICE_ACCOUNT]).writable(),
        Bucket::new("shown", &[("old", "old")], &[SERVICE_ACCOUNT]),
    ];
    Google::start(Options { buckets, ..Options::default() })
}

/// Sends a request with a good token.
fn ask(google: &Google, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let bearer = format!("Bearer {}", access_token(google));
    let headers: Vec<_> = headers.iter().copied().chain([("Authorization", &*bearer)]).collect();
    send(google, method, target, &headers, body)
}

fn read(google: &Google, name: &str) -> String {
    let reply = ask(google, "GET", &format!("/storage/v1/b/mine/o/{name}?alt=media"), &[], "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text()
}

#[test]
fn an_object_is_written_in_one_request() {
    let google = google();
    let reply =
        ask(&google, "POST", &format!("{UPLOAD}?uploadType=media&name=a/b"), &[("Content-Type", "text/x")], "1");
    assert_eq!((reply.status, &reply.json()["generation"]), (200, &"1".into()), "{}", reply.text());
    assert_eq!(reply.json()["contentType"], "text/x");
    assert_eq!(read(&google, "a%2Fb"), "1");
    let reply = ask(&google, "POST", &format!("{UPLOAD}?uploadType=media&name=a/b"), &[], "22");
    assert_eq!((&reply.json()["generation"], &reply.json()["size"]), (&"2".into(), &"2".into()));
    assert_eq!(read(&google, "a%2Fb"), "22");
}

#[test]
fn an_object_is_written_with_its_metadata() {
    let google = google();
    let target = format!("{UPLOAD}?uploadType=multipart");
    let kind = [("Content-Type", "multipart/related; boundary=\"==b==\"")];
    let body = "--==b==\r\nContent-Type: application/json\r\n\r\n{\"name\": \"c\", \"contentType\": \"text/y\"}\r\n\
                --==b==\r\nContent-Type: text/z\r\n\r\nline\r\n--==b\r\n\r\n--==b==--";
    let reply = ask(&google, "POST", &target, &kind, body);
    assert_eq!((reply.status, &reply.json()["contentType"]), (200, &"text/y".into()), "{}", reply.text());
    assert_eq!(read(&google, "c"), "line\r\n--==b\r\n");
    for (wrong, message) in [
        (body.replace("\r\n--==b==--", ""), "Malformed multipart body."),
        (body.replace("application/json", "text/plain"), "Malformed multipart body."),
        (body.replace("{\"name\"", "\"name\""), "Parse Error"),
        (body.replace("\"name\"", "\"title\""), "Required"),
    ] {
        let reply = ask(&google, "POST", &target, &kind, &wrong);
        assert_eq!((reply.status, &reply.json()["error"]["message"]), (400, &message.into()), "{wrong}");
    }
    let reply = ask(&google, "POST", &target, &[], body);
    assert_eq!(reply.status, 400);
}

#[test]
fn an_object_is_written_in_pieces() {
    let google = google();
    let target = format!("{UPLOAD}?uploadType=resumable&name=big");
    let begin = || {
        let reply = ask(&google, "POST", &target, &[], "{\"contentType\": \"text/big\"}");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let location = reply.headers.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        // The address alone is sufficient permission.
        location.split_once("127.0.0.1").unwrap().1.to_owned()
    };
    let put = |session: &str, range: &str, body: &str| send(&google, "PUT", session, &[("Content-Range", range)], body);
    let session = begin();
    let piece = "x".repeat(256 << 10);
    let length = piece.len();
    assert_eq!(put(&session, &format!("bytes 0-9/{}", length + 2), "0123456789").status, 400, "no multiple of 256 KiB");
    assert_eq!(put(&session, &format!("bytes 0-{}/*", length + 1), &piece).status, 400, "another length than said");
    let told = |reply: &Reply| reply.headers.lines().find_map(|line| line.strip_prefix("Range: ").map(str::to_owned));
    let reply = put(&session, "bytes */*", "");
    assert_eq!((reply.status, told(&reply)), (308, None));
    // Twice, as a client without an answer does.
    for _ in 0..2 {
        let reply = put(&session, &format!("bytes 0-{}/*", length - 1), &piece);
        assert_eq!((reply.status, told(&reply)), (308, Some(format!("bytes=0-{}", length - 1))));
    }
    assert_eq!(ask(&google, "GET", "/storage/v1/b/mine/o/big", &[], "").status, 404, "not yet there");
    let reply = put(&session, &format!("bytes {length}-{}/{}", length + 1, length + 2), "yz");
    assert_eq!((reply.status, &reply.json()["contentType"]), (200, &"text/big".into()), "{}", reply.text());
    assert_eq!(read(&google, "big"), format!("{piece}yz"));
    assert_eq!(put(&session, "bytes */*", "").status, 404, "the session has ended");
    let reply = send(&google, "PUT", &begin(), &[], "whole");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(read(&google, "big"), "whole");
    let reply = send(&google, "POST", &begin(), &[], "by POST");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(read(&google, "big"), "by POST");
    let dead = send(&google, "PUT", &begin(), &[("Authorization", "Bearer x")], "whole");
    assert_eq!(dead.status, 401, "{}", dead.text());
}

#[test]
fn checksums_match_known_values() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let google = google();
    let long = "a".repeat(64);
    // RFC 1321, and md5sum(1) where padding takes a block of its own; crc32c of RFC 3720.
    for (body, md5) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        (&long[..55], "ef1772b6dff9a122358552954ad0df65"),
        (&long[..56], "3b0c8ac703f828b04c6c197006d17218"),
        (&long[..63], "b06521f39153d618550606be297466d5"),
        (&long[..64], "014842d480b571495a4a0363793f7367"),
    ] {
        let reply = ask(&google, "POST", &format!("{UPLOAD}?uploadType=media&name=sum"), &[], body).json();
        let digest = STANDARD.decode(reply["md5Hash"].as_str().unwrap()).unwrap();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, md5, "{body}");
    }
    let reply = ask(&google, "POST", &format!("{UPLOAD}?uploadType=media&name=sum"), &[], "123456789").json();
    assert_eq!(reply["crc32c"], "4waSgw==");
}

#[test]
fn preconditions_hold() {
    let google = google();
    let media = |condition: &str| {
        ask(&google, "POST", &format!("{UPLOAD}?uploadType=media&name=old&{condition}"), &[], "new").status
    };
    let get = |condition: &str| ask(&google, "GET", &format!("/storage/v1/b/mine/o/old?{condition}"), &[], "").status;
    assert_eq!(media("ifGenerationMatch=0"), 412, "it is there");
    assert_eq!(media("ifGenerationMatch=1"), 200);
    assert_eq!(media("ifGenerationMatch=1"), 412, "it has changed");
    assert_eq!((get("ifGenerationNotMatch=2"), get("ifGenerationNotMatch=1")), (304, 200));
    assert_eq!((get("generation=1"), get("generation=2")), (404, 200));
    assert_eq!(ask(&google, "DELETE", "/storage/v1/b/mine/o/old?ifGenerationMatch=1", &[], "").status, 412);
}

#[test]
fn an_object_is_deleted() {
    let google = google();
    let target = "/storage/v1/b/mine/o/old";
    let reply = ask(&google, "DELETE", target, &[], "");
    assert_eq!((reply.status, reply.text().as_str()), (204, ""));
    assert_eq!(ask(&google, "DELETE", target, &[], "").status, 404);
    assert!(ask(&google, "GET", "/storage/v1/b/mine/o", &[], "").json()["items"].is_null());
}

#[test]
fn a_reader_cannot_write() {
    let google = google();
    let denied = |permission: &str| {
        format!(
            "{SERVICE_ACCOUNT} does not have {permission} access to the Google Cloud Storage object. \
             Permission '{permission}' denied on resource (or it may not exist)."
        )
    };
    for kind in ["media", "resumable"] {
        let target = format!("/upload/storage/v1/b/shown/o?uploadType={kind}&name=new");
        let reply = ask(&google, "POST", &target, &[], "");
        assert_eq!((reply.status, &reply.json()["error"]["message"]), (403, &denied("storage.objects.create").into()));
        assert_eq!(send(&google, "POST", &target, &[], "").status, 401);
    }
    let reply = ask(&google, "DELETE", "/storage/v1/b/shown/o/old", &[], "");
    assert_eq!((reply.status, &reply.json()["error"]["message"]), (403, &denied("storage.objects.delete").into()));
    assert_eq!(ask(&google, "PUT", "/xml/shown/new", &[], "").status, 403);
    // Scopes for reading do not permit writing.
    let scope = serde_json::json!({"scope": ["https://www.googleapis.com/auth/devstorage.read_only"]});
    let reply = impersonate(&google, &federated(&google), SERVICE_ACCOUNT, &scope);
    let bearer = format!("Bearer {}", reply.json()["accessToken"].as_str().unwrap());
    let headers = [("Authorization", &*bearer)];
    assert_eq!(send(&google, "GET", "/storage/v1/b/mine/o/old", &headers, "").status, 200);
    assert_eq!(send(&google, "DELETE", "/storage/v1/b/mine/o/old", &headers, "").status, 403);
    assert_eq!(ask(&google, "PATCH", "/storage/v1/b/mine/o/old", &[], "").status, 405);
    assert_eq!(ask(&google, "POST", &format!("{UPLOAD}?uploadType=other&name=new"), &[], "").status, 400);
}

#[test]
fn the_xml_api_has_the_same_objects() {
    let google = google();
    assert_eq!(ask(&google, "PUT", "/xml/mine/a/b", &[], "body").status, 200);
    assert_eq!(read(&google, "a%2Fb"), "body");
    let reply = ask(&google, "GET", "/xml/mine/a/b", &[("Range", "bytes=1-2")], "");
    assert_eq!((reply.status, reply.text().as_str()), (206, "od"));
    let reply = ask(&google, "HEAD", "/xml/mine/a/b", &[], "");
    assert_eq!((reply.status, reply.text().as_str()), (200, ""));
    assert!(reply.headers.contains("Content-Length: 4"), "{}", reply.headers);
    let bearer = format!("Bearer {}", access_token(&google));
    let host = format!(
        "GET /mine/a/b HTTP/1.1\r\nHost: storage.googleapis.com\r\nConnection: close\r\nAuthorization: {bearer}\r\n\r\n"
    );
    assert_eq!(parse(&raw(&google, &host)).unwrap().text(), "body");
    assert_eq!(ask(&google, "DELETE", "/xml/mine/a/b", &[], "").status, 204);
    for (target, code) in [("/xml/mine/a/b", "NoSuchKey"), ("/xml/no/a", "NoSuchBucket")] {
        let reply = ask(&google, "GET", target, &[], "");
        assert_eq!(reply.status, 404);
        assert!(reply.text().contains(&format!("<Code>{code}</Code>")), "{}", reply.text());
    }
    assert_eq!(send(&google, "GET", "/xml/mine/old", &[], "").status, 401);
}
