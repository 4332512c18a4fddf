//! A command whose reader has gone, as that of `longshore crds | head -1`, ends without a word.

use std::process::{Command, Stdio};

#[test]
fn who_reads_no_further_ends_a_command_without_a_word() {
    for command in [&["crds"][..], &["completion", "bash"], &["version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut longshore = Command::new(env!("CARGO_BIN_EXE_longshore"));
        let output = longshore.args(command).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
        assert_eq!(output.status.code(), Some(141), "{command:?}");
    }
}
