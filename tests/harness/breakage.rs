//! What can be wrong with a deployment, one function each: the same things are tried at the first start and at a HUP.
//!
//! Owns the list, how each is brought about, and what the server must say: which exit code at the first start, and
//! which words in its one sentence. Does not own the tests: `boot.rs` and `reload.rs` run the list, by way of
//! [`each_breakage`](crate::each_breakage). What a newcomer would get wrong: a breakage is arranged in a directory where `app.so` may be
//! serving, so files are replaced by rename and settings only change in the file.

use std::any::Any;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::programs::programs;
use crate::settings::Settings;
use crate::site::Site;

/// One thing that is wrong.
#[derive(Debug)]
pub struct Breakage {
    /// The exit code of a first start.
    pub exit_code: i32,
    /// What the sentence must contain, all of it: the file or the setting, and the reason.
    pub says: &'static [&'static str],
    /// Brings it about. What is returned is kept until the server has spoken.
    pub arrange: fn(&Site, &mut Settings) -> Box<dyn Any>,
    /// Whether the server finds out only when the time for booting is over.
    pub hangs: bool,
    /// Whether the plugin itself prints to standard error.
    pub prints: bool,
}

/// The application file, or what its start-up code reported.
const APPLICATION: i32 = 4;
/// The worker-class file, or a probe or first worker that died.
const BOOT: i32 = 3;
/// Settings, listeners, directories.
const SETTINGS: i32 = 1;

fn breakage(
    exit_code: i32,
    says: &'static [&'static str],
    arrange: fn(&Site, &mut Settings) -> Box<dyn Any>,
) -> Breakage {
    Breakage { exit_code, says, arrange, hangs: false, prints: false }
}

fn hanging(
    exit_code: i32,
    says: &'static [&'static str],
    arrange: fn(&Site, &mut Settings) -> Box<dyn Any>,
) -> Breakage {
    Breakage { hangs: true, ..breakage(exit_code, says, arrange) }
}

/// A breakage that needs nothing to be kept.
fn done() -> Box<dyn Any> {
    Box::new(())
}

/// Expands to one `#[test]` for each breakage, which calls the function given with it.
#[macro_export]
macro_rules! each_breakage {
    ($run:ident) => {
        $crate::each_breakage!($run:
            file_missing, file_empty, file_is_text, file_is_a_directory, elf_truncated, elf_of_another_machine,
            elf_without_note, class_as_application, application_as_class, class_missing, name_not_in_file,
            abi_of_the_future, symbol_missing, symbol_unresolved,
            constructor_hangs, constructor_segfaults, constructor_panics, constructor_exits,
            init_fails, init_panics, init_aborts, init_exits, init_exits_with_success, init_hangs,
            start_fails, start_panics, start_aborts, start_exits, start_hangs,
            only_workers_fail, only_workers_panic, only_workers_abort, only_workers_exit, only_workers_hang,
            address_in_use, unix_socket_in_use, address_of_another_machine, socket_path_is_a_file,
            unknown_user, unknown_group, unknown_host_name,
            unknown_setting, value_out_of_range, file_is_not_toml, chdir_missing,
        );
    };
    ($run:ident: $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                $run(stringify!($name), &$crate::breakage::$name());
            }
        )*
    };
}

// Files.

/// There is no file.
pub fn file_missing() -> Breakage {
    breakage(APPLICATION, &["app.so", "No such file"], |site, _| {
        let _ = fs::remove_file(site.join("app.so"));
        done()
    })
}

/// The file is empty.
pub fn file_empty() -> Breakage {
    breakage(APPLICATION, &["app.so", "empty"], |site, _| {
        site.write("app.so", "");
        done()
    })
}

/// The file is text.
pub fn file_is_text() -> Breakage {
    breakage(APPLICATION, &["app.so", "not an ELF file"], |site, _| {
        site.write("app.so", "#!/bin/sh\necho this is no library\n".repeat(500));
        done()
    })
}

/// A directory has the file's name.
pub fn file_is_a_directory() -> Breakage {
    breakage(APPLICATION, &["app.so", "not a regular file"], |site, settings| {
        let _ = fs::create_dir(site.join("dir-app.so"));
        site.mine("dir-app.so");
        settings.text("application", "dir-app.so:app");
        done()
    })
}

/// The first half of a good library.
pub fn elf_truncated() -> Breakage {
    breakage(APPLICATION, &["app.so"], |site, _| {
        let whole = fs::read(programs().inspect(1)).expect("a plugin");
        site.write("app.so", &whole[..whole.len() / 2]);
        done()
    })
}

/// A good library, but for another processor.
pub fn elf_of_another_machine() -> Breakage {
    breakage(APPLICATION, &["app.so"], |site, _| {
        let mut file = fs::read(programs().inspect(1)).expect("a plugin");
        // e_machine: EM_S390, which these tests hardly run on; in this file's own byte order it is nothing at all.
        file[18..20].copy_from_slice(&22_u16.to_le_bytes());
        site.write("app.so", file);
        done()
    })
}

