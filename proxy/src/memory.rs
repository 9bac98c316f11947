//! Gives back the memory of code that only starting needs.
//!
//! Reading YAML, checking and compiling rules, decoding xDS: most of the program's code runs once, at the start, and its
//! pages would count as this process's for ever (9 of 14 MB). They are pages of the file, so the kernel may forget the
//! mapping and read it again when somebody comes by; what requests use is back after a few dozen faults.
//!
//! This is the one file with `unsafe`. What makes it sound:
//! * only mappings that are executable and not writable are named (`r-xp`), read from the kernel's own list;
//! * such a mapping of a file holds nothing but the file's bytes: the code is position independent, relocations are in
//!   other segments, and nobody writes to code. So a page that is read again is the same page;
//! * `MADV_DONTNEED` neither unmaps nor moves anything: every address stays valid, and pages may go at any time anyway
//!   when memory is short.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};

/// Forgets the pages of code, in the whole process. Best effort: a failure costs memory and nothing else.
pub fn forget_code() {
    let maps = match std::fs::read_to_string("/proc/self/maps") {
        Ok(maps) => maps,
        Err(error) => return tracing::debug!(%error, "the list of mappings cannot be read"),
    };
    for (start, length) in maps.lines().filter_map(code) {
        forget(start, length);
    }
}

/// A mapping of code from a file: `START-END r-xp OFFSET DEVICE INODE /path`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (permissions, path) = (words.next()?, words.nth(3)?);
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (permissions == "r-xp" && path.starts_with('/') && start < end).then_some((start, end - start))
}

#[allow(unsafe_code)]
fn forget(start: usize, length: usize) {
    let address: *mut c_void = std::ptr::without_provenance_mut(start);
    // SAFETY: see the top of this file: the range is a read-only mapping of code from a file.
    if let Err(error) = unsafe { madvise(address, length, Advice::LinuxDontNeed) } {
        tracing::debug!(%error, "a mapping of code stays in memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_named() {
        let rows = [
            ("55d0c0000000-55d0c0b00000 r-xp 003df000 fe:00 1234   /usr/bin/leno-proxy", Some(0xb0_0000)),
            ("55d0c0000000-55d0c0b00000 r--p 003df000 fe:00 1234   /usr/bin/leno-proxy", None),
            ("55d0c0000000-55d0c0b00000 rwxp 003df000 fe:00 1234   /usr/bin/leno-proxy", None),
            ("7ffd1a5f2000-7ffd1a5f4000 r-xp 00000000 00:00 0      [vdso]", None),
            ("7f0000000000-7f0000001000 r-xp 00000000 00:00 0", None),
            ("nonsense", None),
        ];
        for (line, expected) in rows {
            assert_eq!(code(line).map(|(_, length)| length), expected, "{line}");
        }
    }

    #[test]
    fn the_program_goes_on_after_it_forgot_its_code() {
        forget_code();
        let text: String = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(text.len(), 190);
    }
}
