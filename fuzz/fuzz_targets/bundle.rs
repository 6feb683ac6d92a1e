//! Any bytes as a bundle. What opens is also run: whatever passed the checks must be safe to compute with.
#![no_main]

#[path = "seeds.rs"]
mod seeds;
#[path = "../../sdk/tests/tiny/mod.rs"]
mod tiny;

use libfuzzer_sys::fuzz_target;
use skimstone::kernels::Format;
use skimstone::reason::{Ask, Budget, Engine, EngineOptions};
use skimstone::{ChatOptions, Message};

/// Gives a changed header its checksum, else nothing behind that check would ever be reached.
fn sealed(data: &[u8]) -> Vec<u8> {
    const PREFIX: &[u8] = br#"{"__metadata__":{"crc":""#;
    let mut bytes = data.to_vec();
    let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() else {
        return bytes;
    };
    let len = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some(header) = rest.get_mut(..len) else {
        return bytes;
    };
    let digits = PREFIX.len()..PREFIX.len() + 8;
    if header.starts_with(PREFIX) && header.len() >= digits.end {
        header[digits.clone()].fill(b'0');
        let mut crc = crc32fast::Hasher::new();
        crc.update(length);
        crc.update(header);
        let crc = format!("{:08x}", crc.finalize());
        header[digits].copy_from_slice(crc.as_bytes());
    }
    bytes
}

fuzz_target!(
    init: seeds::write(|| vec![
        ("q8", seeds::bundle(Format::Q8)),
        ("q4", seeds::bundle(Format::Q4)),
        ("f16", seeds::bundle(Format::F16)),
    ]),
    |data: &[u8]| {
        let Ok(model) = seeds::model(&sealed(data)) else {
            return;
        };
        let _ = model.bundle().verify();
        if let Ok(Some(tokenizer)) = model.tokenizer()
            && let Ok(ids) = tokenizer.encode("Was it 7 h? <|sep|>", true)
        {
            let _ = tokenizer.decode(&ids, false);
        }
        if let Ok(Some(chat)) = model.bundle().chat() {
            let _ = chat.render(&[Message::new("user", "hello")], &ChatOptions::default());
        }
        if let Ok(mut engine) = Engine::new(&model, EngineOptions::default()) {
            for route in model.reasoning().routes.keys() {
                let ask = Ask::new()
                    .with_route(route)
                    .with_budget(Budget::unlimited().with_tokens(12));
                let _ = engine.answer(&[1, 2, 3], &ask);
            }
        }
    }
);
