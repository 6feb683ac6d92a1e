//! `skim targets`, `skim plan` and `skim doctor`.

use std::fs;

use serde_json::json;

use crate::harness::{CONTEXT, Folder, config_json, skim};

/// A device with a gigabyte a second, ten int8 multiply-adds a nanosecond, and little memory that an app may have.
const PROFILE: &str = r#"
title = "Tiny"
system = "android"
rust_target = "aarch64-linux-android"
[memory]
memory_gib = { value = 1, source = "a" }
bandwidth_gb_per_s = { value = 1, source = "a" }
bandwidth_is = "sustained"
[cpu]
isa = ["neon"]
isa_source = "a"
cores = [{ kind = "x", count = 1, source = "a" }]
int8_gigamacs_per_s = { value = 10, source = "a" }
[[limits]]
state = "foreground"
anonymous_gb = { value = 0.001, source = "a" }
rule = "a megabyte"
[[limits]]
state = "background"
anonymous_gb = { value = 0.0000001, source = "a" }
rule = "nothing"
[thermal]
class = "none"
[sources]
a = { cite = "made up", trust = "estimate" }
"#;

#[test]
fn targets_are_listed_and_shown() {
    let list = skim!["targets", "list", "--json"].json();
    let targets = list["targets"].as_array().unwrap();
    assert!(targets.len() >= 15);
    assert!(
        targets
            .iter()
            .any(|t| t["name"] == "pixel-8" && t["limits"].is_array())
    );
    let text = skim!["targets", "list"].text();
    assert!(
        text.contains("jetson-thor") && text.contains("273 GB/s"),
        "{text}"
    );

    let pixel = skim!["targets", "show", "pixel-8", "--json"].json();
    assert_eq!(pixel["memory"]["memory_gib"]["value"], 8.0);
    let source = pixel["memory"]["memory_gib"]["source"].as_str().unwrap();
    assert!(
        pixel["sources"][source]["cite"]
            .as_str()
            .unwrap()
            .starts_with("https://")
    );
    let text = skim!["targets", "show", "android-6gb"].text();
    assert!(
        text.contains("2.25 GB") && text.contains("third party"),
        "{text}"
    );

    skim!["targets", "show", "pixel-9000"].refused(&[
        "unknown target `pixel-9000`",
        "pixel-8",
        ".toml",
    ]);
}

#[test]
fn a_plan_says_what_fits_and_how_fast() {
    let folder = Folder::new();
    let model = folder.import("q8");
    let profile = folder.write("tiny.toml", PROFILE);
    let plan = skim![
        "plan", &model, "--target", &profile, "--prompt", "16", "--json"
    ]
    .json();
    let inspected = skim!["inspect", &model, "--json"].json();
    assert_eq!(
        plan["memory"]["anonymous"],
        inspected["memory"]["anonymous"]
    );
    assert_eq!(plan["memory"]["file_backed"], inspected["file_bytes"]);
    assert_eq!(plan["model"]["format"], "q8");
    assert_eq!(plan["context"], CONTEXT);
    // Under a megabyte and over 100 bytes.
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["fits_in_background"], false);
    assert_eq!(plan["largest_context"], CONTEXT);
    let background = &plan["checks"][2];
    assert_eq!(background["limit_bytes"], 100);
    let needed = background["needed_bytes"].as_u64().unwrap();
    assert_eq!(background["over_bytes"], needed - 100);
    let formats: Vec<_> = plan["alternatives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|other| other["format"].as_str().unwrap())
        .collect();
    assert_eq!(formats, ["f16", "q8", "q4"]);
    for rate in ["prefill", "decode"] {
        let rate = &plan[rate];
        let value = |name: &str| rate[name].as_f64().unwrap();
        assert!(0.0 < value("low") && value("low") <= value("tokens_per_s"));
        assert!(value("tokens_per_s") <= value("high"));
    }
    assert_eq!(plan["upper_bound"], false);
    assert_eq!(plan["measured"], json!(null));
    for route in plan["routes"].as_array().unwrap() {
        assert_eq!(route["tokens_from"], "assumption");
        assert!(route["ms"].as_f64().unwrap() > 0.0);
    }
    let text = skim!["plan", &model, "--target", &profile].text();
    assert!(
        text.contains("fits: the longest context") && text.contains("must shrink"),
        "{text}"
    );
    // Nothing is said about speed where the profile has no bandwidth.
    let text = skim!["plan", &model, "--target", "pixel-8"].text();
    assert!(
        text.contains("decode: unknown") && text.contains("memory bandwidth"),
        "{text}"
    );
}

