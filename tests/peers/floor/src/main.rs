//! The least that a server can do, to be measured beside rgunicorn: one thread, one epoll set, and constants.
//!
//! Owns no HTTP: it looks for the ends of heads and writes 13 octets for each, or a mebibyte from memory (`/big`), or what
//! follows the head (`/echo`). What a newcomer would get wrong: it has no limits, no time-outs and no answer to anything
//! unusual, and it takes a `/big` or `/echo` only as the first request in what it reads. What it costs is what the kernel
//! asks for.

use std::collections::HashMap;
use std::error::Error;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

use memchr::memmem::Finder;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nServer: floor\r\nContent-Length: 13\r\n\r\nHello, World!";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nServer: floor\r\nContent-Length: ";
const END: &[u8] = b"\r\n\r\n";
const BIG: usize = 1024 * 1024;
/// Data of the listener's events.
const LISTENER: u64 = u64::MAX;

/// A connection.
struct Client {
    fd: OwnedFd,
    /// What has come of a head that is not whole.
    input: Vec<u8>,
    /// Octets of a body that are still to come, and to go back.
    body: usize,
    /// What the socket did not take, and how much of it is gone since.
    pending: Vec<u8>,
    gone: usize,
    /// How much of the large answer is still to be written.
    big: usize,
    /// Whether its events tell of room in the socket; asked for when there was none for the first time.
    tells_room: bool,
}

/// What all connections share.
struct Floor {
    ends: Finder<'static>,
    close: Finder<'static>,
    length: Finder<'static>,
    /// The large answer, with its head.
    big: Vec<u8>,
    buffer: Vec<u8>,
    answers: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: rgunicorn-peer-floor ADDRESS:PORT")?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut big = format!("{HEAD}{BIG}\r\n\r\n").into_bytes();
    big.extend((b'a'..=b'z').cycle().take(BIG));
    let mut floor = Floor {
        ends: Finder::new(END),
        close: Finder::new(b"Connection: close"),
        length: Finder::new(b"Content-Length: "),
        big,
        buffer: vec![0; 128 * 1024],
        answers: Vec::new(),
    };
    let mut clients = HashMap::new();
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
                        let (input, pending) = (Vec::new(), Vec::new());
                        let mut client =
                            Client { fd, input, body: 0, pending, gone: 0, big: 0, tells_room: false };
                        // Most have said something already.
                        if floor.serve(&mut client) && tell_room(&epoll, &mut client, key)? {
                            clients.insert(key, client);
                        }
                    }
                    Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if let Some(client) = clients.get_mut(&key)
                && !(floor.serve(client) && tell_room(&epoll, client, key)?)
            {
                clients.remove(&key);
            }
        }
    }
}

/// Has the client's events tell of room if it is waited for; always true.
fn tell_room(epoll: &OwnedFd, client: &mut Client, key: u64) -> Result<bool, Errno> {
    if !client.tells_room && (client.big > 0 || client.gone < client.pending.len()) {
        client.tells_room = true;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::modify(epoll, &client.fd, EventData::new_u64(key), flags)?;
    }
    Ok(true)
}

/// What came of writing.
enum Wrote {
    All,
    Some(usize),
    Failed,
}

fn write(fd: &OwnedFd, octets: &[u8]) -> Wrote {
    let mut sent = 0;
    while sent < octets.len() {
        match send(fd, &octets[sent..], SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => return Wrote::Some(sent),
            Err(Errno::INTR) => {}
            Err(_) => return Wrote::Failed,
        }
    }
    Wrote::All
}

impl Floor {
    /// Answers what has arrived; whether the connection lives on.
    fn serve(&mut self, client: &mut Client) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let lives = self.serve_with(client, &mut buffer);
        self.buffer = buffer;
        lives
    }

    fn serve_with(&mut self, client: &mut Client, buffer: &mut [u8]) -> bool {
        loop {
            match self.write_rest(client) {
                Wrote::All => {}
                Wrote::Some(_) => return true,
                Wrote::Failed => return false,
            }
            let count = match recv(&client.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((count, _)) => count,
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => return false,
            };
            if !self.answer(client, &buffer[..count]) {
                return false;
            }
            // Less than there was room for: the socket is empty, unless something has to be written first.
            if count < buffer.len() && client.big == 0 && client.gone == client.pending.len() {
                return true;
            }
        }
    }

    /// Writes what is due.
    fn write_rest(&mut self, client: &mut Client) -> Wrote {
        if client.gone < client.pending.len() {
            match write(&client.fd, &client.pending[client.gone..]) {
                Wrote::All => {
                    client.pending.clear();
                    client.gone = 0;
                }
                Wrote::Some(count) => {
                    client.gone += count;
                    return Wrote::Some(count);
                }
                Wrote::Failed => return Wrote::Failed,
            }
        }
        if client.big > 0 {
            match write(&client.fd, &self.big[self.big.len() - client.big..]) {
                Wrote::All => client.big = 0,
                Wrote::Some(count) => {
                    client.big -= count;
                    return Wrote::Some(count);
                }
                Wrote::Failed => return Wrote::Failed,
            }
        }
        Wrote::All
    }

    /// Writes `octets` now, or as soon as there is room.
    fn put(client: &mut Client, octets: &[u8]) -> bool {
        match write(&client.fd, octets) {
            Wrote::All => true,
            Wrote::Some(count) => {
                client.pending.extend_from_slice(&octets[count..]);
                true
            }
            Wrote::Failed => false,
        }
    }

    /// Answers the requests in what has arrived; whether the connection lives on.
    fn answer(&mut self, client: &mut Client, arrived: &[u8]) -> bool {
        if client.body > 0 {
            let piece = arrived.len().min(client.body);
            client.body -= piece;
            return Self::put(client, &arrived[..piece]);
        }
        if client.input.is_empty() {
            return self.answer_whole(client, arrived);
        }
        let mut octets = std::mem::take(&mut client.input);
        octets.extend_from_slice(arrived);
        self.answer_whole(client, &octets)
    }

    fn answer_whole(&mut self, client: &mut Client, octets: &[u8]) -> bool {
        self.answers.clear();
        let mut start = 0;
        let mut last = false;
        while let Some(length) = self.ends.find(&octets[start..]) {
            let head = &octets[start..start + length];
            last |= self.close.find(head).is_some();
            start += length + END.len();
            if head.starts_with(b"GET /b") {
                client.big = self.big.len();
                return matches!(self.write_rest(client), Wrote::All | Wrote::Some(_)) && !last;
            }
            if head.starts_with(b"POST /e") {
                let Some(at) = self.length.find(head) else { return false };
                let digits =
                    head[at + b"Content-Length: ".len()..].iter().take_while(|octet| octet.is_ascii_digit());
                let length = digits.fold(0, |value: usize, digit| value * 10 + usize::from(digit - b'0'));
                let here = (octets.len() - start).min(length);
                client.body = length - here;
                self.answers.extend_from_slice(format!("{HEAD}{length}\r\n\r\n").as_bytes());
                self.answers.extend_from_slice(&octets[start..start + here]);
                return Self::put(client, &self.answers);
            }
            self.answers.extend_from_slice(ANSWER);
        }
        if start < octets.len() {
            client.input = octets[start..].to_vec();
        }
        Self::put(client, &self.answers) && !last
    }
}