/// A library, but not of ours.
pub fn elf_without_note() -> Breakage {
    breakage(APPLICATION, &["app.so", "not an rgunicorn plugin"], |site, _| {
        site.install(programs().fixture("no_note"), "app.so");
        done()
    })
}

/// A worker class where the application should be.
pub fn class_as_application() -> Breakage {
    breakage(APPLICATION, &["app.so", "it is a worker class, not an application"], |site, _| {
        site.install(programs().sync(), "app.so");
        done()
    })
}

/// An application where the worker class should be.
pub fn application_as_class() -> Breakage {
    breakage(BOOT, &["class.so", "it is an application, not a worker class"], |site, settings| {
        site.install(programs().inspect(1), "class.so");
        settings.text("worker_class", "./class.so");
        done()
    })
}

/// No worker class has this name.
pub fn class_missing() -> Breakage {
    breakage(BOOT, &["worker class 'gevent'", "libgevent.so"], |_, settings| {
        settings.text("worker_class", "gevent");
        done()
    })
}

/// The library has no application of this name.
pub fn name_not_in_file() -> Breakage {
    breakage(APPLICATION, &["app.so", "no application named 'shop'", "it has: app"], |_, settings| {
        settings.text("application", "app.so:shop");
        done()
    })
}

/// Built for a version of the interface that is yet to come.
pub fn abi_of_the_future() -> Breakage {
    breakage(APPLICATION, &["app.so", "version 2.0 of the plugin interface"], |site, _| {
        site.install(programs().bad_abi(), "app.so");
        done()
    })
}

/// The note says plugin, but nothing is behind it.
pub fn symbol_missing() -> Breakage {
    breakage(APPLICATION, &["app.so", "RGUNICORN_APP_V1"], |site, _| {
        let mut file = fs::read(programs().inspect(1)).expect("a plugin");
        let name = b"RGUNICORN_APP_V1\0";
        let places: Vec<usize> =
            (0..file.len() - name.len()).filter(|at| file[*at..].starts_with(name)).collect();
        assert!(!places.is_empty(), "the symbol has another name");
        for place in places {
            file[place + name.len() - 2] = b'X';
        }
        site.write("app.so", file);
        done()
    })
}

/// It needs a symbol that nobody has.
pub fn symbol_unresolved() -> Breakage {
    breakage(APPLICATION, &["app.so", "it needs the symbol"], |site, _| {
        site.install(programs().fixture("unresolved"), "app.so");
        done()
    })
}

fn constructor(site: &Site, settings: &mut Settings, what: &str) -> Box<dyn Any> {
    site.install(programs().fixture("bad_constructor"), "app.so");
    settings.list("raw_env", &[format!("FX_CONSTRUCTOR={what}")]);
    done()
}

/// dlopen(3) does not return.
pub fn constructor_hangs() -> Breakage {
    hanging(BOOT, &["app.so", "boot_timeout"], |site, settings| constructor(site, settings, "hang"))
}

/// dlopen(3) crashes.
pub fn constructor_segfaults() -> Breakage {
    breakage(BOOT, &["app.so", "SIGSEGV"], |site, settings| constructor(site, settings, "segfault"))
}

/// dlopen(3) aborts.
pub fn constructor_panics() -> Breakage {
    let panics = |site: &Site, settings: &mut Settings| constructor(site, settings, "panic");
    Breakage { prints: true, ..breakage(BOOT, &["app.so", "SIGABRT"], panics) }
}

/// dlopen(3) ends the process.
pub fn constructor_exits() -> Breakage {
    breakage(BOOT, &["app.so", "9"], |site, settings| constructor(site, settings, "exit"))
}

// Start-up code.

