//! Enough of the tar format to write image layers: directories, files and links, all owned by root.

const BLOCK: usize = 512;

/// A tar archive in memory. Times are zero, so that equal contents give equal archives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(crate) fn dir(&mut self, path: &str, mode: u32) {
        self.entry(&format!("{path}/"), b'5', "", &[], mode);
    }

    pub(crate) fn file(&mut self, path: &str, contents: &[u8], mode: u32) {
        self.entry(path, b'0', "", contents, mode);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, b'2', target, &[], 0o777);
    }

    /// The archive's bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, kind: u8, target: &str, contents: &[u8], mode: u32) {
        if path.len() > 100 || target.len() > 100 {
            self.long_names(path, target);
        }
        self.block(path, kind, target, contents, mode);
    }

    /// Names over 100 bytes go into a header of their own (pax), before the entry.
    fn long_names(&mut self, path: &str, target: &str) {
        let mut records = pax_record("path", path);
        if !target.is_empty() {
            records += &pax_record("linkpath", target);
        }
        self.block("pax", b'x', "", records.as_bytes(), 0o644);
    }

    fn block(&mut self, path: &str, kind: u8, target: &str, contents: &[u8], mode: u32) {
        let mut header = [0u8; BLOCK];
        put(&mut header, 0, 100, path);
        put(&mut header, 100, 8, &format!("{mode:07o}"));
        put(&mut header, 108, 8, "0000000");
        put(&mut header, 116, 8, "0000000");
        put(&mut header, 124, 12, &format!("{:011o}", contents.len()));
        put(&mut header, 136, 12, "00000000000");
        // The checksum is taken with its own field full of blanks.
        put(&mut header, 148, 8, "        ");
        header[156] = kind;
        put(&mut header, 157, 100, target);
        put(&mut header, 257, 8, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, 8, &format!("{sum:06o}\0 "));
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

/// Writes `text` into a field, cut to its size.
fn put(header: &mut [u8; BLOCK], at: usize, size: usize, text: &str) {
    let length = text.len().min(size);
    header[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command};

    use super::*;

    #[test]
    fn pax_records_count_their_own_length() {
        assert_eq!(pax_record("path", "abc"), "12 path=abc\n");
        assert_eq!(pax_record("path", &"a".repeat(90)).len(), 100 - 1);
        assert_eq!(pax_record("path", &"a".repeat(91)).len(), 101);
    }

    #[test]
    fn the_tar_program_agrees() {
        let long = format!("deep/{}", "x".repeat(120));
        let mut tar = Tar::default();
        tar.dir("deep", 0o1777);
        tar.file("deep/file", b"contents", 0o640);
        tar.link("deep/link", "file");
        tar.file(&long, b"", 0o600);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&tar.finish()).unwrap();
        let output = Command::new("tar").args(["-tvf"]).arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = listing.lines().collect();
        assert!(lines[0].starts_with("drwxrwxrwt 0/0") && lines[0].ends_with("deep/"), "{listing}");
        assert!(lines[1].starts_with("-rw-r----- 0/0") && lines[1].contains(" 8 "), "{listing}");
        assert!(lines[2].ends_with("deep/link -> file"), "{listing}");
        assert!(lines[3].ends_with(&long), "{listing}");
    }
}
