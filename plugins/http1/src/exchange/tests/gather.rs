//! Answers that gather while further requests lie ready.
//!
//! It owns when they are sent after all. What a newcomer gets wrong: an answer that gathers has ended well for
//! its own record; that it cannot be sent is found by whoever sends it.

use super::*;

/// Serves what lies ready as an event loop would, with gathering; how each exchange ended.
fn serve(connection: &mut Connection<Script>, rules: &Rules, app: App<'_>) -> Vec<Ended> {
    let mut all = Vec::new();
    while connection.receive(rules) == Arrival::Complete {
        let ended = {
            let gathers = connection.has_next();
            let mut exchange = connection.polled(rules, b"", true, &Unwatched, Waker::noop());
            if gathers {
                exchange.gather();
            }
            let verdict = app(&exchange);
            exchange.conclude(verdict);
            assert!(!exchange.is_sending() || exchange.wanted().writable);
            while exchange.is_sending() {
                exchange.ready(false, true);
            }
            assert_eq!(exchange.wanted(), super::super::Wanted::default());
            exchange.ended()
        };
        all.push(ended);
        if !ended.keep_alive {
            break;
        }
        connection.next(&ended);
    }
    all
}

const ANSWER: &str = "HTTP/1.1 200 OK|X: y|Content-Length: 5||hello";

#[test]
fn a_burst_is_answered_by_one_write() {
    for (app, answer, size) in [(&respond as App<'_>, ANSWER, 5), (&stream, STREAMED, 11)] {
        let mut connection = connection(script(&[&GET.repeat(20)]));
        let all = serve(&mut connection, &rules(), app);
        assert_eq!(all.len(), 20);
        for ended in all {
            assert!(ended.keep_alive && !ended.incomplete && ended.fault.is_none());
            assert_eq!((ended.status, ended.body_bytes), (200, size));
        }
        let script = connection.into_parts().0;
        assert_eq!(dateless(&script.out), answer.repeat(20));
        assert!(script.writes <= 3, "{}", script.writes);
    }
}

#[test]
fn what_gathers_is_sent_before_half_a_request_is_waited_for() {
    let mut connection = connection(script(&[&[GET, GET, &GET[..9]].concat()]));
    let all = serve(&mut connection, &rules(), &respond);
    assert_eq!((all.len(), connection.wire().writes), (2, 0));
    assert!(connection.unsent() > 0);
    assert_eq!(connection.send(), Ok(true));
    assert_eq!(connection.unsent(), 0);
    assert_eq!(dateless(&connection.into_parts().0.out), ANSWER.repeat(2));
}

#[test]
fn long_flushed_and_last_answers_are_sent_at_once() {
    let long: App<'_> = &|exchange| {
        exchange.respond(200, &[], &[b'x'; 17_000]).unwrap();
        Verdict::Ok
    };
    let flushed: App<'_> = &|exchange| {
        exchange.start(200, &[]).unwrap();
        exchange.flush().unwrap();
        Verdict::Ok
    };
    let failed: App<'_> = &|_| Verdict::Failed;
    for (app, keep_alive) in [(long, true), (flushed, true), (failed, false)] {
        let mut connection = connection(script(&[&[GET, &GET[..9]].concat()]));
        let all = serve(&mut connection, &rules(), app);
        assert_eq!((all.len(), all[0].keep_alive, connection.unsent()), (1, keep_alive, 0));
        assert!(connection.wire().writes > 0);
    }
}

#[test]
fn a_failure_behind_gathered_answers_takes_back_its_own_only() {
    let mut connection = connection(script(&[&GET.repeat(2)]));
    let rules = rules();
    let count = AtomicUsize::new(0);
    let all = serve(&mut connection, &rules, &|exchange| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            return respond(exchange);
        }
        exchange.start(200, &[]).unwrap();
        Verdict::Panicked
    });
    assert_eq!((all[0].status, all[1].status, all[1].body_bytes), (200, 500, 26));
    let out = dateless(&connection.into_parts().0.out);
    assert!(out.starts_with(&format!("{ANSWER}HTTP/1.1 500 ")), "{out}");
    assert_eq!(out.matches("HTTP/1.1").count(), 2);
}

#[test]
fn a_client_that_takes_nothing_ends_the_connection_not_the_record() {
    let mut script = script(&[&[GET, &GET[..9]].concat()]);
    script.broken_at = Some(0);
    let mut connection = connection(script);
    let all = serve(&mut connection, &rules(), &respond);
    assert!(all[0].keep_alive && !all[0].incomplete && all[0].body_bytes == 5);
    assert_eq!(connection.send(), Err(Fault::ClientGone));
    // The same, found by the next exchange.
    let mut script = super::script(&[&GET.repeat(2)]);
    script.broken_at = Some(0);
    let mut connection = super::connection(script);
    let all = serve(&mut connection, &rules(), &|exchange| {
        let sent = exchange.respond(200, &[], b"hello");
        if sent.is_ok() { Verdict::Ok } else { Verdict::Transport }
    });
    assert_eq!((all.len(), all[0].keep_alive, all[1].keep_alive), (2, true, false));
    assert_eq!(all[1].fault, Some(Fault::ClientGone));
}

#[test]
fn a_refused_head_is_answered_behind_what_gathers() {
    let mut connection = connection(script(&[&[GET, b"nonsense\r\n\r\n"].concat()]));
    assert_eq!(serve(&mut connection, &rules(), &respond).len(), 1);
    let (status, body) = connection.refuse(&Error::RequestLine);
    assert_eq!((status, body), (400, "400 Bad Request\n".len() as u64));
    let out = dateless(&connection.into_parts().0.out);
    assert!(out.starts_with(&format!("{ANSWER}HTTP/1.1 400 Bad Request|")), "{out}");
}
