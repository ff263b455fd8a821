//! Files that cannot be used: one line that says what was found, what was expected and what to do.
//!
//! Owns the table of sentences, word for word. Each is said alike by a first start, by `--check-config` and by a HUP,
//! because it is made in one place. What the server does then (exit codes, what is left behind, who serves on) is the
//! subject of `boot.rs` and `reload.rs`. What a newcomer would get wrong: most of these files are not built by Rust. A
//! C compiler and a note are enough, since a refusal comes before any of their code runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use harness::{Site, programs};

/// A file, and what is said of it.
struct Row {
    /// For the test's own words.
    name: &'static str,
    /// Puts the file there.
    arrange: fn(&Site, &str),
    /// Given as the worker class, not as the application.
    class: bool,
    /// `{}` stands for the file, `@` for what the operator wrote, `%` for the program's version.
    says: &'static str,
}

fn application(name: &'static str, arrange: fn(&Site, &str), says: &'static str) -> Row {
    Row { name, arrange, class: false, says }
}

fn worker_class(name: &'static str, arrange: fn(&Site, &str), says: &'static str) -> Row {
    Row { name, arrange, class: true, says }
}

/// In the order in which a file is judged.
fn rows() -> Vec<Row> {
    let mut rows = vec![
        application(
            "missing",
            |site, file| _ = fs::remove_file(site.join(file)),
            "cannot find the application '@': {}: No such file or directory; give its file, or a directory with \
             --plugin-path",
        ),
        application(
            "a directory",
            |site, file| {
                let _ = fs::remove_file(site.join(file));
                fs::create_dir(site.join(file)).expect("a new directory");
            },
            "cannot find the application '@': {} is not a regular file; give its file, or a directory with \
             --plugin-path",
        ),
        application(
            "a file that everybody can write",
            |site, file| {
                site.install(programs().inspect(1), file);
                fs::set_permissions(site.join(file), Permissions::from_mode(0o757)).expect("it is ours");
            },
            "cannot load the application {}: everybody can write the file {}; take that right away (chmod o-w), or \
             allow it with allow_world_writable",
        ),
        application(
            "text",
            |site, file| site.write(file, "#!/bin/sh\necho hello\n"),
            "cannot load the application {}: it is not an ELF file (it begins with text \"#!/bin/sh\"); give the \
             shared library (.so) that the build makes",
        ),
        application(
            "empty",
            |site, file| site.write(file, ""),
            "cannot load the application {}: it is empty; build or copy it again",
        ),
        application(
            "an executable",
            |site, file| site.install("/proc/self/exe", file),
            "cannot load the application {}: it is an executable, not a shared library; build it with crate-type = \
             [\"cdylib\"] (C: cc -shared)",
        ),
        application(
            "no note",
            |site, file| site.install(programs().fixture("no_note"), file),
            "cannot load the application {}: it is a shared library, but not an rgunicorn plugin (it has no note \
             .note.rgunicorn); build it with the crate rgunicorn-worker-api and its export macro, or in C with \
             rgunicorn.h and RGUNICORN_EXPORT",
        ),
        application(
            "a worker class as application",
            |site, file| site.install(programs().sync(), file),
            "cannot load the application {}: it is a worker class, not an application; give it to -k",
        ),
        application(
            "a hook library as application",
            |site, file| site.install(programs().fixture("hooks"), file),
            "cannot load the application {}: it is a hook library, not an application; give it to --hooks",
        ),
        worker_class(
            "an application as worker class",
            |site, file| site.install(programs().inspect(1), file),
            "cannot load the worker class {}: it is an application, not a worker class; give it as the APP argument",
        ),
        application(
            "a major version that is yet to come",
            |site, file| site.install(programs().bad_abi(), file),
            "cannot load the application {}: it was built for version 2.0 of the plugin interface, and this rgunicorn \
             speaks version 1.0; rebuild it with rgunicorn-worker-api 1.x or run it under a matching rgunicorn",
        ),
    ];
    if cfg!(target_arch = "x86_64") {
        rows.push(application(
            "another machine",
            |site, file| {
                let mut octets = fs::read(programs().inspect(1)).expect("a plugin");
                // e_machine: EM_S390.
                octets[18..20].copy_from_slice(&22_u16.to_le_bytes());
                site.write(file, octets);
            },
            "cannot load the application {}: it was built for s390x, and this rgunicorn is x86_64; build it for this \
             machine",
        ));
    }
    rows
}

