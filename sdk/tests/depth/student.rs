//! The committed student, guessing with each of its layers: the same words as without, on every route.

use std::path::Path;

use skimstone::kernels::KvFormat;
use skimstone::reason::{Answer, Ask, Engine, EngineOptions};
use skimstone::sleep::Night;
use skimstone::{Depth, DraftSpec, Model, ModelOptions};

#[test]
fn the_sleep_student_says_the_same_with_drafts() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let night = std::fs::read_to_string(examples.join("nights/tuesday.json")).unwrap();
    let night = Night::from_json(&night).unwrap();
    let questions = [
        "How efficient was my sleep?",
        "When was the midpoint of my sleep?",
    ];
    for kv in KvFormat::ALL {
        let options = ModelOptions::default().with_threads(1).with_kv_format(kv);
        let model = Model::open(examples.join("students/sleep.skim"), options).unwrap();
        let layers = model.config().num_hidden_layers;
        let (mut plain, mut drafting) = (engine(&model), engine(&model));
        for route in ["direct", "skip", "cot"] {
            let (mut drafted, mut accepted) = (0, 0);
            for question in questions {
                let prompt = night.prompt(question);
                let ask = Ask::new().with_route(route);
                let want = plain.answer_text(&prompt, &ask).unwrap();
                for exit in 1..layers {
                    let drafts = Depth::Drafts(DraftSpec::new(exit, 4));
                    let ask = ask.clone().with_depth(drafts);
                    let got = drafting.answer_text(&prompt, &ask).unwrap();
                    assert_eq!(said(&got), said(&want), "{route} {question} {exit}");
                    drafted += got.usage.drafted_tokens;
                    accepted += got.usage.accepted_tokens;
                }
            }
            assert!(drafted > 0 && accepted <= drafted);
            println!(
                "{} {route}: {accepted} of {drafted} guesses right",
                kv.name()
            );
        }
    }
}

fn engine(model: &Model) -> Engine {
    Engine::new(model, EngineOptions::default()).unwrap()
}

fn said(answer: &Answer) -> (&str, &str, u32, usize) {
    let tokens = answer.usage.generated_tokens;
    let confidence = answer.confidence.to_bits();
    (&answer.text, &answer.thinking, confidence, tokens)
}
