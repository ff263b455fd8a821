//! A worker class that serves nobody: it measures what it costs that an application is another library.
//!
//! Owns the procedure. Everything around the handler is what `poll` does for a kept request: a head is received from a
//! wire (which lies in memory), an exchange of `rgunicorn-http1` is opened, the host is told, the handler answers, the
//! answer is sent, the host is told. The handler is once the loaded application's, called through its table, and once
//! the very same source linked in here, which calls the exchange as the plain Rust that it is. The variants take turns,
//! so that whatever else the machine does hits all of them alike.
//!
//! What a newcomer would get wrong: the difference of two medians is not the median of the differences. The latter is
//! what is printed, beside the difference of the least times, which alone means something on a busy machine.

#[path = "../handlers/handlers.rs"]
mod handlers;

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use handlers::Face;
use rgunicorn_http1::exchange::{Arrival, Connection, Interest, Memory, Polled, Rules, Wire};
use rgunicorn_worker_api::error::{Error, Fault};
use rgunicorn_worker_api::export_worker;
use rgunicorn_worker_api::request::{Address, Field, Scheme};
use rgunicorn_worker_api::worker::{
    Applications, Exchange, Features, Host, Mounted, State, Verdict, WorkerClass,
};

export_worker! { Interface, http1 = rgunicorn_http1::VERSION }

struct Interface;

/// Turns of each variant in a round, and rounds.
const TURNS: u32 = 2_000;
const ROUNDS: usize = 300;

/// Eight fields.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n\r\n";

impl WorkerClass for Interface {
    const NAME: &'static str = "interface";
    const FEATURES: Features = Features::KEEP_ALIVE;

    fn run(host: Host, apps: Applications) -> Result<(), Error> {
        let missing = || Error::new("mount the applications on /hello and /fields");
        let mut bench = Bench::new(host);
        let loaded = |target| apps.select(target).ok_or_else(missing);
        let (loaded_hello, loaded_fields) = (loaded(b"/hello")?, loaded(b"/fields")?);
        if host.ready() == State::Running {
            bench.compare("hello", loaded_hello, |exchange| verdict(handlers::hello(&mut Linked(exchange))));
            bench.compare("eight fields", loaded_fields, |exchange| {
                verdict(handlers::fields(&mut Linked(exchange)))
            });
            bench.crossing();
            log::info!("measured.");
        }
        while host.state() == State::Running {
            host.tick_idle();
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn verdict(result: Result<(), Error>) -> Verdict {
    result.map_or(Verdict::Failed, |()| Verdict::Ok)
}

/// The exchange as a handler that is linked in sees it.
struct Linked<'e, 'c>(&'e Polled<'c, Lying>);

impl Face for Linked<'_, '_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = (0..self.0.head().field_count).filter_map(|index| self.0.field(index));
        fields.find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }

    fn respond(&mut self, fields: &[(&str, &str)], body: &[u8]) -> Result<(), Fault> {
        match fields {
            [one] => self.0.respond(200, &[Field::from(*one)], body),
            _ => Err(Fault::Invalid),
        }
    }
}

/// A client that lies in memory: it asks the same again and again, and takes everything.
struct Lying {
    taken: usize,
}

impl Wire for Lying {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let request = black_box(REQUEST);
        buffer[..request.len()].copy_from_slice(request);
        Ok(request.len())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = black_box(pieces).iter().map(|piece| piece.len()).sum();
        self.taken += count;
        Ok(count)
    }

    fn send_file(&mut self, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn wait(&mut self, _: Interest, _: Option<Instant>) -> io::Result<bool> {
        Ok(true)
    }

    fn client_gone(&mut self) -> bool {
        false
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn local(&mut self) -> Address {
        Address::Unknown
    }

    fn fd(&self) -> Option<i32> {
        None
    }
}

struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

struct Bench {
    host: Host,
    rules: Rules,
    connection: Connection<Lying>,
    changed: Waker,
}

impl Bench {
    fn new(host: Host) -> Self {
        let peer = Address::Ip(([127, 0, 0, 1], 1024).into());
        Self {
            host,
            rules: Rules::of(&host, true),
            connection: Connection::new(Lying { taken: 0 }, peer, Scheme::Http, Memory::default()),
            changed: Waker::from(Arc::new(Idle)),
        }
    }

    /// One kept request, from its head to its record. `told`: whether the host hears of it.
    fn turn(&mut self, told: bool, answer: impl Fn(&Polled<'_, Lying>) -> Verdict) -> usize {
        let Self { host, rules, connection, changed } = self;
        if connection.receive(rules) != Arrival::Complete {
            return 0;
        }
        let exchange = connection.polled(rules, b"", true, host, changed);
        let token = if told { host.request_begin(&exchange) } else { 0 };
        exchange.set_token(token);
        let verdict = answer(&exchange);
        let ended = exchange.conclude(verdict).unwrap_or_else(|| exchange.ended());
        if told {
            exchange.report(host, &ended);
        }
        drop(exchange);
        connection.next(&ended);
        usize::from(ended.status == 200 && ended.keep_alive)
    }

    /// Nanoseconds of a turn.
    fn round(&mut self, told: bool, answer: impl Fn(&Polled<'_, Lying>) -> Verdict) -> Option<f64> {
        let begun = Instant::now();
        let well: usize = (0..TURNS).map(|_| self.turn(told, &answer)).sum();
        let taken = begun.elapsed();
        (well == TURNS as usize).then(|| taken.as_secs_f64() * 1e9 / f64::from(TURNS))
    }

    fn compare(&mut self, name: &str, loaded: Mounted, linked: impl Fn(&Polled<'_, Lying>) -> Verdict) {
        let [mut through, mut direct, mut untold] = [const { Vec::new() }; 3];
        for round in 0..=ROUNDS {
            self.host.tick();
            let figures = (
                self.round(true, |exchange| loaded.call(exchange)),
                self.round(true, &linked),
                self.round(false, &linked),
            );
            let (Some(one), Some(two), Some(three)) = figures else {
                log::error!("{name}: an answer is not what it should be");
                return;
            };
            // The first only warms up.
            if round > 0 {
                through.push(one);
                direct.push(two);
                untold.push(three);
            }
        }
        let crossing = differences(&through, &direct);
        let telling = differences(&direct, &untold);
        log::info!(
            "{name}: through its library {}, linked in {}; difference of the least {:.1}, median of the differences {:.1}",
            spread(&through),
            spread(&direct),
            least(&through) - least(&direct),
            median(&crossing)
        );
        log::info!(
            "{name}: not telling the host {}; difference of the least {:.1}, median of the differences {:.1}",
            spread(&untold),
            least(&direct) - least(&untold),
            median(&telling)
        );
    }

    /// A call of another library that does next to nothing: one load.
    fn crossing(&self) {
        let mut figures = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            for _ in 0..TURNS {
                black_box(self.host.state());
            }
            figures.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS));
        }
        log::info!("one call through a table: {}", spread(&figures));
    }
}

fn differences(of: &[f64], from: &[f64]) -> Vec<f64> {
    of.iter().zip(from).map(|(one, other)| one - other).collect()
}

fn least(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(figures: &[f64]) -> String {
    format!("{:.1} to {:.1} ns", least(figures), median(figures))
}
