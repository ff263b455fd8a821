//! The face of a polled exchange that neither waits nor takes less: octets and files that queue.
//!
//! It owns the order of what is queued, its bound, and what becomes of it when the client takes it, leaves, or
//! never comes back. What a newcomer gets wrong: the wire in memory takes files as it takes octets.

use super::*;

fn file(content: &[u8]) -> File {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("rgunicorn-http1-queue-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, content).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

/// Two files with octets between and behind, through every width of the wire.
fn mixed(exchange: &dyn Exchange) -> Verdict {
    exchange.start(200, &[]).unwrap();
    {
        let (one, two) = (file(b"0123456789"), file(b"abcdef"));
        exchange.write(b"head ").unwrap();
        exchange.send_file(one.as_fd(), 2, 6).unwrap();
        exchange.send_file(two.as_fd(), 0, 6).unwrap();
        // Both are closed here, with the client still to take them.
    }
    exchange.write(b" tail").unwrap();
    Verdict::Ok
}

const MIXED: &str = "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|head |6|234567|6|abcdef|5| tail|0||";

#[test]
fn octets_and_files_queue_in_order() {
    for narrow in 1..150 {
        let mut script = script(&[GET]);
        script.narrow = Some(narrow);
        let (out, ended) = poll_with(script, &rules(), |exchange, _, _| mixed(exchange));
        assert_eq!(out, MIXED, "{narrow}");
        assert!(ended.keep_alive && !ended.incomplete && ended.body_bytes == 22);
    }
}

#[test]
fn what_was_queued_before_the_client_took_anything_is_sent_when_it_does() {
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended) = poll_with(script, &rules(), |exchange, _, _| {
        let verdict = mixed(exchange);
        assert!(exchange.is_sending() && exchange.wanted().writable && exchange.wanted().deadline.is_some());
        exchange.with_wire(|wire| wire.stuck = false);
        verdict
    });
    assert_eq!(out, MIXED);
    assert!(ended.keep_alive && ended.body_bytes == 22);
}

#[test]
fn declared_lengths_are_kept_to_in_the_queue() {
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended) = poll_with(script, &rules(), |exchange, _, _| {
        exchange.start(200, &[Field::new("Content-Length", "3")]).unwrap();
        exchange.send_file(file(b"0123456789").as_fd(), 2, 6).unwrap();
        exchange.with_wire(|wire| wire.stuck = false);
        Verdict::Ok
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Content-Length: 3||234");
    assert!(ended.keep_alive && ended.body_bytes == 3);
}

#[test]
fn more_than_the_bound_ends_the_exchange() {
    let rules = Rules { buffer: 100_000, ..rules() };
    let mut stuck = script(&[GET]);
    stuck.stuck = true;
    let (out, ended) = poll_with(stuck, &rules, |exchange, _, _| {
        exchange.start(200, &[]).unwrap();
        assert_eq!(exchange.write(&[b'x'; 90_000]), Ok(()));
        assert_eq!(exchange.write(&[b'x'; 20_000]), Err(Fault::System));
        assert!(!exchange.is_sending());
        Verdict::Transport
    });
    assert_eq!((&out[..], ended.body_bytes), ("", 0));
    assert!(ended.incomplete && !ended.keep_alive && ended.fault == Some(Fault::System));
    // Descriptors are bounded too.
    let mut stuck = script(&[GET]);
    stuck.stuck = true;
    let (_, ended) = poll_with(stuck, &rules, |exchange, _, _| {
        exchange.start(200, &[]).unwrap();
        let file = file(b"0123456789");
        let taken = (0..100).take_while(|_| exchange.send_file(file.as_fd(), 0, 10).is_ok()).count();
        assert!((1..100).contains(&taken));
        Verdict::Transport
    });
    assert!(ended.incomplete);
}

#[test]
fn a_queued_file_that_has_become_shorter_ends_the_connection() {
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended) = poll_with(script, &rules(), |exchange, _, _| {
        exchange.start(200, &[]).unwrap();
        exchange.send_file(file(b"0123456789").as_fd(), 5, 9).unwrap();
        exchange.with_wire(|wire| wire.stuck = false);
        Verdict::Ok
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||9|56789");
    assert!(ended.incomplete && !ended.keep_alive && ended.fault == Some(Fault::System));
}

#[test]
fn an_answer_of_which_nothing_was_sent_is_taken_back_with_its_files() {
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended) = poll_with(script, &rules(), |exchange, _, _| {
        exchange.start(200, &[]).unwrap();
        exchange.send_file(file(b"0123456789").as_fd(), 0, 9).unwrap();
        exchange.write(b"more").unwrap();
        exchange.with_wire(|wire| wire.stuck = false);
        Verdict::Panicked
    });
    assert!(out.starts_with("HTTP/1.1 500 ") && !out.contains("012"), "{out}");
    assert_eq!((ended.status, ended.incomplete), (500, false));
}

#[test]
fn many_small_writes_to_a_slow_client_keep_their_order() {
    let mut script = script(&[GET]);
    script.narrow = Some(3);
    let (out, ended) = poll_with(script, &rules(), |exchange, _, _| {
        exchange.start(200, &[Field::new("Content-Length", "4000")]).unwrap();
        for number in 0..1000 {
            exchange.write(format!("{number:4}").as_bytes()).unwrap();
        }
        Verdict::Ok
    });
    let expected: String = (0..1000).map(|number| format!("{number:4}")).collect();
    assert_eq!(out, format!("HTTP/1.1 200 OK|Content-Length: 4000||{expected}"));
    assert!(ended.keep_alive && ended.body_bytes == 4000);
}
