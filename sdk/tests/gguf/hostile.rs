//! Files that are not what they claim to be: named errors, never a panic, no memory taken on a promise.

use skimstone::ErrorKind;
use skimstone::import::ImportOptions;

use crate::common::config_json;
use crate::tokenizer::sentence_piece;
use crate::writer::{F16, File, Meta, Tensor, file};
use crate::{Folder, run};

/// As small as a file of every part can be: one layer, one tokenizer.
fn small() -> File {
    let mut config = config_json("llama");
    for (key, value) in [
        ("hidden_size", 4),
        ("intermediate_size", 2),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 1),
        ("num_key_value_heads", 1),
        ("head_dim", 2),
        ("vocab_size", 10),
    ] {
        config[key] = value.into();
    }
    config["tie_word_embeddings"] = true.into();
    let mut file = file(&config, F16);
    sentence_piece(
        &mut file,
        &[("▁a", -1.0), ("▁", -5.0), ("a", -6.0), ("b", -7.0)],
        &[],
    );
    file
}

/// Where the weights begin: what they are is of no concern here.
fn header_bytes() -> usize {
    let mut file = small();
    file.tensors.iter_mut().for_each(|tensor| tensor.3.clear());
    file.bytes().len()
}

#[test]
fn every_prefix_is_an_error() {
    let (folder, bytes) = (Folder::new(), small().bytes());
    folder.run(&bytes, &ImportOptions::default()).unwrap();
    for len in 0..bytes.len() {
        let error = folder
            .run(&bytes[..len], &ImportOptions::default())
            .unwrap_err();
        let expected = match len {
            // Not even the first bytes: it is no GGUF file.
            0..4 => ErrorKind::Io,
            _ => ErrorKind::Truncated,
        };
        assert_eq!(error.kind(), expected, "{len} bytes: {error}");
    }
}

#[test]
fn no_flipped_byte_panics() {
    let (folder, bytes, header) = (Folder::new(), small().bytes(), header_bytes());
    let mut refused = 0;
    for at in 0..header {
        // The lowest bit and the highest in turn; both for every byte would mostly wait for the disk.
        let mut bytes = bytes.clone();
        bytes[at] ^= [0x01, 0x80][at % 2];
        refused += usize::from(folder.run(&bytes, &ImportOptions::default()).is_err());
    }
    // Most of the bytes are names and counts. Names of no concern may change.
    assert!(refused > header / 2, "{refused} of {header}");
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let (folder, bytes, header) = (Folder::new(), small().bytes(), header_bytes());
    // Every place where a length or a count might stand.
    for at in 4..header - 8 {
        for lie in [u64::MAX, 1 << 33] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let _ = folder.run(&bytes, &ImportOptions::default());
        }
    }
}

/// A header and nothing else.
fn header(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend(tensors.to_le_bytes());
    out.extend(keys.to_le_bytes());
    out.extend(rest);
    out
}

/// A key `k` with this type and these bytes.
fn key(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = 1u64.to_le_bytes().to_vec();
    out.push(b'k');
    out.extend(kind.to_le_bytes());
    out.extend(value);
    out
}

