//! Models: opened bundles that are ready to run.

use std::ffi::c_char;

use serde_json::json;
use skimstone::Model;
use skimstone::reason::ThermalLevel;

use crate::bundle::{describe, path_of, skim_bundle};
use crate::error::skim_error;
use crate::guard;
use crate::object::{Handle, Object};
use crate::options::{settings_of, skim_options};
use crate::status::{Failure, SKIM_STATUS_OK};
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

/// Not hot: everything as asked.
pub const SKIM_THERMAL_NOMINAL: i32 = 0;
/// Warm. Of Android's thermal status: light.
pub const SKIM_THERMAL_FAIR: i32 = 1;
/// Hot. Of Android's thermal status: moderate and severe.
pub const SKIM_THERMAL_SERIOUS: i32 = 2;
/// About to be stopped by the system. Of Android's thermal status: critical and beyond.
pub const SKIM_THERMAL_CRITICAL: i32 = 3;

/// Says how hot the device is, by one of SKIM_THERMAL_…: the hotter, the less effort goes into a question. From SKIM_THERMAL_FAIR on
/// `cot` becomes `skip`, at SKIM_THERMAL_CRITICAL every route becomes `direct`, where the model has such a route; this holds from the
/// next question on. Thinking ends after the number of tokens that 90, 50 or 25 percent of the questions that the route was measured
/// on keep to (of a route that was not measured: after this share of its own limit, or of the context), and latent steps after 3/4,
/// 1/2 or 1/4 of them; this holds from the next step on. Answers get worse. The finished event has the route and what was cut.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_model_set_thermal(
    model: *const skim_model,
    level: i32,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_model_set_thermal", model, error, |model| {
            let known = usize::try_from(level).ok();
            let level = known.and_then(|level| ThermalLevel::ALL.get(level));
            let level = level.ok_or_else(|| {
                Failure::argument(format!("`level` is out of range, expected {SKIM_THERMAL_NOMINAL} to {SKIM_THERMAL_CRITICAL}"))
            })?;
            model.model.set_thermal(*level);
            log::info!("thermal level {}", level.name());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Describes the model as JSON: what skim_bundle_inspect says, and `kernels`, `threads`, `context`, `memory_used`, `kv_blocks`,
/// `thermal`.
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
            about["thermal"] = json!(model.thermal().name());
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

/// Gives the memory that freed sessions left for new ones back to the system. For a memory warning, besides
/// skim_session_memory_warning for each session.
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
