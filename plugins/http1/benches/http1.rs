//! What a request costs in this crate: its head, its body, the head of its answer, the date.
//!
//! `cargo bench -p rgunicorn-http1`. Owns the inputs; they are shaped like those of real clients. What a newcomer would
//! get wrong: times vary with the machine and its load. What must not grow is counted in instructions, by
//! `tests/instructions.rs`.

#![allow(clippy::panic, reason = "a benchmark fails by panicking")]
#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rgunicorn_http1::{
    BodyDecoder, BodyFraming, DateCache, Exchange, Head, HeaderMap, Leniency, Limits, Progress, Step,
    response_head,
};

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";

const BROWSER: &[u8] = b"GET /articles/2024/05/index.html?page=2&sort=date HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.org/articles/2024/05/index.html?page=1\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n\r\n";

fn parse(head: &mut Head, octets: &[u8], limits: &Limits, leniency: &Leniency) {
    match head.parse(black_box(octets), limits, leniency) {
        Ok(Progress::Complete { len }) => assert_eq!(len, octets.len()),
        other => panic!("{other:?}"),
    }
}

fn heads(criterion: &mut Criterion) {
    let (limits, leniency) = (Limits::default(), Leniency::default());
    let mut many = b"GET / HTTP/1.1\r\nHost: example.org\r\n".to_vec();
    for number in 1..100 {
        many.extend_from_slice(format!("X-Field-{number}: value {number}\r\n").as_bytes());
    }
    many.extend_from_slice(b"\r\n");
    let mut group = criterion.benchmark_group("head");
    for (name, octets) in [("small", SMALL), ("browser, 12 fields", BROWSER), ("100 fields", &many)] {
        group.throughput(Throughput::Bytes(octets.len() as u64));
        let mut head = Head::new();
        group.bench_function(name, |bencher| bencher.iter(|| parse(&mut head, octets, &limits, &leniency)));
    }
    group.throughput(Throughput::Bytes(BROWSER.len() as u64));
    let mut head = Head::new();
    group.bench_function("browser, in pieces of 100", |bencher| {
        bencher.iter(|| {
            for arrived in (100..BROWSER.len()).step_by(100) {
                let progress = head.parse(black_box(&BROWSER[..arrived]), &limits, &leniency);
                assert_eq!(progress, Ok(Progress::Partial));
            }
            parse(&mut head, BROWSER, &limits, &leniency);
        });
    });
    group.finish();
}

fn bodies(criterion: &mut Criterion) {
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("chunked body of 64 KiB");
    group.throughput(Throughput::Bytes(64 * 1024));
    for size in [16, 1024, 16 * 1024] {
        let mut octets = Vec::new();
        for _ in 0..64 * 1024 / size {
            octets.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            octets.resize(octets.len() + size, b'x');
            octets.extend_from_slice(b"\r\n");
        }
        octets.extend_from_slice(b"0\r\n\r\n");
        group.bench_function(format!("chunks of {size}"), |bencher| {
            bencher.iter(|| {
                let mut body =
                    BodyDecoder::new(BodyFraming::Chunked, &limits, HeaderMap::Drop).expect("no limit");
                let (mut at, mut content) = (0, 0);
                loop {
                    match body.step(black_box(&octets[at..])).expect("a body") {
                        Step::Data { range } => {
                            content += range.len();
                            at += range.end;
                        }
                        Step::End { .. } => break,
                        Step::NeedMore => panic!("it is whole"),
                    }
                }
                assert_eq!(content, 64 * 1024);
            });
        });
    }
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let exchange = Exchange { keep_alive: true, ..Exchange::default() };
    let date = DateCache::new(SystemTime::now());
    let plain: &[(&[u8], &[u8])] = &[(b"Content-Type", b"text/plain")];
    let ten: &[(&[u8], &[u8])] = &[
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Cache-Control", b"private, max-age=0, must-revalidate"),
        (b"ETag", b"\"0123456789abcdef\""),
        (b"Vary", b"Accept-Encoding, Cookie"),
        (b"Set-Cookie", b"session=0123456789abcdef0123456789abcdef; Path=/; HttpOnly; Secure"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"DENY"),
        (b"Referrer-Policy", b"same-origin"),
        (b"Strict-Transport-Security", b"max-age=31536000"),
        (b"Content-Language", b"en-GB"),
    ];
    let mut group = criterion.benchmark_group("head of an answer");
    let mut out = Vec::with_capacity(4096);
    for (name, fields) in [("1 field", plain), ("10 fields", ten)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                let fields = black_box(fields).iter().copied();
                response_head(&mut out, exchange, 200, fields, &date, Some(13))
                    .expect("a head that can be sent")
            });
        });
    }
    group.finish();
}

fn dates(criterion: &mut Criterion) {
    let now = SystemTime::now();
    let mut cache = DateCache::new(now);
    criterion.bench_function("date, same second", |bencher| bencher.iter(|| cache.update(black_box(now))));
    let mut second = 0;
    criterion.bench_function("date, next second", |bencher| {
        bencher.iter(|| {
            second += 1;
            cache.update(black_box(SystemTime::UNIX_EPOCH + Duration::from_secs(second)));
        });
    });
}

criterion_group!(benches, heads, bodies, responses, dates);
criterion_main!(benches);
