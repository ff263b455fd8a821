//! What an ELF file says of itself: our note, its names, the libraries that it needs. Reads bytes, runs none.
//!
//! Owns the judgement whether bytes are a shared library for this machine, and the text of the note
//! `.note.rgunicorn`. Does not open files (`image` does) and does not judge what the note says (`plugin` does). Easily
//! got wrong: the bytes may come from a file that is still being written, so that "truncated" is no verdict but a
//! reason to look again; see [`ElfError::may_pass`].
#![cfg_attr(
    target_pointer_width = "64",
    expect(clippy::useless_conversion, reason = "the fields of a 32-bit ELF file have 32 bits")
)]

use std::fmt::Write as _;

use object::Endianness;
use object::elf;
use object::read::StringTable;
use object::read::elf::{Dyn as _, FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _};
use serde::{Deserialize, Serialize};

/// The section that holds the note.
const SECTION: &[u8] = b".note.rgunicorn";
/// The owner in the note's header.
const OWNER: &[u8] = b"rgunicorn";
/// The type in the note's header.
const TYPE: u32 = 1;
/// No honest note comes near this.
const NOTE_LIMIT: usize = 64 * 1024;
/// No honest library has that many names in its dynamic section.
const NAMES_LIMIT: usize = 4096;

#[cfg(target_pointer_width = "64")]
type Header = elf::FileHeader64<Endianness>;
#[cfg(target_pointer_width = "64")]
const CLASS: (u8, &str) = (elf::ELFCLASS64, "64-bit");
#[cfg(target_pointer_width = "32")]
type Header = elf::FileHeader32<Endianness>;
#[cfg(target_pointer_width = "32")]
const CLASS: (u8, &str) = (elf::ELFCLASS32, "32-bit");

#[cfg(target_endian = "little")]
const ORDER: (u8, &str) = (elf::ELFDATA2LSB, "little-endian");
#[cfg(target_endian = "big")]
const ORDER: (u8, &str) = (elf::ELFDATA2MSB, "big-endian");

/// This machine in an ELF header; `None` where the table below has no row, and then any is let through to the loader.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(elf::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(elf::EM_AARCH64)
} else if cfg!(target_arch = "riscv64") {
    Some(elf::EM_RISCV)
} else if cfg!(target_arch = "powerpc64") {
    Some(elf::EM_PPC64)
} else if cfg!(target_arch = "s390x") {
    Some(elf::EM_S390)
} else if cfg!(target_arch = "loongarch64") {
    Some(elf::EM_LOONGARCH)
} else if cfg!(target_arch = "arm") {
    Some(elf::EM_ARM)
} else if cfg!(target_arch = "x86") {
    Some(elf::EM_386)
} else {
    None
};

/// A plugin's note: `key=value` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    lines: Vec<(String, String)>,
}

/// An option that a worker class declares in its note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteOption {
    /// As it is written in `--worker-option NAME=VALUE`.
    pub name: String,
    /// `integer`, `seconds`, `flag` or `text`; a newer class may know more.
    pub kind: String,
    /// What it is when the operator says nothing.
    pub default: String,
    /// One line for the operator.
    pub help: String,
}

impl Note {
    /// Lines without `=` are skipped: a later version may give them a meaning.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self { lines: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    /// Takes in a further note of the same library. Hooks that stand beside an application are one more thing that this
    /// has, whichever of the two notes comes first; of anything else the first one counts.
    fn join(&mut self, mut other: Self) {
        let is_hooks = |note: &Self| note.get("kind") == Some("hooks");
        if is_hooks(self) && !is_hooks(&other) {
            std::mem::swap(self, &mut other);
        }
        if is_hooks(&other) && !is_hooks(self) && self.get("hooks").is_none() {
            self.lines.extend(other.lines.into_iter().filter(|(key, _)| key == "hooks"));
        }
    }