#[test]
fn broken_grammar_is_named() {
    struct Case(Vec<u8>, ErrorKind, &'static str);
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let nested = array(9, 1).repeat(6);
    let twice = [key(0, &[1]), key(0, &[1])].concat();
    let cases = [
        Case(
            header(1, 0, 0, &[]),
            ErrorKind::Version,
            "version 1 is not supported; supported: 2, 3",
        ),
        Case(
            header(3u32.swap_bytes(), 0, 0, &[]),
            ErrorKind::Version,
            "the file is big endian",
        ),
        Case(
            header(3, 1 << 40, 0, &[]),
            ErrorKind::Format,
            "1099511627776 tensors, at most 65536",
        ),
        Case(
            header(3, 0, u64::MAX, &[]),
            ErrorKind::Format,
            "18446744073709551615 keys, at most",
        ),
        Case(
            header(3, 0, 1, &[0xff; 8]),
            ErrorKind::Truncated,
            "key 0 of 1: a key needs 18446744073709551615 bytes at offset 32",
        ),
        Case(
            header(3, 0, 1, &key(13, &[])),
            ErrorKind::Format,
            "key `k`: value type 13 is not one of 0 to 12",
        ),
        Case(
            header(3, 0, 1, &key(7, &[2])),
            ErrorKind::Format,
            "key `k`: a bool is 0 or 1, found 2",
        ),
        Case(
            header(3, 0, 1, &key(9, &array(10, 1 << 61))),
            ErrorKind::Truncated,
            "an array needs 18446744073709551615 bytes",
        ),
        Case(
            header(3, 0, 1, &key(9, &array(8, u64::MAX))),
            ErrorKind::Truncated,
            "a string needs 8 bytes",
        ),
        Case(
            header(3, 0, 1, &key(9, &nested)),
            ErrorKind::Format,
            "arrays are nested deeper than 4",
        ),
        Case(
            header(3, 0, 2, &twice),
            ErrorKind::Format,
            "key `k`: the key is there twice",
        ),
        Case(
            header(3, 0, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]),
            ErrorKind::Format,
            "a key at offset 24 is not UTF-8",
        ),
        Case(
            header(3, 0, 0, &[]),
            ErrorKind::Format,
            "key `general.architecture`: the key is missing",
        ),
    ];
    for Case(bytes, kind, message) in cases {
        let error = run(&bytes, &ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.place().unwrap().contains("model"), "{error}");
    }
}

#[test]
fn broken_tensor_tables_are_named() {
    struct Case(fn(&mut File), ErrorKind, &'static str);
    let cases = [
        Case(
            |file| file.tensor("output_norm.weight").1 = vec![1; 5],
            ErrorKind::Shape,
            "`output_norm.weight`: 5 dimensions, 1 to 4 are allowed",
        ),
        Case(
            |file| file.tensor("output_norm.weight").1 = vec![],
            ErrorKind::Shape,
            "0 dimensions, 1 to 4",
        ),
        Case(
            |file| file.tensor("output_norm.weight").1 = vec![0],
            ErrorKind::Shape,
            "dimension 0 is out of range",
        ),
        Case(
            |file| file.tensor("output_norm.weight").1 = vec![usize::MAX, usize::MAX],
            ErrorKind::Shape,
            "overflows the address space",
        ),
        Case(
            |file| file.tensor("token_embd.weight").1 = vec![20, 4],
            ErrorKind::Offsets,
            "starts at 96 of the data, the tensor before it ends at 160",
        ),
        Case(
            |file| file.tensor("output_norm.weight").1 = vec![1 << 60],
            ErrorKind::Truncated,
            "tensor `output_norm.weight`: ends at",
        ),
        Case(
            |file| {
                let tensor = file.tensors[0].clone();
                file.tensors.push(tensor);
            },
            ErrorKind::Format,
            "tensor `token_embd.weight`: the name is there twice",
        ),
        Case(
            |file| file.set("general.alignment", Meta::U32(0)),
            ErrorKind::Format,
            "key `general.alignment`: 0 is not a power of two between 8 and",
        ),
        Case(
            // The data still stand at multiples of 32.
            |file| file.set("general.alignment", Meta::U32(4096)),
            ErrorKind::Offsets,
            "is not a multiple of the alignment 4096",
        ),
        Case(
            |file| {
                let name = "x".repeat(5000);
                file.tensors.push(Tensor(name, vec![32], 99, Vec::new()));
            },
            ErrorKind::Dtype,
            "xxx…`: type 99 (unknown) is not supported",
        ),
    ];
    for Case(change, kind, message) in cases {
        let mut file = small();
        change(&mut file);
        let error = run(&file.bytes(), &ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().len() < 500, "{error}");
    }
}
