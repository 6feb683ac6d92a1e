//! Ctrl-C: what is there is printed, and the status says why it is not all.
#![cfg(unix)]

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Folder, command};

fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Runs `args`, interrupts it after a while, and returns its status and what it printed.
fn interrupted(args: &[std::ffi::OsString], wait: Duration) -> (Option<i32>, String) {
    let mut command = command(args);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(wait);
    interrupt(&child);
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn an_interrupt_ends_an_evaluation_with_what_was_counted() {
    let folder = Folder::new();
    let model = folder.import("f32");
    let row = json!({"question": "how much sleep", "answer": "x"}).to_string() + "\n";
    // Hours of questions: it does not end by itself.
    let rows = folder.write("rows.jsonl", row.repeat(50_000));
    let args: [std::ffi::OsString; 6] = [
        "eval".into(),
        model.into(),
        rows.into(),
        "--route".into(),
        "cot".into(),
        "--json".into(),
    ];
    // However slow this machine is: until something was counted.
    for seconds in [2, 8, 30] {
        let (status, text) = interrupted(&args, Duration::from_secs(seconds));
        assert_eq!(status, Some(130), "{text}");
        if let Ok(report) = serde_json::from_str::<Value>(&text) {
            let n = report["n"].as_u64().unwrap();
            assert!(n > 0 && n < 50_000, "{n}");
            assert_eq!(report["routes"].as_object().unwrap().len(), 1);
            return;
        }
        assert_eq!(text, "");
    }
    panic!("nothing was counted in half a minute");
}
