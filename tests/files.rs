//! `plugins/static` over the wire: what of a directory is served, how, and that nothing else is.
//!
//! What a newcomer would get wrong: the times of the files are set here. One that was just written has a weak tag, which
//! is right and no good for ranges.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use harness::{
    Class, Connection, Failure, Pace, Response, Server, Site, programs, under_each_class,
    under_each_that_keeps_alive, wait_for,
};

/// When the files were written.
const WRITTEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const TEN: &str = "0123456789";
/// More than goes out with the head.
const LARGE: usize = 200_000;

/// A directory `public` in a site.
struct Public<'s> {
    site: &'s Site,
}

impl<'s> Public<'s> {
    fn new(site: &'s Site) -> Self {
        site.install(programs().files(), "app.so");
        site.directory("public");
        Self { site }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.join("public").join(name)
    }

    /// Each directory on the way is made, too.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        let above = path.parent().expect("it is in a directory");
        fs::create_dir_all(above).expect("a directory");
        fs::write(&path, content).expect("a file");
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(written))
            .expect("its time");
        for way in path.ancestors().take_while(|way| *way != self.site.path()) {
            let name = way.strip_prefix(self.site.path()).expect("below the site");
            self.site.mine(name.to_str().expect("UTF-8"));
        }
        self
    }

    fn link(&self, target: &str, name: &str) -> &Self {
        symlink(target, self.path(name)).expect("a free name");
        self.site.mine(&format!("public/{name}"));
        self
    }

    fn serve(&self, class: Class, more: &str) -> Server<'s> {
        let table = format!("[app.app]\nroot = \"public\"\n{more}");
        self.site.launch().class(class).with(|settings| _ = settings.append(&table)).start()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| b'a' + (index % 26) as u8).collect()
}

/// One request on a connection of its own.
#[track_caller]
fn ask(server: &Server<'_>, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let heard = server.address().converse(request.as_bytes(), Pace::Whole);
    match heard.and_then(|heard| heard.response(method)) {
        Ok(response) => response,
        Err(failure) => panic!("{method} {target} {fields:?}: {failure}"),
    }
}

#[track_caller]
fn get(server: &Server<'_>, target: &str, fields: &[(&str, &str)]) -> Response {
    ask(server, "GET", target, fields)
}