/// Those that a C compiler makes.
fn compiled_rows() -> Vec<Row> {
    vec![
        application(
            "a kind that is yet to come",
            |site, file| compile(site, file, "kind=filter\\nabi=1.0\\n", "", &[]),
            "cannot load the application {}: its kind is 'filter', which this version does not know; upgrade rgunicorn",
        ),
        application(
            "needs what the class lacks",
            |site, file| {
                compile(site, file, "kind=app\\nabi=1.0\\napps=app:inline,\\nneeds=time-travel,\\n", "", &[])
            },
            "cannot load the application {}: it needs 'time-travel', and neither the worker class sync (which offers \
             take-over) nor this rgunicorn (%, which offers nothing by name) has it; choose another worker class \
             with -k, or upgrade rgunicorn",
        ),
        worker_class(
            "needs what the host lacks",
            |site, file| {
                compile(site, file, "kind=worker\\nabi=1.7\\nclass=c\\nneeds=time-travel,\\n", "", &[])
            },
            "cannot load the worker class {}: it needs 'time-travel', which this rgunicorn (%, which offers nothing \
             by name) does not have; upgrade rgunicorn",
        ),
        application(
            "no application of that name",
            |site, file| compile(site, file, "kind=app\\nabi=1.0\\napps=shop:inline,blog:async,\\n", "", &[]),
            "cannot load the application {}: it has no application named 'app'; it has: shop, blog; write FILE:NAME \
             with one of these",
        ),
        application(
            "a symbol that nobody has",
            |site, file| {
                compile(site, file, APP, "int nowhere(void); int f(void) { return nowhere(); }", &[])
            },
            "cannot load the application {}: it needs the symbol 'nowhere', which neither it nor a library that it \
             names has; link the library that defines it, or rebuild the plugin",
        ),
        application(
            "a library that nobody has",
            |site, file| {
                compile(site, "libgone.so", "", "int gone(void) { return 0; }", &["-Wl,-soname,libgone.so"]);
                let link = [&*format!("-L{}", site.path().display()), "-Wl,--no-as-needed", "-lgone"];
                compile(site, file, APP, "", &link);
                fs::remove_file(site.join("libgone.so")).expect("it was just made");
            },
            "cannot load the application {}: it needs the library libgone.so, which is not where it or the system \
             looks; install that library or set the plugin's RUNPATH",
        ),
        application(
            "static TLS exhausted",
            static_tls,
            "cannot load the application {}: its thread-local storage of the initial-exec model does not fit any more \
             (cannot allocate memory in static TLS block); build it, or the library that brings it, with \
             -ftls-model=global-dynamic, or start rgunicorn with \
             GLIBC_TUNABLES=glibc.rtld.optional_static_tls=65536",
        ),
        application(
            "the symbol missing",
            |site, file| compile(site, file, APP, "", &[]),
            "cannot load the application {}: it has the note of an application, but not the symbol RGUNICORN_APP_V1 \
             that belongs to it; rebuild it, and keep its dynamic symbols",
        ),
        application(
            "the symbol of something else",
            |site, file| {
                compile(site, file, APP, "const char RGUNICORN_APP_V1[4096] = \"something else\";", &[])
            },
            "cannot load the application {}: what its symbol leads to is not an interface of \
             rgunicorn-worker-api 1.x; rebuild it with that crate",
        ),
    ]
}

/// The note of a good application.
const APP: &str = "kind=app\\nabi=1.0\\napps=app:inline,\\n";

fn static_tls(site: &Site, file: &str) {
    let code = "__attribute__((tls_model(\"initial-exec\"))) __thread char block[16384];\n\
                char *f(void) { return block; }";
    compile(site, file, APP, code, &[]);
}