#[test]
fn what_does_not_fit_is_told_by_how_much() {
    let folder = Folder::new();
    let model = folder.import("q8");
    // The anonymous bytes of 32 positions, exactly.
    let room = skim!["inspect", &model, "--context", "32", "--json"].json()["memory"]["anonymous"]
        .as_u64()
        .unwrap();
    let limit = format!("value = {}", room as f64 / 1e9);
    let text = PROFILE.replace("value = 0.001", &limit);
    let profile = folder.write("small.toml", &text);
    let plan = skim!["plan", &model, "--target", &profile, "--json"].json();
    assert_eq!(plan["fits"], false);
    let longest = plan["largest_context"].as_u64().unwrap();
    assert!((1..CONTEXT as u64).contains(&longest), "{longest}");
    let over = plan["checks"][1]["over_bytes"].as_u64().unwrap();
    assert_eq!(over, plan["memory"]["anonymous"].as_u64().unwrap() - room);
    let longest = longest.to_string();
    let plan = skim![
        "plan",
        &model,
        "--target",
        &profile,
        "--context",
        &longest,
        "--json"
    ]
    .json();
    assert_eq!(plan["fits"], true);
    let text = skim!["plan", &model, "--target", &profile].text();
    assert!(
        text.contains(" over: a megabyte") && text.contains("does not fit"),
        "{text}"
    );
}

#[test]
fn a_card_says_how_long_answers_are() {
    let folder = Folder::new();
    let model = folder.import("q8");
    let bytes = fs::metadata(&model).unwrap().len();
    let card = |bytes: u64| {
        json!({"bundle": {"bytes": bytes}, "routes": {"cot":
            {"mean_generated_tokens": 40.5, "mean_latent_steps": 0.0, "accuracy": 1.0}}})
    };
    let profile = folder.write("tiny.toml", PROFILE);
    let right = folder.write("right.json", card(bytes).to_string());
    let plan = skim![
        "plan", &model, "--target", &profile, "--card", right, "--json"
    ]
    .json();
    let routes = plan["routes"].as_array().unwrap();
    let cot = routes.iter().find(|route| route["name"] == "cot").unwrap();
    assert_eq!(
        (&cot["tokens_from"], &cot["generated_tokens"]),
        (&json!("card"), &json!(40.5))
    );
    let wrong = folder.write("wrong.json", card(bytes + 1).to_string());
    skim!["plan", &model, "--target", &profile, "--card", wrong].refused(&["is of a bundle of"]);
}

#[test]
fn plans_of_a_shape_and_refusals() {
    let folder = Folder::new();
    let model = folder.import("f32");
    let config = folder.write("config.json", config_json().to_string());
    let plan = skim!["plan", &config, "--target", "raspberry-pi-5-8gb", "--json"].json();
    assert_eq!(
        (&plan["model"]["format"], &plan["upper_bound"]),
        (&json!("q4"), &json!(true))
    );
    // Prefill of float weights has no measurement to predict from.
    let plan = skim!["plan", &model, "--target", "raspberry-pi-5-8gb", "--json"].json();
    assert_eq!(
        (&plan["kv"], &plan["prefill"]),
        (&json!("f32"), &json!(null))
    );

    skim!["plan", &model, "--target", "toaster"]
        .refused(&["unknown target `toaster`", "iphone-13"]);
    skim!["plan", &model, "--target", "iphone-13", "--context", "97"].refused(&["97", "96"]);
    skim!["plan", &model, "--target", "iphone-13", "--quant", "q4"].refused(&["--quant"]);
    skim!["plan", &config, "--target", "iphone-13", "--measure"].refused(&["skim synth"]);
    // No machine that runs these tests is a phone.
    skim![
        "plan",
        &model,
        "--target",
        "iphone-13",
        "--measure",
        "--prompt",
        "8"
    ]
    .refused(&["is not of the target's class"]);
    skim!["plan", "absent.skim", "--target", "iphone-13"].refused(&["absent.skim"]);
    let broken = folder.write("broken.toml", "title = 3");
    skim!["plan", &model, "--target", &broken].refused(&["broken.toml"]);
}

#[test]
fn the_doctor_looks_at_machine_and_bundle() {
    let report = skim!["doctor", "--json"].json();
    assert!(report["machine"]["cores"].as_u64().unwrap() >= 1);
    assert!(report["machine"]["kernels"].is_string());
    assert_eq!(report["bundle"], json!(null));

    let folder = Folder::new();
    let model = folder.import("q8");
    let report = skim!["doctor", &model, "--json"].json();
    assert_eq!(report["bundle"]["verified"], true);
    assert_eq!(report["bundle"]["context"], CONTEXT);
    assert!(report["bundle"]["anonymous"].as_u64().unwrap() > 0);
    assert!(skim!["doctor", &model].text().contains("every checksum"));

    let mut bytes = fs::read(&model).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let damaged = folder.write("damaged.skim", bytes);
    let called = skim!["doctor", damaged];
    assert_eq!(called.status, Some(2), "{called:?}");
    assert!(called.stdout.contains("wrong"), "{called:?}");
    assert!(called.stderr.starts_with("error: "), "{called:?}");
}
