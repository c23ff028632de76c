//! A client as small as the tests need it: one request for each connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(of, _)| of.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads one to its end.
    pub fn read(stream: TcpStream) -> Reply {
        Self::read_any(stream).expect("an answer")
    }

    /// The same; `None` if the connection is closed without one.
    pub fn read_any(mut stream: TcpStream) -> Option<Reply> {
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        if all.is_empty() {
            return None;
        }
        read.unwrap();
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(&all)));
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Reply {
            status,
            head,
            body: all.split_off(end + 4),
        })
    }
}

/// Sends a request, and leaves its answer unread.
pub fn begin(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    let length = body.len();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    // A server may answer, and close, before it has read all.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    stream
}

pub fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    Reply::read(begin(to, method, path, headers, body))
}

pub fn get(to: SocketAddr, path: &str) -> Reply {
    send(to, "GET", path, &[], b"")
}

pub fn post(to: SocketAddr, path: &str, body: &[u8]) -> Reply {
    send(to, "POST", path, &[], body)
}