    /// The value of the first line with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(there, _)| there == key).map(|(_, value)| value.as_str())
    }

    /// The items of a value that is a list, each with a comma after it.
    pub fn list<'n>(&'n self, key: &str) -> impl Iterator<Item = &'n str> {
        self.get(key).unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
    }

    /// All lines, in the author's order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The applications, each with how it runs (`blocking`, `inline`, `async`), in the author's order.
    pub fn applications(&self) -> Vec<(String, String)> {
        self.list("apps")
            .map(|entry| entry.split_once(':').unwrap_or((entry, "")))
            .map(|(name, execution)| (name.to_owned(), execution.to_owned()))
            .collect()
    }

    /// The declared options, in the author's order. Fields that are missing are empty.
    pub fn options(&self) -> Vec<NoteOption> {
        let lines = self.lines.iter().filter(|(key, _)| key == "option");
        lines
            .map(|(_, value)| {
                let mut fields = value.splitn(4, '|').map(ToOwned::to_owned);
                let mut field = || fields.next().unwrap_or_default();
                NoteOption { name: field(), kind: field(), default: field(), help: field() }
            })
            .collect()
    }
}

/// What a shared library says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElfFacts {
    /// Ours, if it is a plugin.
    pub note: Option<Note>,
    /// `DT_SONAME`, by which the loader recognises a library that is loaded already.
    pub soname: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// The directories of `DT_RPATH`; the loader ignores them when there is a `DT_RUNPATH`.
    pub rpath: Vec<String>,
    /// The directories of `DT_RUNPATH`.
    pub runpath: Vec<String>,
    /// The linker's build id, in hexadecimal.
    pub build_id: Option<String>,
    /// Octets of thread-local memory, for each thread.
    pub tls: u64,
    /// Whether that memory must come from the little that the loader has set aside when the program began
    /// (`DF_STATIC_TLS`, the initial-exec model).
    pub static_tls: bool,
}

/// Why bytes are no shared library for this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence is its documentation")]
pub enum ElfError {
    #[error("it is empty; build or copy it again")]
    Empty,
    #[error("it begins with zeros, as a file does that was never written to its end; build or copy it again")]
    Zeros,
    #[error("it is truncated ({what} ends at byte {needs}, the file has {size}); build or copy it again")]
    Truncated { what: &'static str, needs: u64, size: u64 },
    #[error("it is damaged ({0}); build or copy it again")]
    Damaged(String),
    #[error(
        "it is not an ELF file (it begins with text \"{0}\"); give the shared library (.so) that the build makes"
    )]
    Text(String),
    #[error(
        "it is not an ELF file (it begins with the bytes {0}); give the shared library (.so) that the build makes"
    )]
    Foreign(String),
    #[error("it was built for {found}, and this rgunicorn is {expected}; build it for this machine")]
    OtherMachine { found: String, expected: &'static str },
    #[error("it is {0}, not a shared library; build it with crate-type = [\"cdylib\"] (C: cc -shared)")]
    OtherType(&'static str),
    #[error("its note .note.rgunicorn cannot be read ({0}); rebuild it")]
    Note(&'static str),
}

impl ElfError {
    /// Whether the next look at a file that is being written may say otherwise.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Empty | Self::Zeros | Self::Truncated { .. } | Self::Damaged(_) => true,
            Self::Text(_)
            | Self::Foreign(_)
            | Self::OtherMachine { .. }
            | Self::OtherType(_)
            | Self::Note(_) => false,
        }
    }
}

