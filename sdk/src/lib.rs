//! skimstone: a lean runtime for reasoning students, on the device.
//!
//! ```text
//! student.skim ─Bundle::open─▶ Bundle   config, weights, tokenizer, chat template, reasoning specification
//!                └─▶ Model              immutable, shared by threads: bundle + kernels
//!                     └─▶ Session       KV cache + scratch + position, all sized at creation; `step` never allocates
//!                          └─▶ Engine   runs a route under a budget, emits events, always ends in an answer
//! ```
//!
//! A [`Bundle`] is a validated, memory-mapped file; [`BundleWriter`] makes one. [`Generate`] is plain text generation on a
//! [`Session`]; [`reason::Engine`] adds routes, thinking and budgets.
//!
//! ```no_run
//! use skimstone::reason::{Ask, Budget, Engine, EngineOptions, Event};
//! use skimstone::{Model, ModelOptions};
//!
//! # fn main() -> skimstone::Result<()> {
//! let model = Model::open("student.skim", ModelOptions::default().with_max_bytes(64 << 20))?;
//! let mut engine = Engine::new(&model, EngineOptions::default())?;
//! let ask = Ask::new().with_route("skip").with_budget(Budget::unlimited().with_tokens(200));
//! engine.ask_text("Was last night long enough?", &ask)?;
//! while let Some(event) = engine.next_event()? {
//!     match event {
//!         Event::ThinkingText(piece) => eprint!("{}", piece.text),
//!         Event::AnswerText(piece) => print!("{}", piece.text),
//!         Event::Finished(answer) => eprintln!("\n{} tokens", answer.usage.generated_tokens),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here prints, connects to anything, or panics on input from outside. Memory is known before it is taken
//! ([`memory::estimate`]) and capped ([`ModelOptions::max_bytes`]); any work can be stopped from another thread
//! ([`CancelHandle`]).

mod batch;
mod bundle;
mod cancel;
mod chat;
mod config;
mod error;
#[cfg(feature = "eval")]
pub mod eval;
mod forward;
mod generate;
pub mod import;
mod kv_cache;
pub mod memory;
mod model;
pub mod reason;
mod rope;
mod sampler;
mod session;
mod side;
#[cfg(feature = "sleep")]
pub mod sleep;
mod spec;
mod stop;
#[cfg(feature = "text")]
mod tokenizer;
#[cfg(not(feature = "text"))]
#[path = "tokenizer/disabled.rs"]
mod tokenizer;
mod weights;

pub use batch::Batch;
pub use bundle::{
    Bundle, BundleSpec, BundleWriter, OpenOptions, PendingFile, TensorDecl, TensorInfo,
};
pub use cancel::CancelHandle;
pub use chat::{ChatOptions, ChatTemplate, Message};
pub use config::{GenerationConfig, ModelConfig, ModelType, RopeScaling, TensorShape, TokenId};
pub use error::{Error, ErrorKind, Result};
pub use generate::{FinishReason, Generate, GenerateOptions, Piece, Stats};
pub use kv_cache::{BLOCK_POSITIONS, PoolUsage};
pub use memory::MemoryEstimate;
pub use model::{Model, ModelOptions};
pub use sampler::{Sampled, Sampler, SamplerOptions};
pub use session::{LatentStep, Session, SessionOptions, SessionUsage, Snapshot, StepInput};
pub use side::{LatentMapWeights, ShortcutSize, ShortcutWeights, SideModules};
pub use spec::{
    AutoSpec, Calibration, CalibrationPoint, Depth, DepthPolicy, DraftSpec, ExitCalibration,
    ExitDecay, ExitMeasure, ExitPoint, ExitSpec, GateKind, LadderCalibration, LadderSpec,
    LatentMap, Limited, MissingKv, ReasoningSpec, RouteDepth, RouteKind, RouteSpec, Rung,
    ShortcutSpec, Sorted,
};
pub use stop::StopStrings;
pub use tokenizer::{DecodeStream, Tokenizer};
pub use weights::{LayerWeights, Weights};

pub use skimstone_kernels as kernels;

#[cfg(all(doctest, feature = "sleep"))]
#[doc = include_str!("../../README.md")]
mod readme {}
