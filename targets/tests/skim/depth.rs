//! How deep tokens run: `skim calibrate-exits`, `--depth`, `--exit-threshold`, `--draft`.

use serde_json::Value;
use skimstone::{Bundle, ExitMeasure, MissingKv, RouteDepth};

use crate::effort::{number, student};
use crate::harness::{Folder, skim};

/// The fields that must not change where only costs may.
fn result(score: &Value) -> Vec<&Value> {
    ["accuracy", "mean_generated_tokens", "mean_thinking_tokens"]
        .map(|field| &score[field])
        .to_vec()
}

#[test]
fn calibrated_exits_do_what_the_calibration_said() {
    let folder = Folder::without_template();
    let (model, rows) = student(&folder);
    let out = folder.path("exits.skim");
    let full = skim!["eval", model, rows, "--route", "cot", "--json"].json();
    for (measure, missing) in [("softmax", "propagate"), ("saturation", "ragged")] {
        // All may be lost, so that there is a threshold: random weights know nothing after one layer.
        let report = skim![
            "calibrate-exits",
            model,
            rows,
            "--out",
            out,
            "--route",
            "cot",
            "--measure",
            measure,
            "--missing-kv",
            missing,
            "--risk",
            "0.99",
            "--json"
        ]
        .json();
        assert_eq!(report["n"], 21);
        assert_eq!(result(&report["full"]), result(&full));
        let points = report["points"].as_array().unwrap();
        assert_eq!((points.len(), report["safe"].as_u64()), (28, Some(28)));
        let chosen = &report["chosen"];
        let layers = |score: &Value| number(&score["mean_layer_passes"]);
        assert!(layers(&chosen["score"]) < layers(&full));
        let least = points.iter().map(|point| layers(&point["score"]));
        assert_eq!(layers(&chosen["score"]), least.fold(f64::MAX, f64::min));

        // Off until it is asked for; then it is what was measured.
        let off = skim!["eval", out, rows, "--route", "cot", "--json"].json();
        assert_eq!(result(&off), result(&full));
        assert_eq!(off["mean_exits"], 0.0);
        let on = skim![
            "eval", out, rows, "--route", "cot", "--depth", "exits", "--json"
        ]
        .json();
        assert_eq!(result(&on), result(&chosen["score"]));
        for cost in ["mean_layer_passes", "mean_head_passes", "mean_kv_passes"] {
            assert_eq!(on[cost], chosen["score"][cost], "{cost}");
        }
        assert!(number(&on["mean_exits"]) > 0.0);
        assert_eq!(number(&on["mean_kv_passes"]) > 0.0, missing == "propagate");

        let (old, new) = (Bundle::open(&model).unwrap(), Bundle::open(&out).unwrap());
        for tensor in old.tensors() {
            assert_eq!(new.data(tensor.name()), old.data(tensor.name()));
        }
        let exits = new.reasoning().exits.clone().unwrap();
        assert_eq!(
            (exits.layers.as_slice(), exits.measure, exits.missing_kv),
            (
                &[1][..],
                ExitMeasure::from_name(measure).unwrap(),
                MissingKv::from_name(missing).unwrap()
            )
        );
        let calibration = exits.calibration.unwrap();
        assert_eq!((calibration.n, calibration.points.len()), (21, 28));
        assert!((f64::from(calibration.accuracy) - number(&full["accuracy"])).abs() < 1e-6);
        assert!(
            skim!["inspect", out]
                .text()
                .contains("exits: after [1] layers")
        );
    }

    // By hand, and switched on for good.
    let by_hand = skim![
        "eval",
        model,
        rows,
        "--route",
        "cot",
        "--exit-threshold",
        "0",
        "--json"
    ]
    .json();
    assert!(number(&by_hand["mean_exits"]) > 0.0);
    let never = skim![
        "eval",
        model,
        rows,
        "--route",
        "cot",
        "--exit-threshold",
        "1",
        "--json"
    ]
    .json();
    assert_eq!(result(&never), result(&full));
    skim![
        "calibrate-exits",
        model,
        rows,
        "--out",
        out,
        "--route",
        "cot",
        "--risk",
        "0.99",
        "--decay",
        "20",
        "--switch-on"
    ]
    .text();
    let reasoning = Bundle::open(&out).unwrap().reasoning().clone();
    assert_eq!(reasoning.routes["cot"].depth, RouteDepth::Exits);
    assert_eq!(reasoning.exits.unwrap().decay.unwrap().tokens, 20);
    let said = skim!["run", out, "how much", "--route", "cot", "--json"].json();
    assert!(said["usage"]["exits"].as_u64().unwrap() > 0, "{said}");
}