/// A breakage of `inspect`'s start-up code, by the value of `INSPECT_INIT`.
macro_rules! init {
    ($($(#[$doc:meta])* $name:ident = $mode:literal, $kind:ident($code:ident, $says:expr);)*) => {
        $(
            $(#[$doc])*
            pub fn $name() -> Breakage {
                $kind($code, $says, |_, settings| {
                    settings.init($mode);
                    done()
                })
            }
        )*
    };
}

init! {
    /// `create` returns an error.
    init_fails = "fail", breakage(APPLICATION, &["app.so", "inspect: asked to fail"]);
    /// `create` panics.
    init_panics = "panic", breakage(APPLICATION, &["app.so", "inspect: asked to panic"]);
    /// `create` aborts.
    init_aborts = "abort", breakage(BOOT, &["app.so", "SIGABRT"]);
    /// `create` exits.
    init_exits = "exit", breakage(BOOT, &["app.so", "7"]);
    /// `create` exits, and says that all is well.
    init_exits_with_success = "exit:0", breakage(BOOT, &["app.so", "exit"]);
    /// `create` does not return.
    init_hangs = "hang", hanging(BOOT, &["app.so", "boot_timeout"]);
    /// `start` returns an error.
    start_fails = "start:fail", breakage(APPLICATION, &["app.so", "inspect: asked to fail"]);
    /// `start` panics.
    start_panics = "start:panic", breakage(APPLICATION, &["app.so", "inspect: asked to panic"]);
    /// `start` aborts.
    start_aborts = "start:abort", breakage(BOOT, &["app.so", "SIGABRT"]);
    /// `start` exits.
    start_exits = "start:exit", breakage(BOOT, &["app.so", "7"]);
    /// `start` does not return.
    start_hangs = "start:hang", hanging(BOOT, &["app.so", "boot_timeout"]);
    /// `create` returns an error, but not in the probe.
    only_workers_fail = "probe-ok:fail", breakage(APPLICATION, &["app.so", "inspect: asked to fail"]);
    /// `create` panics, but not in the probe.
    only_workers_panic = "probe-ok:panic", breakage(APPLICATION, &["app.so", "inspect: asked to panic"]);
    /// `create` aborts, but not in the probe.
    only_workers_abort = "probe-ok:abort", breakage(BOOT, &["app.so", "SIGABRT"]);
    /// `create` exits, but not in the probe.
    only_workers_exit = "probe-ok:exit:0", breakage(BOOT, &["app.so", "exit"]);
    /// `create` does not return, but not in the probe.
    only_workers_hang = "probe-ok:hang", hanging(BOOT, &["app.so", "boot_timeout"]);
}

// Settings.

/// Adds an address to those that are there.
fn add_address(settings: &mut Settings, address: &str) {
    let there = settings.get("bind").expect("the harness sets it").trim_end_matches(']').to_owned();
    settings.raw("bind", &format!("{there}, \"{address}\"]"));
}

/// Another program listens there.
pub fn address_in_use() -> Breakage {
    breakage(SETTINGS, &["127.0.0.1:", "Address already in use"], |_, settings| {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        add_address(settings, &other.local_addr().expect("it has one").to_string());
        Box::new(other)
    })
}

/// Another program listens on the Unix socket.
pub fn unix_socket_in_use() -> Breakage {
    breakage(SETTINGS, &["taken.sock", "another program listens"], |site, settings| {
        let other = UnixListener::bind(site.join("taken.sock")).expect("a socket");
        site.mine("taken.sock");
        add_address(settings, "unix:taken.sock");
        Box::new(other)
    })
}

/// No interface has the address (it is set aside for documentation).
pub fn address_of_another_machine() -> Breakage {
    breakage(SETTINGS, &["192.0.2.1:8000", "Cannot assign requested address"], |_, settings| {
        add_address(settings, "192.0.2.1:8000");
        done()
    })
}

/// A file lies where the Unix socket should be. It must not be removed.
pub fn socket_path_is_a_file() -> Breakage {
    struct Precious(std::path::PathBuf);
    impl Drop for Precious {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                assert_eq!(fs::read(&self.0).expect("the file is still there"), b"precious");
            }
        }
    }
    breakage(SETTINGS, &["precious", "not a socket"], |site, settings| {
        site.write("precious", "precious");
        add_address(settings, "unix:precious");
        Box::new(Precious(site.join("precious")))
    })
}

/// Nobody has this name.
pub fn unknown_user() -> Breakage {
    breakage(SETTINGS, &["no-such-user", "there is no such user"], |_, settings| {
        settings.text("user", "no-such-user");
        done()
    })
}

/// No group has this name.
pub fn unknown_group() -> Breakage {
    breakage(SETTINGS, &["no-such-group", "there is no such group"], |_, settings| {
        settings.text("group", "no-such-group");
        done()
    })
}

/// No machine has this name.
pub fn unknown_host_name() -> Breakage {
    breakage(SETTINGS, &["no-such-host.invalid", "cannot be looked up"], |_, settings| {
        add_address(settings, "no-such-host.invalid:8000");
        done()
    })
}

/// A setting that does not exist, but nearly.
pub fn unknown_setting() -> Breakage {
    breakage(SETTINGS, &["server.toml line ", "'wrokers'", "did you mean 'workers'?"], |_, settings| {
        settings.raw("wrokers", "3");
        done()
    })
}

/// A value out of range.
pub fn value_out_of_range() -> Breakage {
    breakage(SETTINGS, &["server.toml line ", "'backlog'", "not '0'"], |_, settings| {
        settings.raw("backlog", "0");
        done()
    })
}

/// A file that cannot be read as TOML.
pub fn file_is_not_toml() -> Breakage {
    breakage(SETTINGS, &["server.toml line "], |_, settings| {
        settings.append("workers =\n");
        done()
    })
}

/// The workers' directory does not exist.
pub fn chdir_missing() -> Breakage {
    breakage(SETTINGS, &["nowhere", "chdir"], |_, settings| {
        settings.text("chdir", "nowhere");
        done()
    })
}
