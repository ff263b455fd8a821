//! The structs of `worker-api/include/rgunicorn.h`, as Rust has them.
//!
//! Owns the layouts and nothing else; what they mean is written in the header. The values that never change (octets,
//! fields, addresses) are those of [`rgunicorn_worker_api::abi`]. What a newcomer would get wrong: a struct grows here
//! and in the header at once, and only at its end; a test has `cc` print sizes and offsets, and compares.

use std::ffi::{c_char, c_int, c_void};

use rgunicorn_worker_api::abi::{AddressParts, Bytes, FieldParts};

/// What a library exports. Every version of the header has had these fields.
pub(super) const SYMBOL: &str = "RGUNICORN_C_APP_V1";

/// A struct's name in the header, its size, and the names and offsets of its fields.
#[cfg(test)]
type Struct = (&'static str, usize, &'static [(&'static str, usize)]);

/// Declares structs of the header under its names for them, and for the test below what they are made of.
macro_rules! mirror {
    ($($(#[$doc:meta])* $c:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ })+) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $type,)+
        })+

        /// All of them.
        #[cfg(test)]
        pub(super) const MIRRORED: &[Struct] = &[
            $(($c, size_of::<$name>(), &[
                $((stringify!($field), std::mem::offset_of!($name, $field)),)+
            ]),)+
        ];
    };
}

/// `get_extension` of any object.
pub(super) type GetExtension<T> = unsafe extern "C" fn(*const T, *const c_char) -> *const c_void;

mirror! {
    /// What the library exports.
    "rgunicorn_library" Library {
        struct_size: usize,
        abi_major: u32,
        abi_minor: u32,
        entries: *const Entry,
        entry_count: usize,
    }

    /// An application of a library. Never changes.
    "rgunicorn_entry" Entry {
        name: *const c_char,
        app: *const App,
        execution: u32,
        reserved: u32,
    }

    /// The author's functions. They may unwind: what does ends the process at the host's fence, and is no undefined
    /// behaviour before that.
    "rgunicorn_app" App {
        struct_size: usize,
        flags: u64,
        create: Option<Create>,
        start: Option<Begin>,
        ready: Option<Begin>,
        handle: Option<Handle>,
        drain: Option<Farewell>,
        shutdown: Option<Farewell>,
        destroy: Option<Farewell>,
        get_extension: Option<unsafe extern "C-unwind" fn(*const c_char) -> *const c_void>,
    }

    "rgunicorn_worker" Worker {
        struct_size: usize,
        pid: u32,
        is_probe: u32,
        age: u64,
        generation: u64,
        settings: Bytes,
        setting: unsafe extern "C" fn(*const Worker, *const c_char) -> Bytes,
        server_setting: unsafe extern "C" fn(*const Worker, *const c_char) -> Bytes,
        log_level: unsafe extern "C" fn(*const Worker) -> c_int,
        log: unsafe extern "C" fn(*const Worker, c_int, Bytes),
        refuse: unsafe extern "C" fn(*const Worker, Bytes),
        get_extension: GetExtension<Worker>,
    }

    "rgunicorn_request" Request {
        struct_size: usize,
        calls: &'static RequestCalls,
        worker: *const Worker,
        method: Bytes,
        target: Bytes,
        mount: Bytes,
        field_count: usize,
        version: u32,
        scheme: u32,
    }

    "rgunicorn_request_calls" RequestCalls {
        struct_size: usize,
        field: unsafe extern "C" fn(*mut Request, usize) -> FieldParts,
        trailer: unsafe extern "C" fn(*mut Request, usize) -> FieldParts,
        peer: unsafe extern "C" fn(*mut Request) -> AddressParts,
        local: unsafe extern "C" fn(*mut Request) -> AddressParts,
        tls: unsafe extern "C" fn(*mut Request, *const c_char) -> Bytes,
        body_length: unsafe extern "C" fn(*mut Request) -> i64,
        read: unsafe extern "C" fn(*mut Request, *mut c_void, usize) -> i64,
        client_gone: unsafe extern "C" fn(*mut Request) -> c_int,
        expired: unsafe extern "C" fn(*mut Request) -> c_int,
        get_extension: GetExtension<Request>,
    }

    "rgunicorn_response" Response {
        struct_size: usize,
        calls: &'static ResponseCalls,
    }

    "rgunicorn_response_calls" ResponseCalls {
        struct_size: usize,
        informational: unsafe extern "C" fn(*mut Response, u32, *const FieldParts, usize) -> c_int,
        start: unsafe extern "C" fn(*mut Response, u32, *const FieldParts, usize) -> c_int,
        write: unsafe extern "C" fn(*mut Response, *const c_void, usize) -> c_int,
        flush: unsafe extern "C" fn(*mut Response) -> c_int,
        send_file: unsafe extern "C" fn(*mut Response, c_int, u64, u64) -> c_int,
        trailers: unsafe extern "C" fn(*mut Response, *const FieldParts, usize) -> c_int,
        end: unsafe extern "C" fn(*mut Response) -> c_int,
        respond: unsafe extern "C" fn(
            *mut Response, u32, *const FieldParts, usize, *const c_void, usize,
        ) -> c_int,
        fail: unsafe extern "C" fn(*mut Response, Bytes),
        get_extension: GetExtension<Response>,
    }
}

/// `create`.
pub(super) type Create = unsafe extern "C-unwind" fn(*const Worker, *mut *mut c_void) -> c_int;
/// `start`, `ready`.
pub(super) type Begin = unsafe extern "C-unwind" fn(*mut c_void, *const Worker) -> c_int;
/// `handle`.
pub(super) type Handle = unsafe extern "C-unwind" fn(*mut c_void, *mut Request, *mut Response) -> c_int;
/// `drain`, `shutdown`, `destroy`.
pub(super) type Farewell = unsafe extern "C-unwind" fn(*mut c_void);

/// What a function returns that did what it was asked.
pub(super) const OK: c_int = 0;
/// `flags`: calls must not overlap.
pub(super) const ONE_AT_A_TIME: u64 = 1;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::mem::offset_of;
    use std::process::Command;

    use rgunicorn_worker_api::abi;

    use super::*;
    use crate::image::test_library::{compile, compiler_is_missing};
    use crate::temp_dir::TempDir;

    const HEADER: &str = include_str!("../../../../worker-api/include/rgunicorn.h");

    /// The values, which are declared elsewhere, under the header's names for their fields.
    const VALUES: &[Struct] = &[
        (
            "rgunicorn_bytes",
            size_of::<Bytes>(),
            &[("data", offset_of!(Bytes, ptr)), ("length", offset_of!(Bytes, len))],
        ),
        (
            "rgunicorn_field",
            size_of::<FieldParts>(),
            &[("name", offset_of!(FieldParts, name)), ("value", offset_of!(FieldParts, value))],
        ),
        (
            "rgunicorn_address",
            size_of::<AddressParts>(),
            &[
                ("family", offset_of!(AddressParts, family)),
                ("port", offset_of!(AddressParts, port)),
                ("ip", offset_of!(AddressParts, ip)),
                ("path", offset_of!(AddressParts, path)),
            ],
        ),
    ];

    /// The numbers of the header's names.
    const NUMBERS: &[(&str, i64)] = &[
        ("ABI_MAJOR", abi::ABI_MAJOR as i64),
        ("ABI_MINOR", abi::ABI_MINOR as i64),
        ("OK", OK as i64),
        ("FAILED", 1),
        ("CLIENT_GONE", abi::IO_CLIENT_GONE),
        ("TIMED_OUT", abi::IO_TIMED_OUT),
        ("TOO_LARGE", abi::IO_TOO_LARGE),
        ("MALFORMED", abi::IO_MALFORMED),
        ("EXPIRED", abi::IO_EXPIRED),
        ("MISUSE", abi::IO_MISUSE),
        ("INVALID", abi::IO_INVALID),
        ("UNSUPPORTED", abi::IO_UNSUPPORTED),
        ("SYSTEM", abi::IO_SYSTEM),
        ("BLOCKING", abi::EXECUTION_BLOCKING as i64),
        ("INLINE", abi::EXECUTION_INLINE as i64),
        ("ONE_AT_A_TIME", ONE_AT_A_TIME as i64),
        ("LOG_OFF", log::LevelFilter::Off as i64),
        ("LOG_ERROR", log::Level::Error as i64),
        ("LOG_WARN", log::Level::Warn as i64),
        ("LOG_INFO", log::Level::Info as i64),
        ("LOG_DEBUG", log::Level::Debug as i64),
        ("LOG_TRACE", log::Level::Trace as i64),
        ("HTTP", 0),
        ("HTTPS", 1),
        ("ADDRESS_UNKNOWN", 0),
        ("ADDRESS_UNIX", 1),
        ("ADDRESS_IPV4", 4),
        ("ADDRESS_IPV6", 6),
    ];

    #[test]
    fn the_header_and_this_file_agree() {
        if compiler_is_missing("the_header_and_this_file_agree") {
            return;
        }
        let (mut source, mut expected) = (String::from("int main(void)\n{\n"), String::new());
        for (name, size, fields) in VALUES.iter().chain(MIRRORED) {
            writeln!(source, r#"printf("{name} %zu\n", sizeof({name}));"#).unwrap();
            writeln!(expected, "{name} {size}").unwrap();
            for (field, offset) in *fields {
                writeln!(source, r#"printf("{name}.{field} %zu\n", offsetof({name}, {field}));"#).unwrap();
                writeln!(expected, "{name}.{field} {offset}").unwrap();
            }
        }
        for (name, number) in NUMBERS {
            writeln!(source, r#"printf("{name} %d\n", (int)RGUNICORN_{name});"#).unwrap();
            writeln!(expected, "{name} {number}").unwrap();
        }
        source.push_str("return 0;\n}\n");
        let dir = TempDir::new("header");
        let program = dir.join("sizes");
        compile(&program, &format!("{HEADER}{source}"), &["-std=c99"]);
        let output = Command::new(&program).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    /// A struct, a field or a number that only the header has would be missed by the test above.
    #[test]
    fn nothing_is_only_in_the_header() {
        let known: Vec<&str> = VALUES.iter().chain(MIRRORED).map(|(name, ..)| *name).collect();
        let mut fields: Vec<&str> = Vec::new();
        let mut within = None;
        for line in HEADER.lines() {
            let opened = line.strip_suffix(" {").and_then(|line| line.split(' ').next_back());
            if line.contains("struct rgunicorn_") && opened.is_some() {
                within = opened.filter(|name| *name != "struct");
                fields.clear();
            } else if line.starts_with('}') && within.is_some() {
                let name = within.take().unwrap();
                let found = VALUES.iter().chain(MIRRORED).find(|(other, ..)| *other == name);
                let (.., there) = found.unwrap_or_else(|| panic!("{name} is not in {known:?}"));
                let there: Vec<&str> = there.iter().map(|(field, _)| *field).collect();
                assert_eq!(fields, there, "{name}");
            } else if within.is_some() && line.ends_with(';') && !line.contains("/*") {
                // `type name;`, `type name[16];`, `type (*name)(…);`, or the rest of such a line.
                let name = match line.split_once("(*") {
                    Some((_, rest)) => rest.split(')').next(),
                    None if line.contains(')') => None,
                    None => line
                        .trim_end_matches(';')
                        .split('[')
                        .next()
                        .and_then(|line| line.split([' ', '*']).next_back()),
                };
                fields.extend(name);
            } else if within.is_some() && line.contains("(*") {
                fields.extend(line.split_once("(*").and_then(|(_, rest)| rest.split(')').next()));
            }
        }
        let mut numbers = HEADER.lines().filter_map(|line| {
            let (name, _) = line.trim().strip_prefix("RGUNICORN_")?.split_once(" = ")?;
            Some(name)
        });
        let absent = numbers.find(|name| !NUMBERS.iter().any(|(known, _)| known == name));
        assert_eq!(absent, None, "a number of the header");
    }
}
