//! A backend on loopback that responds as a target sets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Makes status and body of a response from the body of a request; `None` closes the connection.
type Answer = fn(&[u8]) -> Option<(u16, Vec<u8>)>;

/// Responds until the process ends, on the returned address.
pub(crate) fn serve(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("the listener has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || converse(&stream, answer));
        }
    });
    address
}

/// Responds to requests on one connection until the client closes it.
fn converse(mut stream: &TcpStream, answer: Answer) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            let read = reader.by_ref().take(16 * 1024).read_line(&mut line).ok()?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            match (read, line.is_empty()) {
                (0, _) => return None,
                (_, true) => break,
                _ => {}
            }
        }
        let mut request = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut request).ok()?;
        let (status, body) = answer(&request)?;
        let length = match status {
            204 => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let head = format!("HTTP/1.1 {status} Fuzzed\r\n{length}\r\n");
        stream.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}
