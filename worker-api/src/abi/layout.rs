//! The golden layout: everything that crosses, printed from `abi_stable`'s own constants and compared with
//! `worker-api/layout.txt`.
//!
//! Owns the printing and the rule of the change policy that a machine can check: a line of that file never changes and
//! never goes, new ones may come in between, unless docs/ABI.md has a new line of history that says why.
//! `RGUNICORN_BLESS=1 cargo test -p rgunicorn-worker-api layout` writes the file anew, and refuses what the rule does.
//!
//! What a newcomer would get wrong: a table's own size is not in the file, because a table grows; what may not change
//! is where each of its fields lies and what it takes. And the numbers are those of a 64-bit machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::type_layout::{TLData, TLField, TLFunction, TypeLayout};

use super::{AppModule_Ref, HookModule_Ref, WorkerModule_Ref};

/// What a symbol leads to; all else that crosses is found from there.
const ROOTS: &[(&str, &TypeLayout)] = &[
    ("AppModule_Ref", AppModule_Ref::LAYOUT),
    ("HookModule_Ref", HookModule_Ref::LAYOUT),
    ("WorkerModule_Ref", WorkerModule_Ref::LAYOUT),
];

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/layout.txt");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ABI.md");

/// The words of the first line, before the number of lines that the history had.
const HEAD: &str =
    "# What crosses, 64-bit. Made by worker-api/src/abi/layout.rs. Lines of history when it was written: ";

#[test]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "the file is of a 64-bit machine")]
fn the_interface_has_not_changed_in_silence() {
    let now = everything();
    let history = history_lines(&fs::read_to_string(PAGE).unwrap());
    let there = fs::read_to_string(FILE).unwrap_or_default();
    let (head, promised) = there.split_once('\n').unwrap_or_default();
    let written_at = head.strip_prefix(HEAD).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
    assert!(
        written_at <= history,
        "docs/ABI.md had {written_at} lines of history when worker-api/layout.txt was written, and has {history}: a \
         history is only added to"
    );
    if now == promised {
        return;
    }
    let broken = lines_lost(promised, &now);
    let may_change = broken.is_empty() || history > written_at;
    if std::env::var_os("RGUNICORN_BLESS").is_some() && may_change {
        fs::write(FILE, format!("{HEAD}{history}\n{now}")).unwrap();
        return;
    }
    let added = lines_lost(&now, promised);
    panic!(
        "what crosses has changed.\n{}\n{}\n\n{}",
        broken.iter().map(|line| format!("- {line}\n")).collect::<String>(),
        added.iter().map(|line| format!("+ {line}\n")).collect::<String>(),
        if may_change {
            "If that is meant: RGUNICORN_BLESS=1 cargo test -p rgunicorn-worker-api layout"
        } else {
            "Lines of worker-api/layout.txt are gone: plugins that were built before would break. Read the change \
             policy in docs/ABI.md. If that is meant, add a line to its history that says why, then run \
             RGUNICORN_BLESS=1 cargo test -p rgunicorn-worker-api layout"
        }
    );
}

/// Both directions of `abi::load` hold for a layout and itself; and the printing meets every root there is.
#[test]
fn every_root_is_printed_and_fits_itself() {
    let declared: Vec<&str> = include_str!("../abi.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("impl RootModule for ")?.strip_suffix(" {"))
        .collect();
    let mut printed: Vec<&str> = ROOTS.iter().map(|(name, _)| *name).collect();
    printed.sort_unstable();
    assert_eq!(declared.iter().copied().collect::<BTreeSet<_>>(), printed.into_iter().collect(), "see ROOTS");
    for (name, root) in ROOTS {
        assert!(check_layout_compatibility(root, root).is_ok(), "{name}");
    }
}

/// The bits that tell which functions of a table are there are 64; and what is not there is `None`.
#[test]
fn no_table_outgrows_its_bits_or_panics_where_a_function_is_missing() {
    let panics = include_str!("../abi.rs").contains("missing_field(panic)");
    assert!(
        !panics,
        "a function that is missing is absent: without this attribute its accessor returns an Option"
    );
    let mut found = BTreeMap::new();
    for (_, root) in ROOTS {
        collect(root, &mut found);
    }
    let tables = found.values().filter(|layout| matches!(layout.data(), TLData::PrefixType(_)));
    let sizes: Vec<(String, usize)> =
        tables.map(|table| (table.full_type().to_string(), fields(table).len())).collect();
    assert!(sizes.len() > ROOTS.len(), "{sizes:?}");
    assert!(sizes.iter().all(|(_, functions)| *functions <= 64), "make an extension instead: {sizes:?}");
}

#[test]
fn only_lines_that_go_or_move_are_lost() {
    assert_eq!(lines_lost("a\nb\n", "a\nx\nb\ny\n"), Vec::<&str>::new());
    assert_eq!(lines_lost("a\nb\n", "b\na\n"), ["b"]);
    assert_eq!(lines_lost("a\nb\n", "a\nB\n"), ["b"]);
}

/// The lines of `before` that are not in `after`, in this order.
fn lines_lost<'t>(before: &'t str, after: &str) -> Vec<&'t str> {
    let mut rest = after.lines();
    let mut lost = Vec::new();
    for line in before.lines() {
        let mut ahead = rest.clone();
        if ahead.any(|other| other == line) { rest = ahead } else { lost.push(line) }
    }
    lost
}

/// Rows of the table below the heading "History".
fn history_lines(page: &str) -> usize {
    let (_, below) = page.split_once("\n### History\n").expect("docs/ABI.md has a history");
    let rows = below.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|')).count()
}

// ---------------------------------------------------------------------------------------------------------------
// Printing.

