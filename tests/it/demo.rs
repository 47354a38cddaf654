//! The demo is the first thing that people run.
use std::process::Command;

#[test]
fn the_walk_succeeds_and_shows_no_token() {
    let output = Command::new(env!("CARGO_BIN_EXE_idjag-proxy")).args(["demo", "--once"]).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" 0 failed"), "{text}");
    let token = |word: &&str| word.starts_with("eyJ") && word.matches('.').count() == 2;
    assert_eq!(text.split_whitespace().find(token), None, "a whole token was printed");
}
