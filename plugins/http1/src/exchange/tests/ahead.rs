//! Bodies received before their exchange.
//!
//! It owns every way in which such a body can arrive or fail to. What a newcomer gets wrong: the exchange that
//! follows must behave as if nothing had been received ahead, save for its system calls.

use super::*;

/// Receives the body of a complete head as an event loop would; how often it had to wait, and the last word.
fn receive_all(connection: &mut Connection<Script>, rules: &Rules, bound: usize) -> (usize, Ahead) {
    for waits in 0..10_000 {
        match connection.receive_body(rules, bound) {
            Ahead::Partial => assert!(!connection.wire().arriving.is_empty(), "would wait for ever"),
            ahead => return (waits, ahead),
        }
    }
    panic!("no end");
}

#[test]
fn a_body_that_was_received_ahead_is_read_without_a_system_call() {
    for request in [POST, CHUNKED] {
        for at in 1..request.len() {
            let mut script = script(&[&request[..at], &request[at..], GET]);
            script.arriving.insert(1, Arriving::Nothing);
            script.arriving.insert(3, Arriving::Nothing);
            let mut connection = connection(script);
            let rules = rules();
            assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
            let (_, ahead) = receive_all(&mut connection, &rules, 1000);
            assert_eq!(ahead, Ahead::Complete, "{at}");
            let reads = connection.wire().reads;
            let ended = one(&rules, &mut connection, &echo);
            assert_eq!(connection.wire().reads, reads, "{at}");
            assert!(ended.keep_alive && ended.bytes_in == request.len() as u64);
            connection.next(&ended);
            assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
            assert_eq!(dateless(&connection.into_parts().0.out), ECHOED);
        }
    }
}

#[test]
fn a_pipelined_request_behind_it_is_kept() {
    for request in [POST, CHUNKED] {
        let mut connection = connection(script(&[
            &request[..request.len() - 3],
            &[&request[request.len() - 3..], GET].concat(),
        ]));
        let rules = rules();
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        assert_eq!(receive_all(&mut connection, &rules, 1000).1, Ahead::Complete);
        let ended = one(&rules, &mut connection, &echo);
        connection.next(&ended);
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        let ended = one(&rules, &mut connection, &respond);
        assert!(ended.keep_alive);
        let out = dateless(&connection.into_parts().0.out);
        assert_eq!(out, format!("{ECHOED}HTTP/1.1 200 OK|X: y|Content-Length: 5||hello"));
    }
}

#[test]
fn what_is_too_long_or_waits_for_us_is_left_to_the_exchange() {
    let rules = rules();
    let ahead = |request: &[u8], bound| {
        let mut connection = connection(script(&[request]));
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        let ahead = connection.receive_body(&rules, bound);
        let exchange = one(&rules, &mut connection, &echo);
        (ahead, exchange.status, dateless(&connection.into_parts().0.out))
    };
    assert_eq!(ahead(POST, 11), (Ahead::Complete, 200, ECHOED.to_owned()));
    assert_eq!(ahead(POST, 10), (Ahead::TooLong, 200, ECHOED.to_owned()));
    let framed = CHUNKED.len() - CHUNKED.windows(4).position(|end| end == b"\r\n\r\n").unwrap() - 4;
    assert_eq!(ahead(CHUNKED, framed), (Ahead::Complete, 200, ECHOED.to_owned()));
    assert_eq!(ahead(&CHUNKED[..CHUNKED.len() - 2], framed - 2).0, Ahead::TooLong);
    assert_eq!(ahead(GET, 0).0, Ahead::Complete);
    let expecting = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(ahead(expecting, 100).0, Ahead::TooLong);
    assert_eq!(ahead(&[&expecting[..], b"hello"].concat(), 100).0, Ahead::Complete);
}

#[test]
fn long_bodies_make_the_buffer_grow_up_to_the_bound_only() {
    let body = vec![b'x'; 100_000];
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut connection = connection(script(&[&head[..], &body, b"trailing"]));
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    assert_eq!(receive_all(&mut connection, &rules, 100_000).1, Ahead::Complete);
    let ended = one(&rules, &mut connection, &|exchange| {
        let (mut total, mut buffer) = (0, vec![0; 7000]);
        while let Ok(count @ 1..) = exchange.read(&mut buffer) {
            total += count;
        }
        assert_eq!(total, 100_000);
        respond(exchange)
    });
    assert!(ended.keep_alive);
    let chunk = [b"ffff\r\n", &vec![b'x'; 0xffff][..], b"\r\n"].concat();
    let endless = chunk.repeat(10);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut connection = super::connection(script(&[&head[..], &endless]));
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    assert_eq!(receive_all(&mut connection, &rules, 90_000).1, Ahead::TooLong);
    assert!(!connection.wire().arriving.is_empty());
}

#[test]
fn mistakes_and_ends_are_found_by_the_exchange() {
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}").into_bytes();
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let cases = [
        (post(&format!("{chunked}5x\r\n")), None, 400, Fault::Malformed),
        (post(&format!("{chunked}5\r\nhel")), Some(Arriving::End), 400, Fault::Malformed),
        (post(&format!("{chunked}15\r\nhel")), None, 413, Fault::TooLarge),
        (post("Content-Length: 21\r\n\r\n"), None, 413, Fault::TooLarge),
        (post("Content-Length: 9\r\n\r\nhel"), Some(Arriving::End), 400, Fault::Malformed),
        (post("Content-Length: 9\r\n\r\nhel"), Some(Arriving::Reset), 0, Fault::ClientGone),
    ];
    for (request, then, status, fault) in cases {
        let mut rules = rules();
        rules.limits.body = Some(20);
        let mut script = script(&[&request]);
        script.arriving.extend(then);
        let mut connection = connection(script);
        // The first read is short; what is behind it comes with an event.
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        assert_eq!(receive_all(&mut connection, &rules, 1000).1, Ahead::Complete);
        let reads = connection.wire().reads;
        let ended = one(&rules, &mut connection, &echo);
        assert_eq!(connection.wire().reads, reads);
        assert_eq!((ended.status, ended.fault, ended.keep_alive), (status, Some(fault), false));
    }
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let mut connection = connection(script(&[&POST[..POST.len() - 1]]));
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    assert_eq!(connection.receive_body(&rules, 1000), Ahead::Partial);
    let exchange = connection.polled(&rules, b"", true, &Unwatched, Waker::noop());
    let mut context = Context::from_waker(Waker::noop());
    while exchange.poll_read(&mut context, &mut [0; 20]).is_ready() {}
    exchange.expire();
    exchange.conclude(Verdict::Transport);
    assert_eq!(exchange.ended().status, 408);
}