impl From<object::read::Error> for ElfError {
    fn from(error: object::read::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Probe: judges bytes. They may be anything; this neither panics nor reads beyond them.
///
/// # Errors
/// They are no complete shared library for this machine.
pub fn facts(bytes: &[u8]) -> Result<ElfFacts, ElfError> {
    judge_magic(bytes)?;
    judge_machine(bytes)?;
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    judge_complete(header, endian, bytes)?;

    let mut facts = ElfFacts::default();
    let pie = read_dynamic(header, endian, bytes, &mut facts)?;
    match header.e_type(endian) {
        elf::ET_DYN if pie => return Err(ElfError::OtherType("an executable")),
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(ElfError::OtherType("an executable")),
        elf::ET_REL => return Err(ElfError::OtherType("an object file")),
        elf::ET_CORE => return Err(ElfError::OtherType("a core dump")),
        _ => return Err(ElfError::OtherType("an ELF file of an unknown type")),
    }
    read_notes(header, endian, bytes, &mut facts)?;
    Ok(facts)
}

fn judge_magic(bytes: &[u8]) -> Result<(), ElfError> {
    if bytes.is_empty() {
        return Err(ElfError::Empty);
    }
    let start = &bytes[..bytes.len().min(elf::ELFMAG.len())];
    if start == &elf::ELFMAG[..start.len()] {
        return Ok(());
    }
    if start.iter().all(|byte| *byte == 0) {
        return Err(ElfError::Zeros);
    }
    let sample = &bytes[..bytes.len().min(24)];
    let line = sample.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if !line.is_empty() && line.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte == b'\t')
    {
        return Err(ElfError::Text(line.escape_ascii().to_string()));
    }
    Err(ElfError::Foreign(hex(&sample[..sample.len().min(8)])))
}

fn judge_machine(bytes: &[u8]) -> Result<(), ElfError> {
    const HEADER: usize = size_of::<Header>();
    if bytes.len() < HEADER {
        let (needs, size) = (HEADER as u64, bytes.len() as u64);
        return Err(ElfError::Truncated { what: "its header", needs, size });
    }
    let other = |found: String, expected| Err(ElfError::OtherMachine { found, expected });
    let (class, order) = (bytes[4], bytes[5]);
    if class != CLASS.0 {
        let found = match class {
            elf::ELFCLASS32 => "a 32-bit machine".to_owned(),
            elf::ELFCLASS64 => "a 64-bit machine".to_owned(),
            class => format!("a machine of the unknown class {class}"),
        };
        return other(found, CLASS.1);
    }
    if order != ORDER.0 {
        let found = match order {
            elf::ELFDATA2LSB => "a little-endian machine".to_owned(),
            elf::ELFDATA2MSB => "a big-endian machine".to_owned(),
            order => format!("a machine of the unknown byte order {order}"),
        };
        return other(found, ORDER.1);
    }
    let header = Header::parse(bytes)?;
    let machine = header.e_machine(header.endian()?);
    if MACHINE.is_some_and(|ours| ours != machine) {
        return other(machine_name(machine), std::env::consts::ARCH);
    }
    Ok(())
}

fn machine_name(machine: u16) -> String {
    let known = match machine {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "aarch64",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC64 => "powerpc64",
        elf::EM_S390 => "s390x",
        elf::EM_LOONGARCH => "loongarch64",
        elf::EM_ARM => "arm",
        elf::EM_386 => "x86",
        elf::EM_MIPS => "mips",
        _ => return format!("the unknown ELF machine {machine}"),
    };
    known.to_owned()
}

/// Every table and every piece that the headers promise lies within the bytes. The section table comes last in what
/// linkers write, so that a copy that has it has all.
fn judge_complete(header: &Header, endian: Endianness, bytes: &[u8]) -> Result<(), ElfError> {
    let size = bytes.len() as u64;
    let within = |what: &'static str, offset: u64, length: u64| {
        let needs = offset.saturating_add(length);
        if needs > size { Err(ElfError::Truncated { what, needs, size }) } else { Ok(()) }
    };
    let offset = u64::from(header.e_phoff(endian));
    if offset != 0 {
        let length = u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
        within("its segment table", offset, length)?;
    }
    let offset = u64::from(header.e_shoff(endian));
    if offset != 0 {
        // A table of 65280 sections and more has its size in its first entry, which `sections` below reads.
        let count = u64::from(header.e_shnum(endian)).max(1);
        within("its section table", offset, count * u64::from(header.e_shentsize(endian)))?;
    }
    for segment in header.program_headers(endian, bytes)? {
        within("a segment", u64::from(segment.p_offset(endian)), u64::from(segment.p_filesz(endian)))?;
    }
    for section in header.section_headers(endian, bytes)? {
        if section.sh_type(endian) != elf::SHT_NOBITS && section.sh_type(endian) != elf::SHT_NULL {
            within("a section", u64::from(section.sh_offset(endian)), u64::from(section.sh_size(endian)))?;
        }
    }
    Ok(())
}

