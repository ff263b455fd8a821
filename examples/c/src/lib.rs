//! Nothing in Rust: this package's build script compiles the examples in C and C++ beside it, so that
//! `cargo build --release` leaves their libraries in the target folder with the others.
//!
//! An author of an application in C needs neither this package nor cargo: `examples/hello-c` has a Makefile.
