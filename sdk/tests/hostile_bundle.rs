//! Files that are not what they claim to be: each broken rule has its named error, and nothing panics.

mod common;

use std::io::Cursor;

use proptest::prelude::*;
use serde_json::{Value, json};
use skimstone::kernels::Format;
use skimstone::{
    Bundle, BundleSpec, BundleWriter, ErrorKind, ModelConfig, OpenOptions, TensorDecl,
};

/// A small valid bundle.
fn bundle(format: Format) -> Vec<u8> {
    let config = ModelConfig::from_json(&common::config_json("qwen3").to_string()).unwrap();
    let decls = TensorDecl::for_model(&config, format);
    let mut spec = BundleSpec::new(config);
    spec.tokenizer_json = Some(b"{}".to_vec());
    spec.chat_template = Some("{{ messages }}".to_owned());
    let mut writer = BundleWriter::new(Cursor::new(Vec::new()), spec, &decls).unwrap();
    for (seed, decl) in decls.iter().enumerate() {
        writer
            .write_f32(
                &decl.name,
                &common::values(seed as u64, decl.shape.iter().product()),
            )
            .unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Bytes of length word and header.
fn header_bytes(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

/// Changes the header of a valid bundle and makes its checksum right again, so that the rule behind the checksum is what fails.
fn forge(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let data = &file[header_bytes(file)..];
    let mut header: Value = serde_json::from_slice(&file[8..header_bytes(file)]).unwrap();
    change(&mut header);
    seal(header, data)
}

fn seal(mut header: Value, data: &[u8]) -> Vec<u8> {
    if let Some(crc) = header.pointer_mut("/__metadata__/crc") {
        *crc = json!("00000000");
    }
    let mut json = header.to_string();
    while !(8 + json.len()).is_multiple_of(64) {
        json.push(' ');
    }
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    let crc = format!("{:08x}", crc32fast::hash(&file));
    let at = r#"12345678{"__metadata__":{"crc":""#.len();
    if file.get(at..at + 8) == Some(b"00000000") {
        file[at..at + 8].copy_from_slice(crc.as_bytes());
    }
    file.extend_from_slice(data);
    file
}

/// Changes one JSON document inside the metadata.
fn section(header: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    let slot = &mut header["__metadata__"][key];
    let mut section: Value = serde_json::from_str(slot.as_str().unwrap()).unwrap();
    change(&mut section);
    *slot = json!(section.to_string());
}

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn every_truncation_is_named() {
    let file = bundle(Format::Q8);
    let header = header_bytes(&file);
    let lengths = (0..header.min(256))
        .chain((256..file.len()).step_by(61))
        .chain(header - 2..header + 70);
    for length in lengths.chain(file.len() - 70..file.len()) {
        let error = Bundle::from_bytes(&file[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{length}: {error}");
        assert!(
            error.to_string().contains(&length.to_string()),
            "names what the file has: {error}"
        );
    }
    let mut longer = file.clone();
    longer.push(0);
    assert_eq!(
        Bundle::from_bytes(longer).unwrap_err().kind(),
        ErrorKind::TrailingBytes
    );
}

#[test]
fn every_flipped_bit_is_noticed() {
    let file = bundle(Format::Q4);
    assert!(Bundle::from_bytes(&file).is_ok());
    let header = header_bytes(&file);
    let mut flipped = file.clone();
    let mut check = |byte: usize, bit: usize| {
        flipped[byte] ^= 1 << bit;
        let result = Bundle::from_bytes(&flipped);
        assert!(result.is_err(), "bit {bit} of byte {byte} was flipped");
        // Without verification wrong weights are the caller's choice, but a panic is nobody's.
        let _ = OpenOptions::new().verify(false).open_bytes(&flipped);
        flipped[byte] ^= 1 << bit;
        result.unwrap_err().kind()
    };
    for byte in 0..header {
        // All bits of the length, the format's keys and their values; one bit per byte of the rest.
        let bits = if byte < 64 {
            0..8
        } else {
            byte % 8..byte % 8 + 1
        };
        for bit in bits {
            check(byte, bit);
        }
    }
    for byte in (header..file.len())
        .step_by(29)
        .chain(file.len() - 64..file.len())
    {
        assert_eq!(
            check(byte, byte % 8),
            ErrorKind::Checksum,
            "byte {byte} of the data"
        );
    }
}

#[test]
fn every_rule_behind_the_checksum_has_its_error() {
    type Change = fn(&mut Value);
    struct Case(&'static str, Change, ErrorKind, &'static str);
    let cases = [
        Case(
            "format",
            |h| h["__metadata__"]["format"] = json!("gguf"),
            ErrorKind::Format,
            "not a skimstone bundle",
        ),
        Case(
            "version",
            |h| h["__metadata__"]["version"] = json!("9"),
            ErrorKind::Version,
            "bundle has format version `9`, this runtime reads `2`",
        ),
        Case(
            "nesting that would overflow the stack",
            |h| h["__metadata__"]["provenance"] = json!("[".repeat(100_000)),
            ErrorKind::Format,
            "metadata `provenance`: recursion limit exceeded",
        ),
        Case(
            "no config",
            |h| drop(h["__metadata__"].as_object_mut().unwrap().remove("config")),
            ErrorKind::Format,
            "metadata has no `config`",
        ),
        Case(
            "architecture",
            |h| section(h, "config", |c| c["model_type"] = json!("mamba")),
            ErrorKind::Unsupported,
            "architecture `mamba`",
        ),
        Case(
            "more layers than tensors",
            |h| section(h, "config", |c| c["num_hidden_layers"] = json!(3)),
            ErrorKind::MissingTensor,
            "tensor `model.layers.2.input_layernorm.weight` is missing",
        ),
        Case(
            "absurd layers",
            |h| {
                section(h, "config", |c| {
                    c["num_hidden_layers"] = json!(4_000_000_000u64)
                })
            },
            ErrorKind::Config,
            "`num_hidden_layers`: 4000000000 is not between 1 and 1024",
        ),
        Case(
            "sizes that would overflow",
            |h| section(h, "config", |c| c["vocab_size"] = json!(u64::MAX)),
            ErrorKind::Config,
            "`vocab_size`",
        ),
        Case(
            "odd heads",
            |h| section(h, "config", |c| c["head_dim"] = json!(9)),
            ErrorKind::Config,
            "9 is odd",
        ),
        Case(
            "other heads than the tensors have",
            |h| section(h, "config", |c| c["head_dim"] = json!(12)),
            ErrorKind::Shape,
            "tensor `model.layers.0.self_attn.q_proj.weight`: expected [48, 24], file has [40, 24] q8; was it exported",
        ),
        Case(
            "a norm that is not f32",
            |h| {
                let norm = &mut h["model.norm.weight"];
                (norm["dtype"], norm["shape"]) = (json!("F16"), json!([48]));
            },
            ErrorKind::Shape,
            "tensor `model.norm.weight`: expected [24], file has [48] f16",
        ),
        Case(
            "layout",
            |h| {
                section(h, "layouts", |l| {
                    l[Q_PROJ]["layout"] = json!("q8-neon-i8mm")
                })
            },
            ErrorKind::Layout,
            "layout `q8-neon-i8mm` is not known",
        ),
        Case(
            "a layout of plain floats",
            |h| section(h, "layouts", |l| l[Q_PROJ]["layout"] = json!("f32")),
            ErrorKind::Layout,
            "layout `f32`",
        ),
        Case(
            "packed shape",
            |h| section(h, "layouts", |l| l[Q_PROJ]["shape"] = json!([40, 99])),
            ErrorKind::Shape,
            "q8 [40, 99] needs U8 [3, 2176], file has U8 [3, 544]",
        ),
        Case(
            "packed columns that overflow",
            |h| section(h, "layouts", |l| l[Q_PROJ]["shape"] = json!([40, u64::MAX])),
            ErrorKind::Shape,
            "layout has 18446744073709551615 columns",
        ),
        Case(
            "packed vector",
            |h| section(h, "layouts", |l| l[Q_PROJ]["shape"] = json!([960])),
            ErrorKind::Shape,
            "q8 needs [rows, cols]",
        ),
        Case(
            "a layout of nothing",
            |h| {
                section(h, "layouts", |l| {
                    l["nothing"] = json!({"layout": "q8", "shape": [1, 1]})
                })
            },
            ErrorKind::MissingTensor,
            "`layouts` names `nothing`",
        ),
        Case(
            "no layout",
            |h| {
                section(h, "layouts", |l| {
                    drop(l.as_object_mut().unwrap().remove(Q_PROJ))
                })
            },
            ErrorKind::Shape,
            "file has [3, 544] bytes",
        ),
        Case(
            "no checksum",
            |h| {
                section(h, "checksums", |c| {
                    drop(c.as_object_mut().unwrap().remove(Q_PROJ))
                })
            },
            ErrorKind::Format,
            "tensor `model.layers.1.self_attn.q_proj.weight`: has no checksum",
        ),
        Case(
            "data type",
            |h| h[Q_PROJ]["dtype"] = json!("F4"),
            ErrorKind::Dtype,
            "data type `F4` is not supported",
        ),
        Case(
            "overlap",
            |h| {
                let offsets = &mut h[Q_PROJ]["data_offsets"];
                let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
                *offsets = json!([start - 64, end - 64]);
            },
            ErrorKind::Offsets,
            "overlaps",
        ),
        Case(
            "hole",
            |h| drop(h.as_object_mut().unwrap().remove(Q_PROJ)),
            ErrorKind::Offsets,
            "leaves a hole after",
        ),
        Case(
            "route outside the vocabulary",
            |h| {
                section(h, "reasoning", |r| {
                    r["routes"]["direct"]["open"] = json!([60])
                })
            },
            ErrorKind::Reasoning,
            "routes.direct.open: token 60 is outside the vocabulary of 60",
        ),
        Case(
            "default route",
            |h| section(h, "reasoning", |r| r["default_route"] = json!("fast")),
            ErrorKind::Reasoning,
            "default_route: `fast` is not among the routes",
        ),
        Case(
            "reasoning version",
            |h| section(h, "reasoning", |r| r["version"] = json!(9)),
            ErrorKind::Reasoning,
            "unknown version 9",
        ),
        Case(
            "a ladder's route",
            |h| {
                section(h, "reasoning", |r| {
                    let rung =
                        json!({"route": "fast", "accuracy": 0.5, "tokens": 4, "layer_passes": 8});
                    r["ladder"] = json!({"rungs": [rung]});
                })
            },
            ErrorKind::Reasoning,
            "ladder.rungs[0].route: `fast` is not among the routes",
        ),
        Case(
            "a ladder's field",
            |h| {
                section(h, "reasoning", |r| {
                    let rung = json!({"route": "direct", "accuracy": 0.5, "tokens": 4, "layer_passes": 8, "luck": 1});
                    r["ladder"] = json!({"rungs": [rung]});
                })
            },
            ErrorKind::Reasoning,
            "unknown field `luck`",
        ),
        Case(
            "a ladder's numbers",
            |h| {
                section(h, "reasoning", |r| {
                    let rung = json!({"route": "direct", "accuracy": 0.5, "tokens": -4, "layer_passes": 8});
                    r["ladder"] = json!({"rungs": [rung]});
                })
            },
            ErrorKind::Reasoning,
            "ladder.rungs[0].tokens: -4 is no mean of counts",
        ),
        Case(
            "generation",
            |h| section(h, "generation", |g| g["top_p"] = json!(7)),
            ErrorKind::Config,
            "`top_p`: 7 is not between 0 and 1",
        ),
    ];
    let file = bundle(Format::Q8);
    assert!(
        Bundle::from_bytes(forge(&file, |_| {})).is_ok(),
        "a forged header without a change is valid"
    );
    for Case(name, change, kind, message) in cases {
        let error = Bundle::from_bytes(forge(&file, change)).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
}

#[test]
fn a_header_written_anew_by_another_program_is_named() {
    let file = bundle(Format::F16);
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&file[8..header_bytes(&file)]).unwrap();
    // Keys in another order: valid safetensors, but not what was written.
    let reordered: serde_json::Map<String, Value> = header.into_iter().rev().collect();
    let error = Bundle::from_bytes(seal(Value::Object(reordered), &file[header_bytes(&file)..]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Checksum);
    assert!(
        error.to_string().contains("another program wrote it anew"),
        "{error}"
    );
}

#[test]
fn misaligned_data_are_refused() {
    let file = bundle(Format::F16);
    let data_start = header_bytes(&file);
    let mut header: Value = serde_json::from_slice(&file[8..data_start]).unwrap();
    // One byte more at the front of the data, as a tensor of its own, moves every other tensor off its alignment.
    for (_, tensor) in header
        .as_object_mut()
        .unwrap()
        .iter_mut()
        .filter(|(name, _)| *name != "__metadata__")
    {
        for offset in tensor["data_offsets"].as_array_mut().unwrap() {
            *offset = json!(offset.as_u64().unwrap() + 1);
        }
    }
    header["_pad.front"] = json!({"dtype": "U8", "shape": [1], "data_offsets": [0, 1]});
    section(&mut header, "checksums", |c| {
        c["_pad.front"] = json!("00000000")
    });
    let mut data = vec![0];
    data.extend_from_slice(&file[data_start..]);
    let error = Bundle::from_bytes(seal(header, &data)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misaligned, "{error}");
}

#[test]
fn numbers_that_are_none_are_refused() {
    for (format, tensor, what) in [
        (Format::F32, "model.norm.weight", "value 3"),
        (Format::F16, Q_PROJ, "value 3"),
        (Format::Q8, Q_PROJ, "the scale of block 0 in row 3"),
        (Format::Q4, Q_PROJ, "the scale of block 0 in row 3"),
    ] {
        let file = bundle(format);
        let start = header_bytes(&file);
        let bytes = Bundle::from_bytes(&file)
            .unwrap()
            .tensors()
            .find(|t| t.name() == tensor)
            .unwrap()
            .bytes();
        let unit = match format {
            Format::F32 => 4,
            _ => 2,
        };
        let mut data = file[start..].to_vec();
        let mut header: Value = serde_json::from_slice(&file[8..start]).unwrap();
        let at = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        // All ones is a NaN in every float type.
        data[at + 3 * unit..][..if format == Format::F32 { 4 } else { 2 }].fill(0xff);
        let crc = format!("{:08x}", crc32fast::hash(&data[at..at + bytes]));
        section(&mut header, "checksums", |c| c[tensor] = json!(crc));
        let error = Bundle::from_bytes(seal(header, &data)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite, "{error}");
        assert_eq!(
            error.to_string(),
            format!("tensor `{tensor}`: {what} is not a finite number")
        );
    }
}

#[test]
fn what_is_no_bundle_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.skim");
    let error = Bundle::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.to_string().starts_with(&path.display().to_string()),
        "{error}"
    );
    assert_eq!(
        Bundle::open(folder.path()).unwrap_err().kind(),
        ErrorKind::Io
    );

    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(&[b'{'; 100]);
    let mut over_the_cap = ((16u64 << 20) + 1).to_le_bytes().to_vec();
    over_the_cap.resize(17 << 20, b' ');
    let plain = safetensors::serialize::<_, _, Vec<(String, safetensors::tensor::TensorView<'_>)>>(
        vec![],
        None,
    )
    .unwrap();
    for (bytes, kind, message) in [
        (vec![], ErrorKind::Truncated, "file has 0"),
        (
            b"GGUF\x03\0\0\0tensors and more of them".to_vec(),
            ErrorKind::HeaderTooLarge,
            "this is not a safetensors file",
        ),
        (
            huge,
            ErrorKind::HeaderTooLarge,
            "header claims 18446744073709551615 bytes, at most 16777216 are allowed",
        ),
        (
            over_the_cap,
            ErrorKind::HeaderTooLarge,
            "header claims 16777217 bytes",
        ),
        (
            plain,
            ErrorKind::Format,
            "not a skimstone bundle; import a Hugging Face folder with `skim import`",
        ),
        (
            seal(json!([]), &[]),
            ErrorKind::Format,
            "does not start with `{`",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Bundle::open(&path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// Every place of a JSON document that can be replaced.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            places(
                value,
                &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                out,
            );
        }),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| places(value, &format!("{at}/{index}"), out));
        }
        _ => {}
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let numbers = prop::sample::select(vec![
        json!(-1),
        json!(0),
        json!(1),
        json!(1.5),
        json!(u64::MAX),
        json!(1u64 << 31),
        json!(1e300),
    ]);
    prop_oneof![
        numbers,
        Just(json!(null)),
        Just(json!(true)),
        Just(json!({})),
        any::<u32>().prop_map(|n| json!(n)),
        ".{0,8}".prop_map(|s| json!(s)),
        prop::collection::vec(any::<u16>(), 0..4).prop_map(|v| json!(v)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Bundle::from_bytes(&bytes).is_err());
        let mut sized = (bytes.len() as u64).to_le_bytes().to_vec();
        sized.extend_from_slice(&bytes);
        prop_assert!(Bundle::from_bytes(sized).is_err());
    }

    #[test]
    fn random_changes_of_the_header_never_panic(place in any::<prop::sample::Index>(), inner in any::<prop::sample::Index>(), value in any_json()) {
        let file = bundle(Format::Q8);
        let forged = forge(&file, |header| {
            let mut all = Vec::new();
            places(header, "", &mut all);
            let place = &all[place.index(all.len() - 1) + 1];
            let slot = header.pointer_mut(place).unwrap();
            // JSON inside a string is changed inside.
            match slot.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object) {
                None => *slot = value,
                Some(mut document) => {
                    let mut all = Vec::new();
                    places(&document, "", &mut all);
                    *document.pointer_mut(&all[inner.index(all.len())]).unwrap() = value;
                    *slot = json!(document.to_string());
                }
            }
        });
        if let Ok(bundle) = Bundle::from_bytes(forged) {
            // What is accepted can be used: no view panics.
            let weights = bundle.weights();
            for l in 0..weights.num_layers() {
                weights.layer(l);
            }
            let _ = (weights.embed_tokens(), weights.lm_head(), weights.norm(), bundle.tokenizer(), bundle.chat());
        }
    }
}
