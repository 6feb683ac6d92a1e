//! `skim eval`, `skim bench` and `skim logits`.

use std::fs;
use std::io::Write;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::harness::{CONTEXT, Folder, VOCAB, ids, skim};

/// Questions whose right answers are what the model says, but for every third.
fn rows(model: &std::path::Path, route: &str) -> String {
    let questions = [
        "how",
        "much",
        "sleep",
        "how much",
        "how sleep",
        "much sleep",
    ];
    let rows = questions.iter().enumerate().map(|(i, question)| {
        let said = skim!["run", model, *question, "--route", route, "--json"].json();
        let answer = match i % 3 {
            2 => "wrong".to_owned(),
            _ => format!("  {} ", said["text"].as_str().unwrap()),
        };
        let kind = if i < 4 { "short" } else { "long" };
        json!({"question": question, "answer": answer, "kind": kind, "id": i}).to_string() + "\n"
    });
    rows.collect()
}

fn number(report: &Value, name: &str) -> f64 {
    report[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no number `{name}` in {report}"))
}

#[test]
fn eval_counts_and_costs() {
    let folder = Folder::new();
    let model = folder.import("f32");
    let rows = rows(&model, "cot");
    let plain = folder.write("rows.jsonl", &rows);
    let report = skim![
        "eval",
        model,
        plain,
        "--route",
        "cot",
        "--threads",
        "1",
        "--json"
    ]
    .json();
    assert_eq!(report["n"], 6);
    assert!((number(&report, "accuracy") - 4.0 / 6.0).abs() < 1e-12);
    let interval = report["interval"].as_array().unwrap();
    // Wilson's interval of 4 of 6.
    assert!(
        (interval[0].as_f64().unwrap() - 0.29999).abs() < 1e-4,
        "{report}"
    );
    assert!(
        (interval[1].as_f64().unwrap() - 0.90323).abs() < 1e-4,
        "{report}"
    );
    assert!(number(&report, "mean_generated_tokens") >= 1.0);
    assert_eq!(number(&report, "mean_latent_steps"), 0.0);
    for name in ["mean_layer_passes", "mean_head_passes", "p50_ms", "p95_ms"] {
        assert!(number(&report, name) > 0.0, "{name}");
    }
    assert!(number(&report, "p50_ms") <= number(&report, "p95_ms"));
    assert_eq!(report["route"], "cot");
    assert_eq!(report["by_kind"]["short"]["n"], 4);
    assert_eq!(report["by_kind"]["long"]["n"], 2);
    assert_eq!(number(&report["by_kind"]["short"], "accuracy"), 0.75);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(rows.as_bytes()).unwrap();
    let packed = folder.write("rows.jsonl.gz", gzip.finish().unwrap());
    let again = skim!["eval", model, packed, "--route", "cot", "--json"].json();
    assert_eq!(again["mean_layer_passes"], report["mean_layer_passes"]);
    let limited = skim![
        "eval", model, packed, "--route", "cot", "--limit", "2", "--json"
    ]
    .json();
    assert_eq!(
        (limited["n"].as_u64(), number(&limited, "accuracy")),
        (Some(2), 1.0)
    );

    let table = skim!["eval", model, plain, "--route", "cot"].text();
    for word in ["short", "long", "66.67 %", "75.00 %", "cot"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
}

#[test]
fn eval_names_the_malformed_row() {
    let folder = Folder::new();
    let model = folder.import("q8");
    let good = r#"{"question":"how","answer":"w9"}"#;
    let cases = [
        (r#"{"question":"how"}"#, "field `answer`: is missing"),
        (r#"{"answer":"how"}"#, "field `question`: is missing"),
        (
            r#"{"question":["how"],"answer":"w9"}"#,
            "field `question`: expected a string, found a list",
        ),
        (r#"{"question":"how","answer""#, "not JSON"),
    ];
    for (bad, message) in cases {
        let rows = folder.write("rows.jsonl", format!("{good}\n\n{bad}\n{good}\n"));
        skim!["eval", model, rows, "--json"].refused(&["rows.jsonl: line 3", message]);
        // What is not read is not judged.
        assert_eq!(
            skim!["eval", model, rows, "--limit", "1", "--json"].json()["n"],
            1
        );
    }
    let long = vec!["how"; 200].join(" ");
    let rows = folder.write(
        "rows.jsonl",
        format!("{good}\n{}\n", json!({"question": long, "answer": ""})),
    );
    skim!["eval", model, rows].refused(&["rows.jsonl: line 2", "tokens", "context is 96"]);
    let rows = folder.write("rows.jsonl", "\n");
    skim!["eval", model, rows].refused(&["rows.jsonl", "no rows"]);
    skim!["eval", model, folder.path("none.jsonl")].refused(&["none.jsonl"]);
    let rows = folder.write("rows.jsonl", good);
    skim!["eval", model, rows, "--route", "skip"].refused(&["unknown route `skip`", "cot, direct"]);
}

#[test]
fn bench_reports_rates_and_bytes() {
    let folder = Folder::new();
    let model = folder.import("q4");
    let report = skim![
        "bench",
        model,
        "--prompt",
        "24",
        "--gen",
        "8",
        "--depth",
        "16",
        "--threads",
        "1",
        "--reps",
        "2",
        "--json"
    ]
    .json();
    for name in ["prefill_tokens_per_s", "decode_tokens_per_s", "load_ms"] {
        let value = number(&report, name);
        let spread = &report["spread"][name];
        let (a, b) = (spread[0].as_f64().unwrap(), spread[1].as_f64().unwrap());
        assert!(
            value > 0.0 && a.min(b) <= value && value <= a.max(b),
            "{name}: {report}"
        );
    }
    if cfg!(target_os = "linux") {
        let (peak, anonymous) = (
            number(&report, "peak_rss_bytes"),
            number(&report, "anonymous_rss_bytes"),
        );
        assert!(0.0 < anonymous && anonymous <= peak, "{report}");
    }
    for (name, value) in [
        ("prompt", 24),
        ("gen", 8),
        ("depth", 16),
        ("reps", 2),
        ("threads", 1),
    ] {
        assert_eq!(report[name], value, "{name}");
    }

    // The defaults are cut to the context; what was asked for is not.
    let report = skim!["bench", model, "--depth", "90", "--reps", "1", "--json"].json();
    assert_eq!(
        (report["prompt"].as_u64(), report["gen"].as_u64()),
        (Some(6), Some(6))
    );
    skim!["bench", model, "--prompt", "97"].refused(&["97", "the context is 96"]);
    skim!["bench", model, "--depth", "96"].refused(&["97", "the context is 96"]);
    skim!["bench", model, "--gen", "10", "--depth", "90"].refused(&["100", "the context is 96"]);
    let text = skim!["bench", model, "--reps", "1"].text();
    assert!(text.contains("prefill") && text.contains("tok/s"), "{text}");
}

#[test]
fn logits_after_every_token() {
    let folder = Folder::new();
    let model = folder.import("f32");
    let out = folder.path("logits.safetensors");
    let tokens = "1,5,6,7,9";
    assert_eq!(
        skim!["logits", model, "--tokens", tokens, "--out", out].text(),
        ""
    );
    let bytes = fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["logits"]);
    let logits = file.tensor("logits").unwrap();
    assert_eq!(logits.dtype(), safetensors::Dtype::F32);
    assert_eq!(logits.shape(), [5, VOCAB]);
    let values = logits.data().chunks_exact(4);
    let values: Vec<f32> = values
        .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
        .collect();
    let best = |row: usize| {
        let row = &values[row * VOCAB..][..VOCAB];
        (0..VOCAB).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as u64
    };
    // The most likely token after each prefix is what greedy generation takes.
    for (last, prefix) in [(1, "1,5"), (4, tokens)] {
        let report = skim![
            "run",
            model,
            "--tokens",
            prefix,
            "--raw",
            "--max-tokens",
            "1",
            "--json"
        ]
        .json();
        match ids(&report["generated_ids"]).as_slice() {
            [] => assert_eq!(best(last), 2, "an end token is not shown"),
            generated => assert_eq!(generated, [best(last)]),
        }
    }

    fs::remove_file(&out).unwrap();
    let many = vec!["5"; CONTEXT + 1].join(",");
    skim!["logits", model, "--tokens", many, "--out", out].refused(&["97", "context is 96"]);
    skim!["logits", model, "--tokens", "1,64", "--out", out].refused(&["token 64", "64"]);
    skim![
        "logits",
        model,
        "--tokens",
        "1",
        "--out",
        folder.path("no/out.safetensors")
    ]
    .refused(&["out.safetensors"]);
    assert_eq!(folder.names(), ["f32.skim", "hf"]);
}
