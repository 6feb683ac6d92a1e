//! Any bytes as a saved session, with and without a question. What is restored also goes on.
#![no_main]

#[path = "seeds.rs"]
mod seeds;
#[path = "../../sdk/tests/tiny/mod.rs"]
mod tiny;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skimstone::Model;
use skimstone::kernels::Format;
use skimstone::reason::{Ask, Engine, EngineOptions};

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| seeds::model(&seeds::bundle(Format::Q8)).expect("the seed opens"))
}

fn engine() -> Engine {
    Engine::new(model(), EngineOptions::default()).expect("one session fits")
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let path = seeds::scratch("seed");
    let mut seeds = Vec::new();
    for (name, route, events) in [
        ("rest", None, 0),
        ("prompt", Some("cot"), 1),
        ("cot", Some("cot"), 9),
        ("latent", Some("latent"), 3),
    ] {
        let mut engine = engine();
        if let Some(route) = route {
            let ask = Ask::new().with_route(route);
            engine
                .ask(&tiny::Random::new(5).ids(20), &ask)
                .expect("a question");
        }
        for _ in 0..events {
            engine.next_event().expect("an event");
        }
        engine.save(&path).expect("it can be saved");
        seeds.push((name, std::fs::read(&path).expect("it was saved")));
    }
    let _ = std::fs::remove_file(path);
    seeds
}

fuzz_target!(init: seeds::write(seeds), |data: &[u8]| {
    // With a right checksum: the wrong ones end at the first look.
    let mut bytes = data.to_vec();
    if let Some((whole, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(whole).to_le_bytes();
    }
    let path = seeds::scratch("session");
    std::fs::write(&path, &bytes).expect("a file can be written");
    let mut engine = engine();
    if engine.restore(&path).is_ok() {
        let _ = engine.answer(&[1, 2, 3], &Ask::new());
    }
    if engine.resume(&path, &Ask::new()).is_ok() {
        let saved = engine.save(&path);
        saved.expect("what was restored can be saved");
        let _ = engine.wait();
        engine.resume(&path, &Ask::new()).expect("what was saved can be resumed");
        let _ = engine.wait();
    }
});
