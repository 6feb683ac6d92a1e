//! skimstone: a lean runtime for reasoning students, on the device.
//!
//! ```text
//! student.skim ─Bundle::open─▶ Bundle   config, weights, tokenizer, chat template, reasoning specification
//! ```
//!
//! A [`Bundle`] is a validated, memory-mapped file; [`BundleWriter`] makes one.

mod bundle;
mod config;
mod error;
#[cfg(feature = "sleep")]
pub mod sleep;
mod spec;
mod tokenizer;
mod weights;

pub use bundle::{
    Bundle, BundleSpec, BundleWriter, OpenOptions, PendingFile, TensorDecl, TensorInfo,
};
pub use config::{GenerationConfig, ModelConfig, ModelType, RopeScaling, TensorShape, TokenId};
pub use error::{Error, ErrorKind, Result};
pub use spec::{LatentMap, ReasoningSpec, RouteKind, RouteSpec};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use weights::{LayerWeights, Weights};

pub use skimstone_kernels as kernels;