#[test]
fn drafts_change_no_word() {
    let folder = Folder::without_template();
    let (model, rows) = student(&folder);
    let plain = skim!["eval", model, rows, "--route", "cot", "--json"].json();
    let drafted = skim![
        "eval", model, rows, "--route", "cot", "--draft", "1,3", "--json"
    ]
    .json();
    assert_eq!(result(&drafted), result(&plain));
    let (guessed, right) = (
        number(&drafted["mean_drafted_tokens"]),
        number(&drafted["mean_accepted_tokens"]),
    );
    assert!(guessed > 0.0 && right <= guessed, "{right} of {guessed}");
    let run = |draft: &str| {
        skim![
            "run", model, "how much", "--route", "cot", "--draft", draft, "--json"
        ]
        .json()
    };
    let plain = skim!["run", model, "how much", "--route", "cot", "--json"].json();
    assert_eq!(run("1,1")["generated_ids"], plain["generated_ids"]);
    assert_eq!(run("1,63")["generated_ids"], plain["generated_ids"]);
}

#[test]
fn too_little_data_and_nonsense_are_refused() {
    let folder = Folder::without_template();
    let (model, rows) = student(&folder);
    let out = folder.path("exits.skim");
    let called = skim![
        "calibrate-exits",
        model,
        rows,
        "--out",
        out,
        "--route",
        "cot"
    ];
    assert_eq!(called.status, Some(2), "{called:?}");
    // What was found is told all the same.
    assert!(called.stdout.contains("not safe"), "{called:?}");
    assert!(called.stderr.contains("certainly loses less than 0.01"));
    assert!(!out.exists());
    let refused: [(&[&str], &str); 4] = [
        (&["--risk", "0"], "0 is not between 0 and 1"),
        (
            &["--measure", "luck"],
            "known measures: softmax, saturation",
        ),
        (&["--layers", "2"], "exits.layers: [2] are not ascending"),
        (&["--route", "fast"], "unknown route `fast`"),
    ];
    for (args, word) in refused {
        let mut all: Vec<std::ffi::OsString> = vec!["calibrate-exits".into()];
        all.extend([model.clone().into(), rows.clone().into(), "--out".into()]);
        all.push(out.clone().into());
        all.extend(args.iter().map(Into::into));
        crate::harness::Called::new(all).refused(&[word]);
        assert!(!out.exists());
    }
    let refused: [(&[&str], &str); 6] = [
        (&["--depth", "deep"], "known depths: full, exits, drafts"),
        (&["--depth", "exits"], "has no `exits`"),
        (
            &["--depth", "full", "--exit-threshold", "0.5"],
            "depth `full` has no such options",
        ),
        (&["--exit-layers", "1"], "knows no threshold"),
        (&["--draft", "1"], "expected two numbers"),
        (&["--draft", "2,4"], "drafts.layers: 2 is not from 1 to 1"),
    ];
    for (args, word) in refused {
        let mut all: Vec<std::ffi::OsString> = vec!["run".into(), model.clone().into()];
        all.push("how much".into());
        all.extend(args.iter().map(Into::into));
        crate::harness::Called::new(all).refused(&[word]);
    }
}
