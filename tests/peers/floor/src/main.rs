//! The least that a server can do, to be measured beside rgunicorn: one thread, one epoll set, and 13 octets for
//! everybody.
//!
//! Owns no HTTP: it looks for the ends of heads and writes a constant for each. What a newcomer would get wrong: it has
//! no limits, no time-outs and no answer to anything unusual, and it reads once for each event, as much as a load of small
//! requests ever sends. What it costs is what the kernel asks for.

use std::collections::HashMap;
use std::error::Error;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nServer: floor\r\nContent-Length: 13\r\n\r\nHello, World!";
const END: &[u8] = b"\r\n\r\n";
const CLOSE: &[u8] = b"Connection: close";
/// Data of the listener's events.
const LISTENER: u64 = u64::MAX;

/// A connection, and what has come of a head that is not whole.
struct Client {
    fd: OwnedFd,
    input: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: rgunicorn-peer-floor ADDRESS:PORT")?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients = HashMap::new();
    let ends = memchr::memmem::Finder::new(END).into_owned();
    let close = memchr::memmem::Finder::new(CLOSE).into_owned();
    let mut answers = Vec::new();
    let mut events = [MaybeUninit::uninit(); 256];
    loop {
        let (ready, _) = epoll::wait(&epoll, &mut events, None)?;
        for event in ready.iter() {
            let key = event.data.u64();
            if key == LISTENER {
                match accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(fd) => {
                        let key = fd.as_raw_fd().unsigned_abs().into();
                        epoll::add(&epoll, &fd, EventData::new_u64(key), EventFlags::IN | EventFlags::ET)?;
                        let mut client = Client { fd, input: Vec::new() };
                        // Most have said something already.
                        if serve(&mut client, &ends, &close, &mut answers) {
                            clients.insert(key, client);
                        }
                    }
                    Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if let Some(client) = clients.get_mut(&key)
                && !serve(client, &ends, &close, &mut answers)
            {
                clients.remove(&key);
            }
        }
    }
}

/// Answers what has arrived; whether the connection lives on.
fn serve(
    client: &mut Client,
    ends: &memchr::memmem::Finder<'_>,
    close: &memchr::memmem::Finder<'_>,
    answers: &mut Vec<u8>,
) -> bool {
    let mut buffer = [0; 16 * 1024];
    let count = match recv(&client.fd, &mut buffer, RecvFlags::empty()) {
        Ok((0, _)) => return false,
        Ok((count, _)) => count,
        Err(Errno::AGAIN | Errno::INTR) => return true,
        Err(_) => return false,
    };
    let arrived = &buffer[..count];
    let octets = if client.input.is_empty() {
        arrived
    } else {
        client.input.extend_from_slice(arrived);
        &client.input[..]
    };
    answers.clear();
    let mut start = 0;
    let mut last = false;
    while let Some(length) = ends.find(&octets[start..]) {
        last |= close.find(&octets[start..start + length]).is_some();
        answers.extend_from_slice(ANSWER);
        start += length + END.len();
    }
    let rest = octets[start..].to_vec();
    client.input = rest;
    // 16 answers fit into any socket's buffer.
    let sent = answers.is_empty() || send(&client.fd, answers, SendFlags::NOSIGNAL) == Ok(answers.len());
    sent && !last
}
