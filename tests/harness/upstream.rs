//! A server within the test, for applications that call others: one thread for each connection, one request on each.
//!
//! Owns the port, the reading of a head, and an end that loses nothing. What it says and how it misbehaves is each
//! test's own. What a newcomer would get wrong: a caller that has left is no fault of such a server's, so that nothing
//! here fails for that.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Serves on a port of its own. The threads end with the test's process.
pub fn listen(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(&stream.expect("a client")));
        }
    });
    address
}

/// The head of a request, and nothing that comes behind it; none if the caller has left before its end.
pub fn head_of(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if stream.read(&mut octet).unwrap_or(0) == 0 {
            return None;
        }
        head.push(octet[0]);
    }
    Some(String::from_utf8(head).expect("a head is ASCII"))
}

/// Sends the last octets of an answer, and waits for the caller to leave: a reset would take the answer away from one
/// that has not read it.
pub fn end_with(mut stream: &TcpStream, octets: &[u8]) {
    let _ = stream.write_all(octets);
    let _ = stream.shutdown(Shutdown::Write);
    until_left(stream);
}

/// Waits for the caller to leave.
pub fn until_left(mut stream: &TcpStream) {
    while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
}
