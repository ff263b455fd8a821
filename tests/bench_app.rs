//! `examples/bench` over the wire: the answers that docs/PERFORMANCE.md measures are what its README says, under every
//! worker class.
//!
//! What a newcomer would get wrong: a figure of a server that answers something else is no figure. So the octets are
//! compared here, and the measuring program only looks at the status.

use harness::{Connection, Server, Site, programs, under_each_class};

/// Exactly as much as is echoed in one piece; less, more, and nothing.
const LENGTHS: [usize; 6] = [0, 1, 65_535, 65_536, 65_537, 1_048_576];

fn launch<'s>(site: &'s Site, class: harness::Class) -> Server<'s> {
    site.install(programs().example("bench"), "app.so");
    site.launch().class(class).workers(1).start()
}

/// A body of which no octet equals its neighbours.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// Sends from another thread, since an answer may begin before the request has ended.
fn echo(server: &Server<'_>, head: &str, octets: Vec<u8>) -> harness::Response {
    let mut connection = Connection::open(server.address()).expect("it listens");
    let mut sender = connection.duplicate();
    let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\n{head}\r\n\r\n").into_bytes();
    let sending = std::thread::spawn(move || sender.send(&[head, octets].concat()));
    let response = connection.read_response().expect("an answer");
    sending.join().expect("it does not panic").expect("all is taken");
    response
}

#[test]
fn every_answer_is_as_long_as_it_says_and_as_the_readme_says() {
    under_each_class(|class| {
        let site = Site::new("bench_app");
        let server = launch(&site, class);
        for (path, kind, length) in [
            ("/hello", "text/plain", 13..14),
            ("/big", "text/plain", 1_048_576..1_048_577),
            ("/json", "application/json", 50..500),
            ("/page", "text/html; charset=utf-8", 19_000..22_000),
        ] {
            let response = server.get(path);
            assert_eq!((response.status, response.field("content-type")), (200, Some(kind)), "{path}");
            assert!(length.contains(&response.body.len()), "{path}: {}", response.body.len());
            assert_eq!(response.field("content-length"), Some(&*response.body.len().to_string()), "{path}");
            assert_eq!(server.get(path).body, response.body, "{path}, the second time");
        }
        assert_eq!(server.text("/hello"), "Hello, World!");
        let wanted: Vec<u8> = (0..1_048_576).map(|index| b'a' + (index % 26) as u8).collect();
        assert!(server.get("/big").body == wanted, "an octet of /big is another one");
        let object: serde_json::Value = serde_json::from_str(&server.text("/json")).expect("JSON");
        assert_eq!(object["message"], "Hello, World!");
        assert!(server.text("/page").ends_with("</html>\n"));
        assert_eq!(server.get("/").status, 404);

        for length in LENGTHS {
            let octets = body(length);
            let response = echo(&server, &format!("Content-Length: {length}"), octets.clone());
            assert_eq!(response.status, 200, "{length} octets");
            assert_eq!(response.field("content-length"), Some(&*length.to_string()));
            assert!(response.body == octets, "{length} octets came back as others");
            // The same, as a body whose length nobody knows before its end.
            let mut chunks: Vec<u8> = octets
                .chunks(5000)
                .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                .collect();
            chunks.extend_from_slice(b"0\r\n\r\n");
            let response = echo(&server, "Transfer-Encoding: chunked", chunks);
            assert!(response.status == 200 && response.body == octets, "{length} octets in chunks");
        }
        server.finish();
    });
}
