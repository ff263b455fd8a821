//! Connections between requests, at their end, and in another one's stead.
//!
//! It owns what an event loop needs around exchanges. What a newcomer gets wrong: with edge-triggered events
//! the end of the client's direction is told once, perhaps together with the last octets.

use super::*;

struct Leaving;

impl Watch for Leaving {
    fn expired(&self, _: u64) -> bool {
        false
    }

    fn draining(&self) -> bool {
        true
    }
}

/// A connection and its exchange are moved for each request, and an idle connection is kept by the thousand.
#[test]
fn connections_and_exchanges_are_small() {
    let connection = size_of::<Connection<u64>>();
    let exchange = size_of::<Polled<'_, u64>>();
    assert!(connection <= 128 && connection + exchange <= 576, "{connection} + {exchange} octets");
    assert_eq!(size_of::<Memory>(), size_of::<usize>());
}

#[test]
fn a_worker_that_wants_to_leave_says_so_in_the_head() {
    let mut connection = connection(script(&[GET]));
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    let exchange = connection.blocking(&rules, b"", true, &Leaving);
    let verdict = respond(&exchange);
    let ended = exchange.conclude(verdict);
    assert!(!ended.keep_alive && !ended.linger);
    drop(exchange);
    let out = dateless(&connection.into_parts().0.out);
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5|Connection: close||hello");
}

#[test]
fn an_end_behind_the_last_request_is_seen() {
    let mut script = script(&[GET]);
    script.arriving.push_back(Arriving::End);
    let mut connection = connection(script);
    let rules = rules();
    assert_eq!(connection.receive(&rules), Arrival::Complete);
    let ended = one(&rules, &mut connection, &respond);
    assert!(ended.keep_alive);
    connection.next(&ended);
    assert!(connection.is_quiet());
    connection.more_to_come();
    assert!(!connection.is_quiet());
    assert_eq!(connection.receive(&rules), Arrival::Closed);
}

#[test]
fn an_end_behind_half_a_head_is_seen_in_the_same_turn() {
    let mut script = script(&[&GET[..9]]);
    script.arriving.push_back(Arriving::End);
    let mut connection = connection(script);
    connection.more_to_come();
    assert_eq!(connection.receive(&rules()), Arrival::Refused(Error::Truncated));
}

#[test]
fn an_end_behind_half_a_body_is_seen_in_the_same_turn() {
    let mut script = script(&[&POST[..POST.len() - 1]]);
    script.arriving.push_back(Arriving::End);
    let mut connection = connection(script);
    let rules = rules();
    connection.more_to_come();
    assert_eq!(connection.receive(&rules), Arrival::Complete);
    assert_eq!(connection.receive_body(&rules, 100), Ahead::Complete);
    let ended = one(&rules, &mut connection, &echo);
    assert_eq!((ended.status, ended.fault), (400, Some(Fault::Malformed)));
}

#[test]
fn half_a_pipelined_head_is_received_when_the_rest_comes() {
    let mut connection = connection(script(&[&[GET, &GET[..9]].concat(), &GET[9..]]));
    let rules = rules();
    assert_eq!(connection.receive(&rules), Arrival::Complete);
    let ended = one(&rules, &mut connection, &respond);
    connection.next(&ended);
    assert!(!connection.is_quiet() && connection.has_begun());
    assert_eq!(connection.receive(&rules), Arrival::Partial);
    assert_eq!(connection.receive(&rules), Arrival::Complete);
}

#[test]
fn lingering_goes_on_in_steps() {
    let mut script = script(&[b"rest"]);
    script.arriving.push_back(Arriving::Nothing);
    script.arriving.push_back(Arriving::End);
    let mut connection = connection(script);
    assert!(connection.linger_begin());
    assert!(connection.wire().shut);
    assert_eq!(connection.linger_some(), Lingering::More);
    assert_eq!(connection.linger_some(), Lingering::Done);
    assert!(connection.wire().waits.is_empty());
    let mut endless = super::connection(super::script(&[&vec![0; 1 << 20]]));
    assert!(endless.linger_begin());
    assert_eq!(endless.linger_some(), Lingering::Done);
    assert!(!endless.wire().arriving.is_empty());
}

#[test]
fn a_stand_in_answers_504_for_a_request_that_is_stuck() {
    let rules = rules();
    for request in [GET, POST, CHUNKED] {
        let mut stuck = connection(script(&[request]));
        assert_eq!(stuck.receive(&rules), Arrival::Complete);
        let head = stuck.head().to_vec();
        let mut standing_in = Connection::with_head(
            script(&[]),
            Address::Unknown,
            Scheme::Http,
            &rules,
            &head,
            Memory::default(),
        )
        .unwrap();
        assert_eq!(standing_in.target(), b"/");
        let exchange = standing_in.polled(&rules, b"", true, &Unwatched, Waker::noop());
        assert_eq!(
            exchange.head().method,
            &request[..request.iter().position(|octet| *octet == b' ').unwrap()]
        );
        exchange.expire();
        exchange.conclude(Verdict::Transport);
        let ended = exchange.ended();
        assert_eq!((ended.status, ended.fault, ended.keep_alive), (504, Some(Fault::Expired), false));
        assert!(ended.linger);
        drop(exchange);
        let script = standing_in.into_parts().0;
        assert_eq!(script.reads, 0);
        let out = dateless(&script.out);
        assert!(
            out.starts_with("HTTP/1.1 504 Gateway Timeout|") && out.contains("|Connection: close||"),
            "{out}"
        );
    }
    for wrong in [&GET[..9], b"\r\n\r\nGET", b""] {
        let memory = Memory::default();
        let none = Connection::with_head(script(&[]), Address::Unknown, Scheme::Http, &rules, wrong, memory);
        assert!(none.is_none());
    }
}