/// A shared library with this note, if any, and this code.
fn compile(site: &Site, file: &str, note: &str, code: &str, options: &[&str]) {
    let source = site.join("source.c");
    site.mine("source.c");
    let note = if note.is_empty() {
        String::new()
    } else {
        format!(
            "__asm__(\".pushsection .note.rgunicorn,\\\"a\\\",%note\\n.balign 4\\n.long 10\\n.long 2f-1f\\n.long 1\\n\"\n\
             \".asciz \\\"rgunicorn\\\"\\n.balign 4\\n1: .ascii \\\"{}\\\"\\n2:\\n.balign 4\\n.popsection\");\n",
            note.replace('\\', "\\\\")
        )
    };
    fs::write(&source, format!("{note}{code}\n")).expect("a new file");
    let made = site.join("made.so");
    site.mine("made.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]).arg(&made).arg(&source).args(options);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    site.install(made, file);
}

/// Whether there is a C compiler, and a C library whose words are known; says so if not.
fn can_be_compiled(test: &str) -> bool {
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("skipped: {test}, because there is no C compiler (cc)");
        return false;
    }
    // GLIBC_TUNABLES knows static TLS since 2.33.
    let version = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let version =
        version.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into());
    let minor = version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 33) {
        eprintln!("skipped: {test}, because the C library is not glibc 2.33 or later");
        return false;
    }
    true
}

/// What the program says is its version.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let output = Command::new(programs().rgunicorn()).arg("--version").output().expect("the program");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_ascii_whitespace().next_back().expect("a version").to_owned()
    })
}

/// The sentence about this file.
fn sentence(row: &Row, file: &Path, reference: &str) -> String {
    row.says.replace("{}", &file.display().to_string()).replace('@', reference).replace('%', version())
}

fn each_says_the_same(name: &str, rows: &[Row]) {
    let (site, other) = (Site::new(name), Site::new(name));
    site.install(programs().inspect(1), "app.so");
    other.install(programs().inspect(1), "app.so");
    let mut server = site.launch().start();
    for (number, row) in rows.iter().enumerate() {
        // A name of its own: a file that has just been written over would have to stand still first.
        let file = format!("x{number}.so");
        let (setting, reference) = match row.class {
            true => ("worker_class", format!("./{file}")),
            false => ("application", format!("{file}:app")),
        };
        let arranged = |site: &Site| {
            site.mine(&file);
            (row.arrange)(site, &file);
            sentence(row, &site.join(&file), &reference)
        };

        let expected = arranged(&other);
        for arguments in [&[][..], &["--check-config"]] {
            let launch =
                other.launch().args(arguments).with(|settings| _ = settings.text(setting, &reference));
            let ended = launch.start_in_vain();
            let lines: Vec<&str> =
                ended.stderr.lines().filter_map(|line| line.strip_prefix("rgunicorn: ")).collect();
            assert_eq!(lines, [expected.as_str()], "{} {arguments:?}: {}", row.name, ended.stderr);
            let code = if row.class { 3 } else { 4 };
            assert_eq!(ended.status.code(), Some(code), "{} {arguments:?}", row.name);
        }

        let expected = arranged(&site);
        let before = server.settings.clone();
        server.configure(|settings| _ = settings.text(setting, &reference));
        let verdict = server.reload();
        assert_eq!(verdict, format!("Reload refused, generation 1 serves on: {expected}"), "{}", row.name);
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1", "{}", row.name);
        server.expect_error(&expected);
        server.configure(|settings| *settings = before);
    }
    server.finish();
}

#[test]
fn what_is_wrong_with_a_file_is_said_alike_everywhere() {
    each_says_the_same("refusals", &rows());
}

#[test]
fn what_is_wrong_with_a_library_is_said_alike_everywhere() {
    if can_be_compiled("what_is_wrong_with_a_library_is_said_alike_everywhere") {
        each_says_the_same("libraries", &compiled_rows());
    }
}

#[test]
fn the_remedy_for_static_tls_helps() {
    if !can_be_compiled("the_remedy_for_static_tls_helps") {
        return;
    }
    let site = Site::new("static_tls");
    static_tls(&site, "app.so");
    let launch = site.launch().env("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=65536");
    // It loads; there was never more to it than that.
    let ended = launch.start_in_vain();
    assert!(ended.stderr.contains("but not the symbol RGUNICORN_APP_V1"), "{}", ended.stderr);
}
