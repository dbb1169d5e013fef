//! What is answered: status, headers and which bytes of the file (RFC 9110).

use super::request::{Has, Method, Range, Request, Target};
use muster_protocol::ids::Digest;

/// An answer; its head is text, its body a piece of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: Status,
    pub head: String,
    /// First byte and number of bytes.
    pub body: Option<(u64, u64)>,
    pub close: bool,
}

/// The statuses this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    Partial,
    NotModified,
    BadRequest,
    NotFound,
    NotAllowed,
    RangeNotSatisfiable,
    HeadTooLarge,
    Trouble,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Partial => "206 Partial Content",
            Self::NotModified => "304 Not Modified",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::RangeNotSatisfiable => "416 Range Not Satisfiable",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Trouble => "503 Service Unavailable",
        }
    }
}

/// An answer without a file.
pub fn refusal(status: Status, close: bool) -> Response {
    let allow = if status == Status::NotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    Response {
        status,
        head: head(status, &format!("{allow}Content-Length: 0\r\n"), close),
        body: None,
        close,
    }
}

/// The answer to `request` for a file of `size` bytes.
pub fn respond(request: &Request, size: u64, digest: Digest) -> Response {
    let etag = format!("\"{digest}\"");
    let kind = match request.target {
        // EDK2 takes a boot file by this type, or by its name's `.efi`.
        Some(Target::Boot(_)) => "application/efi",
        Some(Target::Artifact(_)) | None => "application/octet-stream",
    };
    let common = format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\n");
    let close = request.close;
    let answer = |status, headers: String, body: Option<(u64, u64)>| {
        let body = body.filter(|_| request.method == Method::Get);
        Response { status, head: head(status, &(headers + &common), close), body, close }
    };
    let unchanged = match &request.has {
        Has::Unknown => false,
        Has::Anything => true,
        Has::OneOf(digests) => digests.contains(&digest),
    };
    if unchanged {
        return answer(Status::NotModified, String::new(), None);
    }
    // A range is for GET only (RFC 9110 §14.2), and only of the version the client has.
    let range = request.range.filter(|_| {
        request.method == Method::Get && request.range_of.as_ref().is_none_or(|tag| *tag == etag)
    });
    let Some(range) = range else {
        let headers = format!("Content-Type: {kind}\r\nContent-Length: {size}\r\n");
        return answer(Status::Ok, headers, Some((0, size)));
    };
    let Some((first, count)) = within(range, size) else {
        let headers = format!("Content-Range: bytes */{size}\r\nContent-Length: 0\r\n");
        return answer(Status::RangeNotSatisfiable, headers, None);
    };
    let headers = format!(
        "Content-Type: {kind}\r\nContent-Length: {count}\r\nContent-Range: bytes {first}-{}/{size}\r\n",
        first + count - 1
    );
    answer(Status::Partial, headers, Some((first, count)))
}

/// First byte and number of bytes of a range that has at least one.
fn within(range: Range, size: u64) -> Option<(u64, u64)> {
    let (first, end) = match range {
        Range::From { first, last } => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
        Range::Last(count) => (size.saturating_sub(count), size),
    };
    (first < end).then(|| (first, end - first))
}

fn head(status: Status, headers: &str, close: bool) -> String {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("HTTP/1.1 {}\r\n{headers}{connection}\r\n", status.line())
}

#[cfg(test)]
mod tests {
    use super::{super::request::Head, super::request::read, *};

    const DIGEST: Digest = Digest([0xab; 32]);

    fn answer(method: &str, headers: &str) -> Response {
        let text = format!("{method} /boot/a.efi HTTP/1.1\r\n{headers}\r\n");
        let Head::Whole { request, .. } = read(text.as_bytes()) else { panic!("not a request: {text:?}") };
        respond(&request, 1000, DIGEST)
    }

    #[test]
    fn a_boot_file_has_the_type_and_length_that_firmware_wants() {
        let get = answer("GET", "");
        assert_eq!((get.status, get.body), (Status::Ok, Some((0, 1000))));
        assert!(get.head.starts_with("HTTP/1.1 200 OK\r\n") && get.head.ends_with("\r\n\r\n"));
        assert!(get.head.contains("Content-Type: application/efi\r\nContent-Length: 1000\r\n"));
        let head = answer("HEAD", "");
        assert_eq!((head.head, head.body), (get.head, None));
    }

    #[test]
    fn a_range_gives_its_bytes() {
        let cases = [
            ("bytes=0-0", Some((0, 1)), "bytes 0-0/1000"),
            ("bytes=10-19", Some((10, 10)), "bytes 10-19/1000"),
            ("bytes=990-", Some((990, 10)), "bytes 990-999/1000"),
            ("bytes=990-5000", Some((990, 10)), "bytes 990-999/1000"),
            ("bytes=0-18446744073709551615", Some((0, 1000)), "bytes 0-999/1000"),
            ("bytes=-7", Some((993, 7)), "bytes 993-999/1000"),
            ("bytes=-7000", Some((0, 1000)), "bytes 0-999/1000"),
            ("bytes=1000-", None, "bytes */1000"),
            ("bytes=-0", None, "bytes */1000"),
        ];
        for (range, body, says) in cases {
            let answer = answer("GET", &format!("Range: {range}\r\n"));
            assert_eq!(answer.body, body, "{range}");
            assert!(answer.head.contains(&format!("Content-Range: {says}\r\n")), "{range}: {}", answer.head);
            let status = if body.is_some() { Status::Partial } else { Status::RangeNotSatisfiable };
            assert_eq!(answer.status, status);
        }
        assert_eq!(answer("GET", "Range: bytes=0-1,5-6\r\n").body, Some((0, 1000)), "several are as if none");
    }

    #[test]
    fn a_range_of_another_version_is_the_whole_file() {
        let tag = "ab".repeat(32);
        let range = |tag: &str| answer("GET", &format!("Range: bytes=5-\r\nIf-Range: \"{tag}\"\r\n")).body;
        assert_eq!((range(&tag), range("old")), (Some((5, 995)), Some((0, 1000))));
    }

    #[test]
    fn who_has_the_file_does_not_get_it_again() {
        let tag = "ab".repeat(32);
        for tags in [format!("\"{tag}\""), format!("\"x\", W/\"{tag}\""), "*".into()] {
            let answer = answer("GET", &format!("If-None-Match: {tags}\r\n"));
            assert_eq!((answer.status, answer.body), (Status::NotModified, None), "{tags}");
        }
        assert_eq!(answer("GET", "If-None-Match: \"x\"\r\n").status, Status::Ok);
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        let refusal = refusal(Status::NotAllowed, true);
        assert!(
            refusal.head.contains("Allow: GET, HEAD\r\n") && refusal.head.contains("Connection: close\r\n")
        );
    }
}
