//! Small shared libraries for unit tests, made with the system's C compiler.
//!
//! Owns the compiler's command line. What a newcomer would get wrong: a machine without a compiler is no failure; the
//! tests then say that they were skipped.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A plugin as far as its note goes.
pub(crate) const NOTE: &str = r#"
__asm__(".pushsection .note.rgunicorn,\"a\",@note\n.balign 4\n.long 10\n.long 2f-1f\n.long 1\n"
        ".asciz \"rgunicorn\"\n.balign 4\n"
        "1: .ascii \"kind=app\\nabi=1.0\\nnew-key=a=b\\noption=depth|integer|8|how deep\\n\"\n2:\n.balign 4\n.popsection");
"#;

/// Whether there is a compiler; says so if not.
pub(crate) fn compiler_is_missing(test: &str) -> bool {
    let missing = Command::new("cc").arg("--version").output().is_err();
    if missing {
        eprintln!("skipped {test}: no C compiler (cc)");
    }
    missing
}

/// Compiles `source` to `file`; neighbours and linker options go into `options`.
pub(crate) fn compile(file: &Path, source: &str, options: &[&str]) {
    let code = file.with_extension("c");
    std::fs::write(&code, source).unwrap();
    let output = Command::new("cc").arg(&code).arg("-o").arg(file).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A library with a SONAME like its file name.
pub(crate) fn library(file: &Path, source: &str, options: &[&str]) {
    let soname = format!("-Wl,-soname,{}", file.file_name().unwrap().to_str().unwrap());
    compile(file, source, &[&["-shared", "-fPIC", "-Wl,--no-as-needed", &soname], options].concat());
}

/// As if it had been built an hour ago.
pub(crate) fn make_old(file: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::options().append(true).open(file).unwrap().set_modified(hour_ago).unwrap();
}