/// Reads the dynamic section through the segments, as the loader does; section headers may be stripped. Returns
/// whether it is an executable that only looks like a library (`DF_1_PIE`).
fn read_dynamic(
    header: &Header,
    endian: Endianness,
    bytes: &[u8],
    facts: &mut ElfFacts,
) -> Result<bool, ElfError> {
    let segments = header.program_headers(endian, bytes)?;
    let mut entries = None;
    for segment in segments {
        entries = entries.or(segment.dynamic(endian, bytes)?);
        if segment.p_type(endian) == elf::PT_TLS {
            facts.tls = u64::from(segment.p_memsz(endian));
        }
    }
    let Some(entries) = entries else { return Ok(false) };
    let end =
        entries.iter().position(|entry| entry.tag32(endian) == Some(elf::DT_NULL)).unwrap_or(entries.len());
    let entries = &entries[..end];
    let value = |tag: u32| {
        let entry = entries.iter().find(|entry| entry.tag32(endian) == Some(tag));
        entry.map(|entry| u64::from(entry.d_val(endian)))
    };
    let strings = match (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) {
        (Some(address), Some(size)) => string_table(segments, endian, bytes, address, size)?,
        _ => StringTable::default(),
    };
    let mut names = 0;
    for entry in entries {
        let Some(tag @ (elf::DT_NEEDED | elf::DT_SONAME | elf::DT_RPATH | elf::DT_RUNPATH)) =
            entry.tag32(endian)
        else {
            continue;
        };
        names += 1;
        if names > NAMES_LIMIT {
            return Err(ElfError::Damaged(format!(
                "it has more than {NAMES_LIMIT} names in its dynamic section"
            )));
        }
        let name = entry.val32(endian).and_then(|offset| strings.get(offset).ok());
        let name =
            name.ok_or_else(|| ElfError::Damaged("a name in its dynamic section is missing".to_owned()))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let directories = || name.split(':').filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect();
        match tag {
            elf::DT_NEEDED => facts.needed.push(name),
            elf::DT_SONAME => facts.soname = Some(name),
            elf::DT_RPATH => facts.rpath = directories(),
            _ => facts.runpath = directories(),
        }
    }
    facts.static_tls = value(elf::DT_FLAGS).is_some_and(|flags| flags & u64::from(elf::DF_STATIC_TLS) != 0);
    Ok(value(elf::DT_FLAGS_1).is_some_and(|flags| flags & u64::from(elf::DF_1_PIE) != 0))
}

fn string_table<'data>(
    segments: &[<Header as object::read::elf::FileHeader>::ProgramHeader],
    endian: Endianness,
    bytes: &'data [u8],
    address: u64,
    size: u64,
) -> Result<StringTable<'data>, ElfError> {
    for segment in segments {
        let start = u64::from(segment.p_vaddr(endian));
        let length = u64::from(segment.p_filesz(endian));
        let Some(inside) = address.checked_sub(start).filter(|inside| *inside < length) else { continue };
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        if size > length - inside {
            break;
        }
        // `judge_complete` found the segment within the bytes, so that these sums fit.
        let offset = u64::from(segment.p_offset(endian)) + inside;
        return Ok(StringTable::new(bytes, offset, offset + size));
    }
    Err(ElfError::Damaged("its string table lies outside of its segments".to_owned()))
}

/// Looks through the sections, then through the segments, which survive when section headers are stripped.
fn read_notes(
    header: &Header,
    endian: Endianness,
    bytes: &[u8],
    facts: &mut ElfFacts,
) -> Result<(), ElfError> {
    let sections = header.sections(endian, bytes)?;
    for section in sections.iter() {
        // A linker script may have changed the type: the name decides.
        let ours = sections.section_name(endian, section).is_ok_and(|name| name == SECTION);
        if ours || section.sh_type(endian) == elf::SHT_NOTE {
            let align = if section.sh_addralign(endian) == 8 { 8 } else { 4 };
            take_notes(endian, align, section.data(endian, bytes)?, facts)?;
        }
    }
    for segment in header.program_headers(endian, bytes)? {
        if segment.p_type(endian) != elf::PT_NOTE {
            continue;
        }
        let align = if segment.p_align(endian) == 8 { 8 } else { 4 };
        if let Ok(data) = segment.data(endian, bytes) {
            take_notes(endian, align, data, facts)?;
        }
    }
    Ok(())
}

