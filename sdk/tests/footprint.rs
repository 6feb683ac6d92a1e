//! The memory estimate against what the system says of this process, and a memory warning against the same.
#![cfg(target_os = "linux")]

use serde_json::json;
use skimstone::import::synth;
use skimstone::kernels::Format;
use skimstone::memory::estimate;
use skimstone::reason::{Ask, Budget, Engine, EngineOptions};
use skimstone::{Bundle, Model, ModelOptions, SamplerOptions};

/// Pages that are in memory, by what is behind them.
#[derive(Clone, Copy, Debug)]
struct Rollup {
    anonymous: i64,
    file_backed: i64,
}

fn rollup() -> Rollup {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: i64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    };
    let anonymous = field("Anonymous:");
    Rollup {
        anonymous,
        file_backed: field("Rss:") - anonymous,
    }
}

/// SmolLM2-135M's shape, with fewer words: what a test may write.
fn config() -> String {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8192, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"
    })
    .to_string()
}

/// Beside what the estimate counts: stacks of two threads, the allocator's own books, the header of the bundle in memory.
const SLACK: i64 = 1 << 20;

fn within_5_percent(what: &str, measured: i64, estimated: u64, slack: i64) {
    let (estimated, measured) = (estimated as f64, measured as f64);
    println!(
        "{what}: {estimated} bytes estimated, {measured} measured, {:+.2} %",
        100.0 * (measured / estimated - 1.0)
    );
    let most = estimated * 0.05 + slack as f64;
    assert!(
        (measured - estimated).abs() <= most,
        "{what}: {estimated} estimated, {measured} measured"
    );
}

/// One test, so that nothing else runs in this process.
#[test]
fn the_estimate_is_what_the_system_sees_and_a_warning_gives_it_back() {
    if std::env::var_os("SKIMSTONE_TEST_EMULATED").is_some() {
        println!("skipped: the system would tell of the emulator's memory");
        return;
    }
    const CONTEXT: usize = 1024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("synth.skim");
    synth(&config(), Format::Q4, &path, 1, &mut |_, _, _| {}).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    let estimated = estimate(&bundle, CONTEXT, 1, None);
    println!("{estimated}");
    drop(bundle);

    let before = rollup();
    let options = ModelOptions::default()
        .with_threads(2)
        .with_context(CONTEXT);
    let model = Model::open(&path, options).unwrap();
    let options = EngineOptions::default().with_reuse_prefix(true);
    let mut engine = Engine::new(&model, options).unwrap();
    // To the end of the context: what is reserved is then used.
    let prompt: Vec<u32> = (0..CONTEXT as u32 - 32).map(|i| i * 7919 % 8000).collect();
    let ask = Ask::new().with_sampler(SamplerOptions {
        temperature: 1.0,
        ..SamplerOptions::default()
    });
    let first = engine.answer(&prompt, &ask).unwrap();
    assert!(first.usage.answer_tokens > 16, "{:?}", first.usage);
    let after = rollup();
    let anonymous = after.anonymous - before.anonymous;
    within_5_percent("anonymous", anonymous, estimated.anonymous, SLACK);
    within_5_percent(
        "file-backed",
        after.file_backed - before.file_backed,
        estimated.file_backed,
        SLACK,
    );

    let given = engine.shed_memory().unwrap();
    let shed = rollup();
    within_5_percent(
        "given back at rest",
        after.anonymous - shed.anonymous,
        given,
        0,
    );
    let blocks = estimated
        .parts
        .iter()
        .find(|part| part.0 == "keys and values");
    assert_eq!(given, blocks.unwrap().1);

    // During a question: what its limits leave no use for, which a longer one had used.
    engine.answer(&prompt, &ask).unwrap();
    let full = rollup();
    let short = ask.with_budget(Budget::unlimited().with_tokens(64));
    engine.ask(&prompt[..64], &short).unwrap();
    engine.next_event().unwrap();
    let given = engine.shed_memory().unwrap();
    let shed = rollup();
    within_5_percent(
        "given back in a question",
        full.anonymous - shed.anonymous,
        given,
        0,
    );
    assert!(given > estimated.anonymous / 2, "{given}");
    assert!(!engine.wait().unwrap().ids.is_empty());
}