fn everything() -> String {
    let mut text = String::new();
    symbols_and_constants(&mut text);
    note_keys(&mut text);
    let mut found = BTreeMap::new();
    for (_, root) in ROOTS {
        collect(root, &mut found);
    }
    // What Rust itself defines is told by its name.
    for layout in found.values().filter(|layout| layout.package() != "std") {
        print(layout, &mut text);
    }
    text
}

/// The public constants of `abi.rs`, as they are written there: numbers that cross, and symbols.
fn symbols_and_constants(text: &mut String) {
    let lines = include_str!("../abi.rs").lines();
    let constants = lines.filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix(';'));
    let mut constants: Vec<&str> = constants.filter(|line| !line.starts_with("HOST_FEATURES")).collect();
    assert!(constants.len() > 30, "the constants of abi.rs are not read any more: {constants:?}");
    constants.sort_unstable();
    for constant in constants {
        let _ = writeln!(text, "const {constant}");
    }
    text.push('\n');
}

/// The keys that the macros write into the note.
fn note_keys(text: &mut String) {
    let keys =
        include_str!("../export.rs").split('"').skip(1).step_by(2).flat_map(|literal| {
            literal.split("\\n").filter_map(|line| line.split_once('=')).map(|(key, _)| key)
        });
    let word = |key: &&str| {
        !key.is_empty() && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '1')
    };
    let mut keys: BTreeSet<&str> = keys.filter(word).collect();
    // `note::block` writes the lines of options.
    keys.insert("option");
    assert!(
        keys.contains("kind") && keys.contains("rustc"),
        "the macros' keys are not read any more: {keys:?}"
    );
    for key in keys {
        let _ = writeln!(text, "note {key}");
    }
    text.push('\n');
}

/// All that a layout leads to, by package and name.
fn collect(layout: &'static TypeLayout, found: &mut BTreeMap<String, &'static TypeLayout>) {
    let key = format!("{} {}", package(layout), layout.full_type());
    if found.insert(key, layout).is_some() {
        return;
    }
    for field in fields(layout).iter().chain(&layout.phantom_fields().to_vec()) {
        collect(field.layout(), found);
        for function in field.function_range().iter() {
            for part in function.param_type_layouts.iter().chain(function.return_type_layout()) {
                collect(part(), found);
            }
        }
    }
}

fn fields(layout: &'static TypeLayout) -> Vec<TLField> {
    layout.get_fields().map(|fields| fields.to_vec()).unwrap_or_default()
}

/// With the numbers of the version that make two of them different to `abi_stable`.
fn package(layout: &TypeLayout) -> String {
    let version = layout.package_version();
    let mut numbers = version.version.as_str().split('.');
    let major = numbers.next().unwrap_or_default();
    match (major, numbers.next()) {
        ("0", Some(minor)) => format!("{} 0.{minor}", layout.package()),
        _ => format!("{} {major}", layout.package()),
    }
}

fn print(layout: &'static TypeLayout, text: &mut String) {
    let fields = fields(layout);
    let name = plain(&layout.full_type().to_string());
    // Writing to a String cannot fail, here and below.
    let _ = match layout.data() {
        TLData::PrefixType(table) => writeln!(
            text,
            "table {name} of {}, align {}, prefix of {} fields",
            package(layout),
            layout.alignment(),
            table.first_suffix_field
        ),
        data => writeln!(
            text,
            "{} {name} of {}, size {}, align {}",
            kind(&data),
            package(layout),
            layout.size(),
            layout.alignment()
        ),
    };
    let mut end = 0;
    for (index, field) in fields.iter().enumerate() {
        let (size, align) = (field.layout().size(), field.layout().alignment());
        // As `repr(C)` lays fields out; for a type of another kind the index has to do.
        let offset = usize::next_multiple_of(end, align.max(1));
        end = offset + size;
        let place = match layout.data() {
            TLData::Struct { .. } | TLData::PrefixType(_) => format!("+{offset}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {index} {place} {}: {}", field.name(), plain(&type_of(field)));
    }
    if let (TLData::Struct { .. }, true) = (layout.data(), package(layout).starts_with("rgunicorn")) {
        let whole = usize::next_multiple_of(end, layout.alignment());
        assert_eq!(whole, layout.size(), "{name} is not laid out as repr(C)");
    }
    text.push('\n');
}

/// Without the spaces that `abi_stable` puts around what a pointer points to.
fn plain(name: &str) -> String {
    name.replace("  ", " ").replace(" )", ")").replace(" ,", ",").replace(" >", ">").trim_end().to_owned()
}

fn type_of(field: &TLField) -> String {
    if field.is_function() {
        let functions = field.function_range();
        return functions.iter().map(signature).collect::<Vec<_>>().join(" and ");
    }
    field.full_type().to_string()
}

fn signature(function: TLFunction) -> String {
    let name = |layout: extern "C" fn() -> &'static TypeLayout| layout().full_type().to_string();
    let parameters: Vec<String> = function.param_type_layouts.iter().map(name).collect();
    let result = function.return_type_layout().map_or_else(|| "()".to_owned(), name);
    format!(
        "{}fn({}) -> {result}",
        if function.fn_qualifs.is_unsafe() { "unsafe " } else { "" },
        parameters.join(", ")
    )
}

fn kind(data: &TLData) -> &'static str {
    match data {
        TLData::Primitive(_) => "primitive",
        TLData::Opaque => "opaque",
        TLData::Struct { .. } => "struct",
        TLData::Union { .. } => "union",
        TLData::Enum(_) => "enum",
        TLData::PrefixType(_) => "table",
    }
}