fn take_notes(endian: Endianness, align: u32, data: &[u8], facts: &mut ElfFacts) -> Result<(), ElfError> {
    // Foreign notes need not be well formed; what follows a broken one cannot be found, and is not missed.
    let Ok(mut notes) = NoteIterator::<Header>::new(endian, align.into(), data) else { return Ok(()) };
    while let Ok(Some(note)) = notes.next() {
        let (owner, kind, text) = (note.name(), note.n_type(endian), note.desc());
        if owner == OWNER && kind == TYPE {
            if text.len() > NOTE_LIMIT {
                return Err(ElfError::Note("it is longer than 64 KiB"));
            }
            let text = std::str::from_utf8(text).map_err(|_| ElfError::Note("it is not UTF-8"))?;
            let found = Note::parse(text.trim_end_matches('\0'));
            match &mut facts.note {
                // Often the same one again: it is seen as a section and as part of a segment.
                Some(note) => note.join(found),
                None => facts.note = Some(found),
            }
        } else if owner == elf::ELF_NOTE_GNU && kind == elf::NT_GNU_BUILD_ID && facts.build_id.is_none() {
            facts.build_id = Some(hex(&text[..text.len().min(64)]));
        }
    }
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_library::{NOTE, compile, compiler_is_missing, library};
    use crate::temp_dir::TempDir;

    fn plugin(dir: &TempDir) -> Vec<u8> {
        let file = dir.join("libplugin.so");
        library(
            &file,
            NOTE,
            &["-Wl,--build-id=0xabcdef01", "-Wl,-rpath,$ORIGIN/lib:/opt/x", "-Wl,--enable-new-dtags"],
        );
        std::fs::read(file).unwrap()
    }

    /// As `strip --strip-section-headers` leaves it.
    fn without_sections(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        bytes
    }

    #[test]
    fn a_library_says_what_it_is_with_and_without_section_headers() {
        if compiler_is_missing("a_library_says_what_it_is_with_and_without_section_headers") {
            return;
        }
        let bytes = plugin(&TempDir::new("note"));
        let found = facts(&bytes).unwrap();
        let note = found.note.as_ref().unwrap();
        assert_eq!((note.get("kind"), note.get("abi"), note.get("no")), (Some("app"), Some("1.0"), None));
        assert_eq!(note.get("new-key"), Some("a=b"));
        let option = NoteOption {
            name: "depth".to_owned(),
            kind: "integer".to_owned(),
            default: "8".to_owned(),
            help: "how deep".to_owned(),
        };
        assert_eq!(note.options(), [option]);
        assert_eq!(found.soname.as_deref(), Some("libplugin.so"));
        assert_eq!(found.runpath, ["$ORIGIN/lib", "/opt/x"]);
        assert!(found.rpath.is_empty());
        assert!(found.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", found.needed);
        assert_eq!(found.build_id.as_deref(), Some("abcdef01"));
        if cfg!(target_pointer_width = "64") {
            assert_eq!(facts(&without_sections(bytes)), Ok(found));
        }
    }

    #[test]
    fn hooks_beside_an_application_are_one_more_thing_that_it_has() {
        let app = "kind=app\nname=shop\n";
        let hooks = "kind=hooks\nname=shop\nhooks=on_exit,\n";
        for (first, second) in [(app, hooks), (hooks, app)] {
            let mut note = Note::parse(first);
            // What is seen twice is there once.
            for text in [second, first, second] {
                note.join(Note::parse(text));
            }
            assert_eq!((note.get("kind"), note.get("hooks")), (Some("app"), Some("on_exit,")), "{note:?}");
            assert_eq!(note.lines.len(), 3, "{note:?}");
        }
    }

    #[test]
    fn every_part_of_a_library_is_incomplete() {
        if compiler_is_missing("every_part_of_a_library_is_incomplete") {
            return;
        }
        let bytes = plugin(&TempDir::new("note"));
        for length in 0..bytes.len() {
            let error = facts(&bytes[..length]).expect_err("a part is not the whole");
            assert!(error.may_pass(), "{length}: {error}");
            assert!(matches!(error, ElfError::Truncated { .. }) || length == 0, "{length}: {error}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let sentence = |bytes: &[u8]| facts(bytes).unwrap_err().to_string();
        assert!(sentence(b"").starts_with("it is empty"));
        assert!(
            sentence(b"#!/bin/sh\nexit")
                .starts_with("it is not an ELF file (it begins with text \"#!/bin/sh\")")
        );
        assert!(sentence(b"\xca\xfe\xba\xbe").contains("the bytes cafebabe"));
        assert_eq!(facts(&[0; 100]), Err(ElfError::Zeros));
        assert!(!facts(b"hello").unwrap_err().may_pass());
        let executable = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(facts(&executable), Err(ElfError::OtherType("an executable")));
        let mut other = executable.clone();
        other[18..20].copy_from_slice(&elf::EM_MIPS.to_ne_bytes());
        assert!(sentence(&other).contains("was built for mips, and this rgunicorn is "));
        let mut other = executable.clone();
        other[4] = if CLASS.0 == elf::ELFCLASS64 { elf::ELFCLASS32 } else { elf::ELFCLASS64 };
        assert!(sentence(&other).contains("-bit machine, and this rgunicorn is "));
        let mut other = executable;
        other[5] = if ORDER.0 == elf::ELFDATA2LSB { elf::ELFDATA2MSB } else { elf::ELFDATA2LSB };
        assert!(sentence(&other).contains("-endian machine, and this rgunicorn is "));
    }

    #[test]
    fn an_object_file_is_no_library() {
        if compiler_is_missing("an_object_file_is_no_library") {
            return;
        }
        let dir = TempDir::new("note");
        compile(&dir.join("x.o"), "int x;", &["-c"]);
        assert_eq!(
            facts(&std::fs::read(dir.join("x.o")).unwrap()),
            Err(ElfError::OtherType("an object file"))
        );
    }

    #[test]
    fn a_broken_note_is_an_error() {
        if compiler_is_missing("a_broken_note_is_an_error") {
            return;
        }
        let mut bytes = plugin(&TempDir::new("note"));
        let at = bytes.windows(9).position(|window| window == b"kind=app\n").unwrap();
        bytes[at] = 0xff;
        assert_eq!(facts(&bytes), Err(ElfError::Note("it is not UTF-8")));
    }

    #[test]
    fn a_note_longer_than_its_limit_is_an_error() {
        let mut note = Vec::new();
        for word in [10, NOTE_LIMIT as u32 + 1, TYPE] {
            note.extend_from_slice(&word.to_ne_bytes());
        }
        note.extend_from_slice(b"rgunicorn\0\0\0");
        note.resize(note.len() + NOTE_LIMIT + 4, b'x');
        let endian = if cfg!(target_endian = "little") { Endianness::Little } else { Endianness::Big };
        let error = take_notes(endian, 4, &note, &mut ElfFacts::default()).unwrap_err();
        assert_eq!(error, ElfError::Note("it is longer than 64 KiB"));
    }

    /// Fails by a panic, or by taking for ever.
    #[test]
    fn hostile_bytes_never_panic() {
        if compiler_is_missing("hostile_bytes_never_panic") {
            return;
        }
        let whole = plugin(&TempDir::new("note"));
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(6) {
                // Half of the changes hit the headers, where they matter most.
                let area = if random(2) == 0 { 0x400 } else { bytes.len() };
                let at = random(area.min(bytes.len() - 8));
                match random(3) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at..at + 8].fill(0xff),
                    _ => bytes[at..at + 8].copy_from_slice(&(random(1 << 20) as u64).to_ne_bytes()),
                }
            }
            refused += usize::from(facts(&bytes).is_err());
        }
        assert!(refused > 1000, "the changes hit nothing: {refused}");
    }
}
