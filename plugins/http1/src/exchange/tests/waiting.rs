//! The face that waits on a polled exchange: what it buffers, when it waits, what it leaves to be sent later.
//!
//! It owns what is peculiar to that face. What a newcomer gets wrong: the octets sent must be those of the
//! blocking face for every way in which the wire takes them; that is tried first.

use super::*;

/// One request with the waiting face, all sent by it.
pub(super) fn wait_with(rules: &Rules, script: Script, app: App<'_>) -> (String, Ended, Script) {
    let mut connection = connection(script);
    assert_eq!(connection.wait_for_head(rules), Arrival::Complete);
    let ended = {
        let exchange = connection.polled(rules, b"", true, &Unwatched, Waker::noop());
        let waiting = exchange.waiting();
        let verdict = if exchange.refused() { Verdict::Transport } else { app(&waiting) };
        waiting.conclude(verdict)
    };
    let script = connection.into_parts().0;
    (dateless(&script.out), ended, script)
}

#[test]
fn a_polled_exchange_may_be_used_from_any_thread() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Polled<'_, Script>>();
}

#[test]
fn both_faces_that_wait_send_the_same() {
    let apps: [(App<'_>, &str); 2] = [(&echo, ECHOED), (&stream, STREAMED)];
    for (app, expected) in apps {
        for at in 1..POST.len() {
            let mut script = script(&[&POST[..at], &POST[at..]]);
            script.arriving.insert(1, Arriving::Nothing);
            script.narrow = (at % 3 == 0).then_some(at);
            let (out, ended, _) = wait_with(&rules(), script, app);
            assert_eq!((&out[..], ended.body_bytes, ended.incomplete), (expected, 11, false), "{at}");
        }
    }
}

#[test]
fn a_small_answer_is_left_behind_and_a_large_one_is_waited_for() {
    let mut connection = connection(script(&[GET]));
    connection.wire().stuck = true;
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    {
        let exchange = connection.polled(&rules, b"", true, &Unwatched, Waker::noop());
        assert_eq!(exchange.waiting().respond(200, &[], &[b'x'; 60_000]), Ok(()));
        assert_eq!(exchange.with_wire(|wire| wire.waits.len()), 0);
        exchange.conclude(Verdict::Ok);
        assert!(exchange.is_sending() && exchange.wanted().writable && exchange.wanted().deadline.is_some());
        exchange.with_wire(|wire| wire.stuck = false);
        exchange.ready(false, true);
        assert!(!exchange.is_sending());
        let ended = exchange.ended();
        assert!(ended.keep_alive && ended.body_bytes == 60_000 && !ended.incomplete);
    }
    let mut script = script(&[GET]);
    script.stuck = true;
    let (_, ended, script) = wait_with(&rules, script, &|exchange| {
        assert_eq!(exchange.respond(200, &[], &[b'x'; 70_000]), Err(Fault::TimedOut));
        Verdict::Transport
    });
    assert_eq!(script.waits, [Interest::Writable]);
    assert!(ended.incomplete && ended.fault == Some(Fault::TimedOut));
}

#[test]
fn reading_waits_only_when_all_is_sent() {
    let mut script = script(&[&POST[..POST.len() - 11], b"hello world"]);
    script.arriving.insert(1, Arriving::Nothing);
    script.narrow = Some(20);
    let (_, _, script) = wait_with(&rules(), script, &|exchange| {
        exchange.start(200, &[]).unwrap();
        exchange.write(b"first").unwrap();
        assert_eq!(exchange.read(&mut [0; 20]), Ok(11));
        Verdict::Ok
    });
    let read = script.waits.iter().position(|wait| *wait == Interest::Readable).unwrap();
    assert!(read > 1 && script.waits[..read].iter().all(|wait| *wait == Interest::Writable));
}

#[test]
fn a_stream_is_told_once_that_the_worker_wants_to_leave() {
    struct Leaving;
    impl Watch for Leaving {
        fn expired(&self, _: u64) -> bool {
            false
        }
        fn draining(&self) -> bool {
            true
        }
    }
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut script = script(&[request, b"late"]);
    script.arriving.insert(1, Arriving::Nothing);
    script.narrow = Some(10);
    let mut connection = connection(script);
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    let exchange = connection.polled(&rules, b"", true, &Leaving, Waker::noop());
    let waiting = exchange.waiting();
    waiting.take_over(101, &[Field::new("Upgrade", "x")]).unwrap();
    // The other protocol begins when all of the head is out.
    assert!(!exchange.is_sending());
    let mut buffer = [0; 9];
    assert_eq!(waiting.stream_read(&mut buffer), Ok(0));
    assert_eq!(waiting.stream_read(&mut buffer), Ok(4));
    waiting.stream_write(b"rest of it").unwrap();
    waiting.stream_shutdown().unwrap();
    let ended = waiting.conclude(Verdict::Ok);
    assert!(ended.taken_over && !ended.incomplete && ended.body_bytes == 10);
    assert!(exchange.with_wire(|wire| wire.shut && wire.out.ends_with(b"\r\n\r\nrest of it")));
}

#[test]
fn an_expired_request_does_not_wait() {
    struct Expired;
    impl Watch for Expired {
        fn expired(&self, _: u64) -> bool {
            true
        }
        fn draining(&self) -> bool {
            false
        }
    }
    let mut connection = connection(script(&[&POST[..POST.len() - 1]]));
    let rules = rules();
    assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
    let exchange = connection.polled(&rules, b"", true, &Expired, Waker::noop());
    let waiting = exchange.waiting();
    assert_eq!(waiting.read(&mut [0; 20]), Ok(10));
    assert_eq!(waiting.read(&mut [0; 20]), Err(Fault::Expired));
    let ended = waiting.conclude(Verdict::Transport);
    assert_eq!((ended.status, ended.fault), (504, Some(Fault::Expired)), "the application has used its time");
    assert!(exchange.with_wire(|wire| wire.waits.is_empty()));
}

#[test]
fn whose_time_ends_while_the_client_is_waited_for_is_told_so() {
    /// Expires behind the first question.
    struct Expires(std::sync::atomic::AtomicBool);
    impl Watch for Expires {
        fn expired(&self, _: u64) -> bool {
            self.0.swap(true, std::sync::atomic::Ordering::Relaxed)
        }
        fn draining(&self) -> bool {
            false
        }
    }
    let half = &POST[..POST.len() - 1];
    let slow = || {
        let mut script = script(&[half]);
        script.arriving.extend([Arriving::Nothing, Arriving::Octets(POST[half.len()..].to_vec())]);
        script
    };
    let rules = rules();
    for waits in [true, false] {
        let mut connection = connection(slow());
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        let watch = Expires(false.into());
        let ended = if waits {
            let exchange = connection.polled(&rules, b"", true, &watch, Waker::noop());
            let waiting = exchange.waiting();
            assert_eq!(waiting.read(&mut [0; 20]), Ok(10));
            assert_eq!(waiting.read(&mut [0; 20]), Err(Fault::Expired));
            waiting.conclude(Verdict::Transport)
        } else {
            let exchange = connection.blocking(&rules, b"", true, &watch);
            assert_eq!(exchange.read(&mut [0; 20]), Ok(10));
            assert_eq!(exchange.read(&mut [0; 20]), Err(Fault::Expired));
            exchange.conclude(Verdict::Transport)
        };
        assert_eq!((ended.status, ended.fault), (408, Some(Fault::Expired)));
    }
    // A future: whoever has asked for more of the body waits for the client, anybody else for himself.
    for (asks, status) in [(true, 408), (false, 504)] {
        let mut connection = connection(slow());
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        let exchange = connection.polled(&rules, b"", true, &Unwatched, Waker::noop());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(exchange.poll_read(&mut context, &mut [0; 20]), Poll::Ready(Ok(10)));
        if asks {
            assert_eq!(exchange.poll_read(&mut context, &mut [0; 20]), Poll::Pending);
        }
        exchange.expire();
        exchange.conclude(Verdict::Transport);
        assert_eq!((exchange.ended().status, exchange.ended().fault), (status, Some(Fault::Expired)));
    }
}
