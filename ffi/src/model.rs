//! Models: opened bundles that are ready to run.

use std::ffi::c_char;

use serde_json::json;
use skimstone::Model;

use crate::bundle::{describe, path_of, skim_bundle};
use crate::error::skim_error;
use crate::guard;
use crate::object::{Handle, Object};
use crate::options::{settings_of, skim_options};
use crate::status::SKIM_STATUS_OK;
use crate::text::{Out, text};

/// A model: immutable, used by any number of sessions and threads at once.
pub struct skim_model {
    pub(crate) model: Model,
}
impl Object for skim_model {
    const NAME: &'static str = "model";
}

fn handle(model: Model) -> *mut skim_model {
    log::info!(
        "model opened: {} bytes of weights, kernels {}, {} threads, context {}",
        model.bundle().weight_bytes(),
        model.kernels(),
        model.threads(),
        model.context()
    );
    Handle::new(skim_model { model }).give()
}

/// Opens the model at `path`: skim_bundle_open and skim_model_new in one, but that the cap is checked before the weights are read.
///
/// Owner: `*model` is the caller's, to free with skim_model_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_open(
    path: *const c_char,
    options: *const skim_options,
    model: *mut *mut skim_model,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_model_open", error, || {
            let out = Out::new(model, "model")?;
            let (path, settings) = (path_of(path)?, settings_of(options)?);
            out.write(handle(Model::open(path, settings.model)?));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Makes a model from an open bundle. Starts the threads that compute; the first use of its tokenizer loads that. Uses `threads`,
/// `max_bytes`, `context` and `kv_format` of `options`, which may be null.
///
/// Owner: `bundle` stays the caller's, who may free it at once; `*model` is the caller's, to free with skim_model_free; `*error`
/// is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_new(
    bundle: *const skim_bundle,
    options: *const skim_options,
    model: *mut *mut skim_model,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_new", bundle, error, |bundle| {
            let out = Out::new(model, "model")?;
            let settings = settings_of(options)?;
            out.write(handle(Model::from_bundle(
                bundle.bundle.clone(),
                settings.model,
            )?));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Describes the model as JSON: what skim_bundle_inspect says, and `kernels`, `threads`, `context`, `memory_used`, `kv_blocks`.
///
/// Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_inspect(
    model: *const skim_model,
    json: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_inspect", model, error, |model| {
            let out = Out::new(json, "json")?;
            let model = &model.model;
            let pool = model.pool_usage();
            let mut about = describe(model.bundle());
            about["kernels"] = json!(model.kernels());
            about["threads"] = json!(model.threads());
            about["context"] = json!(model.context());
            about["memory_used"] = json!(model.memory_used());
            about["kv_blocks"] = json!({
                "in_use": pool.blocks_in_use,
                "free": pool.blocks_free,
                "bytes": pool.block_bytes,
            });
            out.give_string(about.to_string());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Anonymous bytes that the model and its sessions have booked, which is what `max_bytes` limits.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_memory_used(
    model: *const skim_model,
    bytes: *mut u64,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_memory_used", model, error, |model| {
            Out::new(bytes, "bytes")?.write(model.model.memory_used());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Gives the memory that freed sessions left for new ones back to the system: for a memory warning.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_trim_memory(
    model: *const skim_model,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_trim_memory", model, error, |model| {
            model.model.trim_memory();
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The tokens of `length` bytes of UTF-8: `*count` tells how many, and the first `capacity` of them are written to `tokens`, which
/// may be null if `capacity` is 0. Special tokens that are spelled out are recognized; if `add_special` is not 0, those that the
/// tokenizer puts around a text are added.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_tokenize(
    model: *const skim_model,
    text_utf8: *const c_char,
    length: usize,
    add_special: i32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_tokenize", model, error, |model| {
            let out = Out::new(count, "count")?;
            let buffer = match capacity {
                0 => None,
                _ => Some(Out::new(tokens, "tokens")?),
            };
            let prompt = text(text_utf8, length, "text_utf8")?;
            let tokenizer = model.model.require_tokenizer()?;
            let ids = tokenizer.encode(prompt, add_special != 0)?;
            if let Some(buffer) = buffer {
                buffer.write_all(&ids[..ids.len().min(capacity)]);
            }
            out.write(ids.len());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Frees a model. Null does nothing. Sessions of it go on and keep what they need.
///
/// Owner: takes `model`.
/// Threads: any; no other thread may use `model`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_free(model: *mut skim_model) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_model_free", model, |_| Ok(())) }
}
