#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| longshore::kubelet::server::fuzzing::headers(bytes));