#[test]
fn files_and_directories_are_served() {
    under_each_class(|class| {
        let site = Site::new("files");
        let public = Public::new(&site);
        public
            .file("a.txt", TEN)
            .file("index.html", "home")
            .file("sub dir/index.html", "sub")
            .file("empty", "");
        public.file("large.bin", pattern(LARGE)).file("bare/a.txt", "").file(".well-known/x", "known");
        public.link("a.txt", "link.txt").link("sub dir", "linked");
        let server = public.serve(class, "");
        for (target, status, media, body) in [
            ("/a.txt", 200, "text/plain; charset=utf-8", TEN),
            ("/a.txt?query", 200, "text/plain; charset=utf-8", TEN),
            ("/%61.txt", 200, "text/plain; charset=utf-8", TEN),
            ("/link.txt", 200, "text/plain; charset=utf-8", TEN),
            ("http://other/a.txt", 200, "text/plain; charset=utf-8", TEN),
            ("/", 200, "text/html; charset=utf-8", "home"),
            ("/sub%20dir/", 200, "text/html; charset=utf-8", "sub"),
            ("/linked/", 200, "text/html; charset=utf-8", "sub"),
            ("/empty", 200, "application/octet-stream", ""),
            ("/.well-known/x", 200, "application/octet-stream", "known"),
            ("/missing", 404, "text/plain", "Not Found\n"),
            ("/a.txt/", 404, "text/plain", "Not Found\n"),
            ("/a.txt/b", 404, "text/plain", "Not Found\n"),
            ("/bare", 404, "text/plain", "Not Found\n"),
            ("/bare/", 404, "text/plain", "Not Found\n"),
            ("/%zz", 400, "text/plain", "Bad Request\n"),
        ] {
            let got = get(&server, target, &[]);
            assert_eq!((got.status, got.text().as_str()), (status, body), "{target}");
            assert_eq!(got.field("content-type"), Some(media), "{target}");
            let head = ask(&server, "HEAD", target, &[]);
            let same = |name| assert_eq!(head.field(name), got.field(name), "HEAD {target}: {name}");
            assert_eq!(head.status, status);
            ["content-type", "content-length", "etag", "last-modified", "vary"].into_iter().for_each(same);
        }
        let large = get(&server, "/large.bin", &[]);
        assert_eq!((large.status, large.field("content-length")), (200, Some(LARGE.to_string().as_str())));
        assert!(large.body == pattern(LARGE));
        assert_eq!(large.field("last-modified"), Some(WRITTEN));
        assert_eq!(large.field("accept-ranges"), Some("bytes"));

        for (target, location) in [("/sub%20dir", "./sub%20dir/"), ("/linked?a=/b", "./linked/?a=/b")] {
            let got = get(&server, target, &[]);
            assert_eq!((got.status, got.field("location")), (301, Some(location)), "{target}");
        }
        for method in ["POST", "PUT", "DELETE", "BREW"] {
            let got = ask(&server, method, "/a.txt", &[("Content-Length", "0")]);
            assert_eq!((got.status, got.field("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
        }
        for target in ["/a.txt", "*"] {
            let got = ask(&server, "OPTIONS", target, &[]);
            assert_eq!((got.status, got.field("allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
        }
        server.finish();
    });
}

#[test]
fn nothing_outside_of_the_root_and_nothing_hidden_is_served() {
    under_each_class(|class| {
        let site = Site::new("way_out");
        site.write("secret", "secret");
        let public = Public::new(&site);
        public
            .file("a.txt", TEN)
            .file(".env", "secret")
            .file(".git/config", "secret")
            .file("sub/.key", "secret");
        public.link("../secret", "out").link("..", "up").link("/etc/passwd", "absolute").link("loop", "loop");
        public.link("/proc/self/root", "magic").link("sub/../../public/a.txt", "out_and_in");
        let secret = site.join("secret").display().to_string();
        let targets = [
            "/../secret",
            "/a/../../secret",
            "/sub/../../secret",
            "/..%2fsecret",
            "/%2e%2e/secret",
            "/%2e%2e%2fsecret",
            "/.%2e/secret",
            "/%252e%252e/secret",
            "/..;/secret",
            "/..\\secret",
            "/..%5csecret",
            "//../secret",
            "/./../secret",
            "//secret",
            "///etc/passwd",
            "/%2fetc/passwd",
            "//etc/passwd",
            "/a.txt/../../secret",
            "/%2e/a.txt",
            "/./a.txt",
            "/sub/../a.txt",
            "//a.txt",
            "/a.txt%2f",
            "/sub%2f..%2fa.txt",
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/sub/.key",
            "/.git/",
            "/out",
            "/up/secret",
            "/up/public/a.txt",
            "/absolute",
            "/loop",
            "/loop/a",
            "/magic/etc/passwd",
            "/out_and_in",
            "/proc/self/environ",
            "/a.txt%20",
            "/A.TXT",
            "/a.txt::$DATA",
            "/a.tx%74%2e%2e%2f",
        ];
        let malformed = ["/a.txt%00", "/%00", "/a.txt%00.html", "/..%00/secret", "/%", "/%2", "/%2x"];
        for more in ["", "symlinks = \"never\"\n"] {
            let server = public.serve(class, more);
            assert_eq!(server.text("/a.txt"), TEN);
            let wanted = targets.iter().map(|target| (*target, 404));
            for (target, status) in wanted.chain(malformed.iter().map(|target| (*target, 400))) {
                assert_eq!(get(&server, target, &[]).status, status, "{target} {more}");
                assert_eq!(ask(&server, "HEAD", target, &[]).status, status, "HEAD {target} {more}");
            }
            assert_eq!(get(&server, &secret, &[]).status, 404);
            let long = format!("/{}", "a/".repeat(1500));
            assert_eq!(get(&server, &long, &[]).status, 404);
            assert_eq!(get(&server, &format!("/{}", "a".repeat(1000)), &[]).status, 404);
            server.finish();
        }
        let server = public.serve(class, "dotfiles = true\n");
        assert_eq!(server.text("/.git/config"), "secret");
        for target in ["/../secret", "/.", "/..", "/.git/../a.txt", "/.git/%2e%2e/a.txt", "/out"] {
            assert_eq!(get(&server, target, &[]).status, 404, "{target}");
        }
        server.finish();
    });
}

#[test]
fn conditions_are_evaluated_in_their_order() {
    under_each_class(|class| {
        let site = Site::new("conditions");
        let public = Public::new(&site);
        public.file("a.txt", TEN);
        let rule = "[[app.app.rules]]\npath = '/**'\nfields = { Cache-Control = 'max-age=9' }\n";
        let server = public.serve(class, rule);
        let whole = get(&server, "/a.txt", &[]);
        let etag = whole.field("etag").expect("a tag").to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        let (weak, other) = (format!("W/{etag}"), "\"other\"".to_owned());
        let list = format!("{other}, {etag}");
        for (fields, status) in [
            (&[("If-None-Match", etag.as_str())][..], 304),
            (&[("If-None-Match", &weak)], 304),
            (&[("If-None-Match", &list)], 304),
            (&[("If-None-Match", &other), ("If-None-Match", &etag)], 304),
            (&[("If-None-Match", "*")], 304),
            (&[("If-None-Match", &other)], 200),
            (&[("If-None-Match", &other), ("If-Modified-Since", WRITTEN)], 200),
            (&[("If-Modified-Since", WRITTEN)], 304),
            (&[("If-Modified-Since", BEFORE)], 200),
            (&[("If-Modified-Since", "a while ago")], 200),
            (&[("If-Match", &etag)], 200),
            (&[("If-Match", "*")], 200),
            (&[("If-Match", &weak)], 412),
            (&[("If-Match", &other)], 412),
            (&[("If-Match", &etag), ("If-Unmodified-Since", BEFORE)], 200),
            (&[("If-Match", &other), ("If-None-Match", &etag)], 412),
            (&[("If-Match", &etag), ("If-None-Match", &etag)], 304),
            (&[("If-Unmodified-Since", BEFORE)], 412),
            (&[("If-Unmodified-Since", WRITTEN)], 200),
            (&[("If-Unmodified-Since", WRITTEN), ("If-Modified-Since", WRITTEN)], 304),
            // Before the range is even looked at.
            (&[("If-None-Match", &etag), ("Range", "bytes=0-1")], 304),
            (&[("If-Match", &other), ("Range", "bytes=0-1")], 412),
        ] {
            for method in ["GET", "HEAD"] {
                let got = ask(&server, method, "/a.txt", fields);
                assert_eq!(got.status, status, "{method} {fields:?}");
                if status == 304 {
                    for name in ["etag", "last-modified", "vary", "cache-control"] {
                        assert_eq!(got.field(name), whole.field(name), "{name}");
                    }
                    assert_eq!((got.field("content-type"), got.body.len()), (None, 0));
                }
            }
        }
        // Another state of the file has another tag, also within the second.
        public.file("a.txt", "9876543210");
        let file = File::options().write(true).open(public.path("a.txt")).expect("it is there");
        let later = SystemTime::UNIX_EPOCH + Duration::new(784_111_777, 5);
        file.set_modified(later).expect("its time");
        assert_eq!(get(&server, "/a.txt", &[("If-None-Match", &etag)]).status, 200);
        // One that was just written may be written again: its tag is weak, and parts are not put together by it.
        file.set_modified(SystemTime::now()).expect("its time");
        let young = get(&server, "/a.txt", &[]).field("etag").expect("a tag").to_owned();
        assert!(young.starts_with("W/"), "{young}");
        assert_eq!(get(&server, "/a.txt", &[("If-None-Match", &young)]).status, 304);
        let part = get(&server, "/a.txt", &[("Range", "bytes=0-1"), ("If-Range", &young)]);
        assert_eq!((part.status, part.body.len()), (200, 10));
        server.finish();
    });
}

#[test]
fn parts_are_served() {
    under_each_class(|class| {
        let site = Site::new("ranges");
        let public = Public::new(&site);
        public.file("a.txt", TEN).file("empty", "").file("large.bin", pattern(LARGE));
        let server = public.serve(class, "");
        let etag = get(&server, "/a.txt", &[]).field("etag").expect("a tag").to_owned();
        for (range, status, content_range, body) in [
            ("bytes=0-0", 206, Some("bytes 0-0/10"), "0"),
            ("bytes=3-5", 206, Some("bytes 3-5/10"), "345"),
            ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
            ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
            ("bytes=-50", 206, Some("bytes 0-9/10"), TEN),
            ("bytes=5-50", 206, Some("bytes 5-9/10"), "56789"),
            ("bytes=2-3,90-", 206, Some("bytes 2-3/10"), "23"),
            ("bytes=10-", 416, Some("bytes */10"), "Range Not Satisfiable\n"),
            ("bytes=-0", 416, Some("bytes */10"), "Range Not Satisfiable\n"),
            ("bytes=5-2", 200, None, TEN),
            ("bytes=x", 200, None, TEN),
            ("lines=1-2", 200, None, TEN),
            ("bytes=0-,0-,0-,0-", 200, None, TEN),
        ] {
            let got = get(&server, "/a.txt", &[("Range", range)]);
            assert_eq!((got.status, got.text().as_str()), (status, body), "{range}");
            assert_eq!(got.field("content-range"), content_range, "{range}");
            // Defined for GET alone.
            let head = ask(&server, "HEAD", "/a.txt", &[("Range", range)]);
            assert_eq!((head.status, head.field("content-length")), (200, Some("10")), "HEAD {range}");
        }
        for (state, status) in [
            (etag.as_str(), 206),
            ("\"other\"", 200),
            (WRITTEN, 206),
            (BEFORE, 200),
            ("Sun, 06 Nov 1994 08:49:38 GMT", 200),
        ] {
            let got = get(&server, "/a.txt", &[("If-Range", state), ("Range", "bytes=0-1")]);
            assert_eq!(got.status, status, "{state}");
        }
        // What cannot be satisfied in this state was asked for in another.
        let gone = get(&server, "/a.txt", &[("If-Range", "\"other\""), ("Range", "bytes=90-")]);
        assert_eq!((gone.status, gone.text().as_str()), (200, TEN));
        assert_eq!(get(&server, "/empty", &[("Range", "bytes=0-")]).status, 416);
        assert_eq!(get(&server, "/empty", &[("Range", "bytes=-5")]).status, 200);

        let tail = get(&server, "/large.bin", &[("Range", "bytes=100000-")]);
        assert!(tail.status == 206 && tail.body == pattern(LARGE)[100_000..]);
        for (target, range, expected) in [
            ("/a.txt", "bytes=0-1,4-4,-2", vec![("0-1/10", 0..2), ("4-4/10", 4..5), ("8-9/10", 8..10)]),
            ("/a.txt", "bytes=7-8, 0-1", vec![("7-8/10", 7..9), ("0-1/10", 0..2)]),
            (
                "/large.bin",
                "bytes=0-79999,120000-",
                vec![("0-79999/200000", 0..80_000), ("120000-199999/200000", 120_000..LARGE)],
            ),
        ] {
            let got = get(&server, target, &[("Range", range)]);
            assert_eq!((got.status, got.field("content-range")), (206, None), "{range}");
            let (content, media) = if target == "/a.txt" {
                (TEN.as_bytes().to_vec(), "text/plain; charset=utf-8")
            } else {
                (pattern(LARGE), "application/octet-stream")
            };
            let boundary = got
                .field("content-type")
                .and_then(|media| media.strip_prefix("multipart/byteranges; boundary="))
                .unwrap_or_else(|| panic!("{range}: {:?}", got.fields));
            let mut body = Vec::new();
            for (content_range, part) in expected {
                let head = format!(
                    "\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: bytes {content_range}\r\n\r\n"
                );
                body.extend_from_slice(head.as_bytes());
                body.extend_from_slice(&content[part]);
            }
            body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
            assert!(got.body == body, "{range}: {}", got.text());
        }
        server.finish();
    });
}

#[test]
fn compressed_forms_are_chosen_by_the_client() {
    under_each_class(|class| {
        let site = Site::new("codings");
        let public = Public::new(&site);
        public.file("a.css", "plain").file("a.css.br", "as br").file("a.css.gz", "as gzip");
        public
            .file("b.css", "plain")
            .file("b.css.gz", "as gzip")
            .file("c.css", "plain")
            .file("d.css.gz", "alone");
        // Of an earlier state of the file.
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_000);
        public.file("b.css.br", "stale").file("b.css.zst", "as zstd");
        let stale = File::options().write(true).open(public.path("b.css.br"));
        stale.and_then(|file| file.set_modified(old)).expect("its time");
        public.file("index.html", "home").file("index.html.gz", "zipped home");
        let server = public.serve(class, "");
        for (target, accepts, coding, body) in [
            ("/a.css", "br, gzip", Some("br"), "as br"),
            ("/a.css", "gzip", Some("gzip"), "as gzip"),
            ("/a.css", "gzip;q=1, br;q=0.5", Some("gzip"), "as gzip"),
            ("/a.css", "*", Some("br"), "as br"),
            ("/a.css", "deflate", None, "plain"),
            ("/a.css", "", None, "plain"),
            ("/a.css", "br;q=0", None, "plain"),
            ("/a.css", "identity, br;q=0.2", None, "plain"),
            ("/a.css", "identity;q=0, gzip", Some("gzip"), "as gzip"),
            ("/b.css", "br, gzip", Some("gzip"), "as gzip"),
            ("/b.css", "br, gzip, zstd", Some("zstd"), "as zstd"),
            ("/c.css", "br, gzip", None, "plain"),
            ("/", "gzip", Some("gzip"), "zipped home"),
        ] {
            let got = get(&server, target, &[("Accept-Encoding", accepts)]);
            assert_eq!((got.status, got.text().as_str()), (200, body), "{target} {accepts}");
            assert_eq!(got.field("content-encoding"), coding, "{target} {accepts}");
            assert_eq!(got.field("vary"), Some("Accept-Encoding"));
            let media = if target == "/" { "text/html" } else { "text/css" };
            assert!(got.field("content-type").is_some_and(|found| found.starts_with(media)), "{got:?}");
        }
        let refused = get(&server, "/c.css", &[("Accept-Encoding", "identity;q=0, br")]);
        assert_eq!((refused.status, refused.field("vary")), (406, Some("Accept-Encoding")));
        assert_eq!(get(&server, "/d.css", &[("Accept-Encoding", "gzip")]).status, 404);
        // Each form has a tag of its own, and parts are parts of the form.
        let form = |accepts: &str| get(&server, "/a.css", &[("Accept-Encoding", accepts)]);
        let tags = ["br", "gzip", "identity"].map(|accepts| form(accepts).field("etag").map(str::to_owned));
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
        let tag = tags[0].clone().expect("a tag");
        for (accepts, status) in [("br", 304), ("gzip", 200)] {
            let fields = [("Accept-Encoding", accepts), ("If-None-Match", &tag)];
            assert_eq!(get(&server, "/a.css", &fields).status, status, "{accepts}");
        }
        let part = get(&server, "/a.css", &[("Accept-Encoding", "br"), ("Range", "bytes=3-4")]);
        assert_eq!((part.status, part.text().as_str()), (206, "br"));
        assert_eq!(
            (part.field("content-encoding"), part.field("content-range")),
            (Some("br"), Some("bytes 3-4/5"))
        );
        server.finish();

        let server = public.serve(class, "precompressed = []\n");
        let got = get(&server, "/a.css", &[("Accept-Encoding", "br")]);
        assert_eq!((got.text().as_str(), got.field("vary")), ("plain", None));
        server.finish();
    });
}

#[test]
fn rules_types_and_the_fallback_are_the_operators() {
    under_each_class(|class| {
        let site = Site::new("rules");
        let public = Public::new(&site);
        public.file("home.htm", "home").file("assets/a.js", "script").file("page.xyz", "page");
        let server = public.serve(
            class,
            "index = ['none.html', 'home.htm']\nfallback = '/home.htm'\ncharset = ''\ntypes = { xyz = 'text/x-y' }\n\
             [[app.app.rules]]\npath = '/**'\nfields = { Cache-Control = 'no-cache', X-All = '1' }\n\
             [[app.app.rules]]\npath = '/assets/**'\nfields = { Cache-Control = 'max-age=31536000, immutable' }\n",
        );
        for (target, media, cache, body) in [
            ("/", "text/html", "no-cache", "home"),
            ("/a/route/of/the/page", "text/html", "no-cache", "home"),
            ("/assets", "text/html", "no-cache", "home"),
            ("/../x", "text/html", "no-cache", "home"),
            ("/assets/a.js", "text/javascript", "max-age=31536000, immutable", "script"),
            ("/page.xyz", "text/x-y", "no-cache", "page"),
        ] {
            let got = get(&server, target, &[]);
            assert_eq!((got.status, got.text().as_str()), (200, body), "{target}");
            assert_eq!(got.field("content-type"), Some(media), "{target}");
            assert_eq!(
                (got.field("cache-control"), got.field("x-all")),
                (Some(cache), Some("1")),
                "{target}"
            );
        }
        assert_eq!(get(&server, "/%00", &[]).status, 400);
        server.finish();
        let server = public.serve(class, "fallback = '/assets'\nindex = ['a.js']\n");
        assert_eq!(get(&server, "/x", &[]).status, 404, "there is nowhere to send the client");
        server.finish();
    });
}

#[test]
fn a_mistake_in_the_settings_is_found_before_anybody_serves() {
    let site = Site::new("mistakes");
    let public = Public::new(&site);
    public.file("a.txt", TEN);
    for (table, why) in [
        ("", "there is no 'root', the directory to serve"),
        ("[app.app]\nroot = 'nowhere'\n", "cannot serve the directory nowhere: No such file or directory"),
        ("[app.app]\nroot = 'app.so'\n", "cannot serve the directory app.so: Not a directory"),
        ("[app.app]\nroot = 'public'\nindexes = []\n", "unknown field `indexes`"),
    ] {
        let ended = site.launch().with(|settings| _ = settings.append(table)).start_in_vain();
        assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("app.so:app failed to load: ") && ended.stderr.contains(why),
            "{}",
            ended.stderr
        );
    }
    let mut server =
        site.launch().with(|settings| _ = settings.append("[app.app]\nroot = 'public'\n")).start();
    server.configure(|settings| _ = settings.append("symlinks = 'sometimes'\n"));
    let verdict = server.reload();
    assert!(
        verdict.starts_with("Reload refused, generation 1 serves on") && verdict.contains("sometimes"),
        "{verdict}"
    );
    server.expect_error("Reload refused");
    assert_eq!(server.text("/a.txt"), TEN);
    server.finish();
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_sent_never_looks_whole() {
    under_each_class(|class| {
        let site = Site::new("shorter");
        let public = Public::new(&site);
        public.file("large.bin", "");
        let file = File::options().write(true).open(public.path("large.bin")).expect("it is there");
        // More than all buffers on the way, and no more than its name on the disk.
        file.set_len(256 * 1024 * 1024).expect("room");
        let server = public.serve(class, "");
        let mut connection = Connection::open(server.address()).expect("a connection");
        connection.send_get("/large.bin").expect("sent");
        let mut head = connection.read_head().expect("a head");
        file.set_len(1000).expect("it shrinks");
        let end = connection.read_body(&mut head);
        assert!(matches!(end, Err(Failure::Truncated(_) | Failure::Reset)), "{end:?}");
        server.wait_log("/large.bin has become shorter while it was sent");
        wait_for("a worker that serves", || server.get("/large.bin").body.len() == 1000);
        server.finish();
    });
}

#[test]
fn what_the_workers_may_not_read_is_forbidden_and_no_reason_to_send_less() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    under_each_class(|class| {
        let site = Site::new("forbidden");
        let public = Public::new(&site);
        for name in ["private", "a.css", "a.css.gz", "closed/index.html", "closed/a.txt"] {
            public.file(name, TEN);
        }
        for (name, mode) in [("private", 0o600), ("a.css.gz", 0o600), ("closed", 0o700)] {
            fs::set_permissions(public.path(name), Permissions::from_mode(mode)).expect("it is ours");
        }
        let table = "[app.app]\nroot = 'public'\n";
        let launch = site.launch().class(class).args(&["--user", "nobody"]);
        let server = launch.with(|settings| _ = settings.append(table)).start();
        for target in ["/private", "/closed/", "/closed/a.txt", "/closed"] {
            assert_eq!(get(&server, target, &[]).status, 403, "{target}");
        }
        let got = get(&server, "/a.css", &[("Accept-Encoding", "gzip")]);
        assert_eq!((got.text().as_str(), got.field("content-encoding")), (TEN, None));
        server.finish();
        // A root that they may not enter is found before they serve.
        let table = "[app.app]\nroot = 'public/closed'\n";
        let launch = site.launch().class(class).args(&["--user", "nobody"]);
        let ended = launch.with(|settings| _ = settings.append(table)).start_in_vain();
        assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
        let why = "cannot serve the directory public/closed: Permission denied";
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    });
}

#[test]
fn many_files_go_over_one_connection() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("kept");
        let public = Public::new(&site);
        public.file("a.txt", TEN).file("large.bin", pattern(LARGE));
        let server = public.serve(class, "");
        let mut connection = Connection::open(server.address()).expect("a connection");
        for _ in 0..50 {
            for (target, length) in [("/a.txt", 10), ("/large.bin", LARGE), ("/missing", 10)] {
                connection.send_get(target).expect("sent");
                assert_eq!(connection.read_response().expect("an answer").body.len(), length, "{target}");
            }
        }
        drop(connection);
        server.finish();
    });
}
