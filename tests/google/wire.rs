//! Requests and responses of HTTP/1.1, and how a request is read.

use std::io::{self, BufRead, BufReader, Read, Write};

/// The size limits of head and body.
const HEAD_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 4 << 20;

/// A request, whole.
#[derive(Debug)]
pub struct Request {
    pub secure: bool,
    pub method: String,
    pub target: String,
    /// The path of the target, still percent-encoded.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The token of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Whether the content type begins so: google-cloud-cpp sends its type twice.
    pub fn is_form(&self) -> bool {
        self.content_type_is("application/x-www-form-urlencoded")
    }

    pub fn is_json(&self) -> bool {
        self.content_type_is("application/json")
    }

    fn content_type_is(&self, name: &str) -> bool {
        let prefix = self.header("content-type").and_then(|own| own.get(..name.len()));
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(name))
    }

    /// `http://HOST` or `https://HOST`, as the client called this instance.
    pub fn base(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.header("host").unwrap_or("127.0.0.1"))
    }
}

/// An answer before its way to the wire.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether it answers HEAD, with the body's length but without the body.
    length: Option<usize>,
}

impl Response {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into(), length: None }
    }

    pub fn without_body(self) -> Self {
        Self { length: Some(self.body.len()), body: Vec::new(), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn head(&self, framing: &str) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("Server: ESF\r\nCache-Control: private\r\nX-Content-Type-Options: nosniff\r\n");
        head.push_str(framing);
        head.push_str("\r\n\r\n");
        head
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = self.length.unwrap_or(self.body.len());
        // RFC 9110 section 8.6: these two never have one.
        let framing = if self.status == 204 || self.status == 304 {
            "Vary: Origin".to_owned()
        } else {
            format!("Content-Length: {length}")
        };
        let mut bytes = self.head(&framing).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A connection, plain or not.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The next request, or `None` at the end of the connection.
pub fn read(stream: &mut BufReader<Box<dyn Stream>>, secure: bool) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let before = head.len();
        stream.by_ref().take((HEAD_LIMIT - before) as u64).read_until(b'\n', &mut head)?;
        if head.len() == before {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
    let mut slots = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut slots);
    parsed.parse(&head).map_err(io::Error::other)?;
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let target = parsed.path.unwrap_or("/").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request = Request {
        secure,
        method: parsed.method.unwrap_or("").to_owned(),
        path: path.to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers,
        body: Vec::new(),
        target,
    };
    // At this host all other paths are the XML API's.
    let is_storage =
        request.header("host").is_some_and(|host| host.split(':').next() == Some("storage.googleapis.com"));
    if is_storage && !["/storage/", "/download/", "/upload/"].iter().any(|start| request.path.starts_with(start)) {
        request.path.insert_str(0, "/xml");
    }
    let expects = request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.get_mut().flush()?;
    }
    request.body = read_body(stream, &request)?;
    Ok(Some(request))
}

fn read_body(stream: &mut impl BufRead, request: &Request) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::from(io::ErrorKind::FileTooLarge);
    let mut body = Vec::new();
    if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if body.len() + size > BODY_LIMIT {
                return Err(too_long());
            }
            stream.take(size as u64).read_to_end(&mut body)?;
            stream.read_line(&mut line)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length: usize = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    if length > BODY_LIMIT {
        return Err(too_long());
    }
    body.resize(length, 0);
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        308 => "Resume Incomplete",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        416 => "Requested Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
