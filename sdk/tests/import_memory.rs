//! Import streams: beside the mapped source it holds one row and a write buffer, however large the tensors are.
#![allow(unsafe_code, reason = "a global allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use skimstone::ModelConfig;
use skimstone::import::{ImportOptions, import};
use skimstone::kernels::Format;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `pointer` came from `System` by `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the writer gathers before it writes.
const WRITES: usize = 2 << 20;

#[test]
fn peak_memory_is_far_below_one_tensor() {
    let mut config = common::config_json("qwen3");
    config["vocab_size"] = json!(20_000);
    config["hidden_size"] = json!(256);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = ModelConfig::from_json(&config.to_string())
        .unwrap()
        .tensors();
    let largest = tensors
        .iter()
        .map(|t| t.shape.iter().product::<usize>() * 4)
        .max()
        .unwrap();
    let zeros = vec![0u8; largest];
    let views = tensors.into_iter().map(|tensor| {
        let bytes = &zeros[..tensor.shape.iter().product::<usize>() * 4];
        (
            tensor.name,
            TensorView::new(Dtype::F32, tensor.shape, bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    drop(zeros);

    for format in Format::ALL {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let options = ImportOptions::new(format).tokenizer(false);
        import(
            folder.path(),
            &folder.path().join("out.skim"),
            &options,
            &mut |_, _, _| {},
        )
        .unwrap();
        let used = PEAK.load(Relaxed) - before;
        assert!(
            used < WRITES + largest / 20,
            "{format}: {used} bytes beside a largest tensor of {largest}"
        );
    }
}
