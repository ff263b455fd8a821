//! `examples/chat`: connections that an application takes over, with a WebSocket library that knows nothing of this
//! server.
//!
//! The client is written by hand, frame by frame (RFC 6455 section 5). What a newcomer would get wrong: what a client
//! sends is masked; a mask of zeros is one.

use harness::{Connection, Server, Signal, Site, programs, under_each_with_threads};

fn launch<'s>(site: &'s Site, class: harness::Class) -> Server<'s> {
    site.install(programs().example("chat"), "app.so");
    site.launch().class(class).workers(1).start()
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Joins the room.
fn join(server: &Server<'_>) -> Connection {
    let mut connection = Connection::open(server.address()).expect("it listens");
    let head = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection.send(head.as_bytes()).expect("it reads");
    let answer = connection.read_head().expect("a head");
    assert_eq!(answer.status, 101, "{answer:?}");
    // The example of RFC 6455 section 1.3.
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    connection
}

fn say(connection: &mut Connection, kind: u8, text: &[u8]) {
    assert!(text.len() < 126, "longer ones have another form");
    let mut frame = vec![0x80 | kind, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    connection.send(&frame).expect("it reads");
}

fn hear(connection: &mut Connection) -> (u8, Vec<u8>) {
    let head = connection.octets(2).expect("a frame");
    assert_eq!((head[0] & 0xf0, head[1] & 0x80), (0x80, 0), "whole and not masked");
    assert!(head[1] < 126, "{head:?}");
    (head[0] & 0x0f, connection.octets(head[1].into()).expect("its text"))
}

#[test]
fn what_one_says_everybody_hears() {
    under_each_with_threads(|class| {
        let site = Site::new("chat");
        let mut server = launch(&site, class);
        let mut people: Vec<Connection> = (0..20).map(|_| join(&server)).collect();
        for speaker in 0..people.len() {
            let text = format!("I am number {speaker}");
            say(&mut people[speaker], TEXT, text.as_bytes());
            for listener in &mut people {
                assert_eq!(hear(listener), (TEXT, text.clone().into_bytes()));
            }
        }
        say(&mut people[0], PING, b"there?");
        assert_eq!(hear(&mut people[0]), (PONG, b"there?".to_vec()));
        // Requests go on beside the conversations.
        assert!(server.text("/").contains("<title>chat</title>"));
        assert_eq!(server.get("/chat").status, 426);

        // One leaves as one should, one without a word; the others go on.
        let mut polite = people.remove(0);
        say(&mut polite, CLOSE, &1000_u16.to_be_bytes());
        assert_eq!(hear(&mut polite), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
        polite.read_end().expect("its end");
        people.remove(0).reset();
        say(&mut people[0], TEXT, b"who is there?");
        for listener in &mut people {
            assert_eq!(hear(listener), (TEXT, b"who is there?".to_vec()));
        }

        // The worker is told to leave, and so is everybody.
        server.signal(Signal::SIGTERM);
        for mut person in people {
            let (kind, reason) = hear(&mut person);
            assert_eq!((kind, &reason[..2]), (CLOSE, &1001_u16.to_be_bytes()[..]));
            say(&mut person, CLOSE, &reason[..2]);
            person.read_end().expect("its end");
        }
        let (status, _) = server.wait_end();
        assert_eq!(status.code(), Some(0));
        server.check_log();
    });
}
