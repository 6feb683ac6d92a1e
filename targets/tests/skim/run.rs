//! `skim run`.

use serde_json::Value;

use crate::harness::{CONTEXT, END_OF_THINKING, Folder, THINK, command, ids, skim};

#[test]
fn json_is_one_object_with_everything() {
    let folder = Folder::without_template();
    let model = folder.import("f32");
    let report = skim![
        "run",
        model,
        "how much sleep",
        "--route",
        "cot",
        "--budget-tokens",
        "40",
        "--threads",
        "1",
        "--json"
    ]
    .json();

    assert_eq!(report["route"], "cot");
    assert_eq!(ids(&report["prompt_ids"]), [5, 6, 7, THINK]);
    let generated = ids(&report["generated_ids"]);
    assert_eq!(ids(&report["ids"]), generated);
    assert!(generated.contains(&END_OF_THINKING), "{report}");
    let usage = &report["usage"];
    let count = |name: &str| {
        usage[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {usage}"))
    };
    // A stop token is counted, but is not part of the text.
    let stops = count("generated_tokens") - generated.len() as u64;
    assert!(stops <= 1 && count("generated_tokens") <= 40, "{report}");
    assert_eq!(
        count("generated_tokens"),
        count("thinking_tokens") + count("answer_tokens")
    );
    assert_eq!(count("prompt_tokens"), 4);
    assert_eq!(count("prompt_layer_passes"), 4 * 2);
    for name in ["latent_steps", "layer_passes", "head_passes", "kv_bytes"] {
        count(name);
    }
    for name in ["ms_prefill", "ms_thinking", "ms_answer"] {
        assert!(usage[name].as_f64().unwrap() >= 0.0, "{name}");
    }
    assert!(report["text"].is_string() && report["thinking"].is_string());
    assert!(["stop", "length", "budget"].contains(&report["finish_reason"].as_str().unwrap()));
    assert_eq!(report["decisions"][0]["choice"]["route"], "cot");
    assert_eq!(report["seed"], 0);
    assert_eq!(report["temperature"], 0.0);
    assert_eq!(report["threads"], 1);
    assert!(!report["kernels"].as_str().unwrap().is_empty());
}

#[test]
fn plain_output_is_thinking_then_answer() {
    let folder = Folder::without_template();
    let model = folder.import("f32");
    let args = [
        "run",
        "how much sleep",
        "--budget-tokens",
        "30",
        "--max-tokens",
        "30",
    ];
    let call = |json: &[&str]| {
        let mut all = vec![args[0].into(), model.clone().into_os_string()];
        all.extend(args[1..].iter().chain(json).map(Into::into));
        crate::harness::Called::new(all)
    };
    let report = call(&["--json"]).json();
    let called = call(&[]);
    assert!(called.stderr.contains("cot · "), "{called:?}");
    let (thinking, text) = (
        report["thinking"].as_str().unwrap(),
        report["text"].as_str().unwrap(),
    );
    assert!(!thinking.is_empty(), "{report}");
    // A chunk that the budget ended at once has no text.
    let thinking = thinking.trim_end();
    assert_eq!(called.text(), format!("{thinking}\n\n{text}\n"));
}

#[test]
fn a_chat_template_is_applied_once_and_not_with_raw() {
    let folder = Folder::new();
    let model = folder.import("f32");
    // The template says `hi`, which the vocabulary does not have.
    let report = skim![
        "run",
        model,
        "sleep",
        "--route",
        "direct",
        "--max-tokens",
        "3",
        "--json"
    ]
    .json();
    assert_eq!(ids(&report["prompt_ids"]), [0, 7, THINK, END_OF_THINKING]);
    let report = skim![
        "run",
        model,
        "sleep",
        "--raw",
        "--max-tokens",
        "3",
        "--json"
    ]
    .json();
    assert_eq!(ids(&report["prompt_ids"]), [7]);
    let report = skim![
        "run",
        model,
        "--tokens",
        "7",
        "--route",
        "direct",
        "--max-tokens",
        "3",
        "--json"
    ]
    .json();
    assert_eq!(ids(&report["prompt_ids"]), [7, THINK, END_OF_THINKING]);
}

#[test]
fn raw_ids_begin_with_the_prompt() {
    let folder = Folder::new();
    let model = folder.import("q8");
    let report = skim![
        "run",
        model,
        "--tokens",
        "1,5,6",
        "--raw",
        "--max-tokens",
        "7",
        "--json"
    ]
    .json();
    let generated = ids(&report["generated_ids"]);
    assert_eq!(
        ids(&report["ids"]),
        [&[1, 5, 6], generated.as_slice()].concat()
    );
    assert_eq!(report["route"], Value::Null);
    assert_eq!(report["decisions"], Value::Array(Vec::new()));
    assert!(report["usage"]["generated_tokens"].as_u64().unwrap() <= 7);
    assert_eq!(report["usage"]["prompt_tokens"], 3);

    // Without --max-tokens it goes on to the end of the context.
    let report = skim!["run", model, "--tokens", "1,5,6", "--raw", "--json"].json();
    let (all, reason) = (
        ids(&report["ids"]).len(),
        report["finish_reason"].as_str().unwrap(),
    );
    assert!(
        reason == "stop" || (reason == "length" && all == CONTEXT + 1),
        "{report}"
    );
}

#[test]
fn the_seed_decides() {
    let folder = Folder::new();
    let model = folder.import("f32");
    let draw = |seed: &str| {
        let report = skim![
            "run",
            model,
            "--tokens",
            "5",
            "--raw",
            "--temperature",
            "1.5",
            "--seed",
            seed,
            "--max-tokens",
            "40",
            "--json"
        ]
        .json();
        assert_eq!(report["seed"].to_string(), seed);
        ids(&report["ids"])
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn budgets_hold() {
    let folder = Folder::without_template();
    let model = folder.import("q4");
    for budget in ["2", "3", "10", "33"] {
        for option in ["--budget-tokens", "--max-tokens"] {
            let report = skim![
                "run", model, "how much", "--route", "cot", option, budget, "--json"
            ]
            .json();
            let most: u64 = budget.parse().unwrap();
            assert!(
                report["usage"]["generated_tokens"].as_u64().unwrap() <= most,
                "{report}"
            );
            assert!(
                report["usage"]["answer_tokens"].as_u64().unwrap() >= 1,
                "{report}"
            );
        }
    }
    skim![
        "run",
        model,
        "how",
        "--route",
        "cot",
        "--budget-tokens",
        "1"
    ]
    .refused(&["a budget of 1 generated tokens", "needs at least 2"]);
    let report = skim!["run", model, "how", "--budget-ms", "1", "--json"].json();
    assert!(report["usage"]["answer_tokens"].as_u64().unwrap() >= 1);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let folder = Folder::new();
    let model = folder.import("q8");
    skim!["run", model, "sleep", "--route", "skip"]
        .refused(&["unknown route `skip`", "cot, direct"]);
    let long = vec!["sleep"; 100].join(" ");
    skim!["run", model, long, "--route", "direct"].refused(&[
        "the prompt has 103 tokens",
        "the context is 96",
        "hint:",
    ]);
    skim!["run", model, long, "--raw"].refused(&["the prompt has 100 tokens", "the context is 96"]);
    skim!["run", model, "sleep", "--context", "97"].refused(&["97", "1 to 96"]);
    skim!["run", model, "--tokens", "64"].refused(&["token 64", "vocabulary of 64"]);
    skim!["run", model, "--tokens", "64", "--raw"].refused(&["token 64", "vocabulary of 64"]);
    skim!["run", model, "--tokens", "1,x"].refused(&["'x'", "--tokens"]);
    skim!["run", model, "", "--raw"].refused(&["empty prompt"]);
    skim!["run", model].refused(&["PROMPT"]);
    skim!["run", model, "a", "--tokens", "1"].refused(&["cannot be used with"]);
    skim!["run", model, "a", "--raw", "--route", "cot"].refused(&["cannot be used with"]);
    skim!["run", model, "a", "--temperature=-1"].refused(&["temperature"]);
    skim!["run", model, "a", "--max-tokens", "0"].refused(&["at least 1"]);
    skim!["run", folder.path("no.skim"), "a"].refused(&["no.skim", "No such file"]);
    skim!["run", folder.path("hf"), "a"].refused(&["hf"]);
}

#[test]
fn id_only_models_speak_in_ids() {
    let folder = Folder::new();
    let model = folder.path("ids.skim");
    skim!["import", folder.path("hf"), model, "--no-tokenizer"].text();
    skim!["run", model, "sleep"].refused(&["no tokenizer", "hint:"]);
    let report = skim![
        "run",
        model,
        "--tokens",
        "5",
        "--raw",
        "--max-tokens",
        "4",
        "--json"
    ]
    .json();
    let plain = skim!["run", model, "--tokens", "5", "--raw", "--max-tokens", "4"].text();
    let shown: Vec<u64> = plain
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(shown, ids(&report["generated_ids"]));
    assert_eq!(report["text"], "");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    let model = folder.import("q8");
    let args = [
        "run".into(),
        model.into_os_string(),
        "--tokens".into(),
        "5".into(),
        "--raw".into(),
    ];
    let mut child = command(&args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !stderr.contains("panicked") && !stderr.contains("error"),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    use std::io::Write;
    let folder = Folder::without_template();
    let model = folder.import("q8");
    let args = [
        "run".into(),
        model.into_os_string(),
        "-".into(),
        "--max-tokens".into(),
        "3".into(),
        "--json".into(),
    ];
    let mut child = command(&args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"how much").unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ids(&report["prompt_ids"])[..2], [5, 6]);
}
