//! `Model`: a bundle with the backend that runs it. Immutable, cheap to clone, shared between threads.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use skimstone_kernels::{Cpu, KvFormat, fast_cores};

use crate::bundle::{Bundle, OpenOptions};
use crate::config::{ModelConfig, TokenId};
use crate::error::{Error, ErrorKind, Result};
use crate::forward::Forward;
use crate::kv_cache::{KvPool, PoolUsage};
use crate::memory::{
    self, Charge, Ledger, copied_bytes, estimate, kv_format_of, over_cap, tokenizer_bytes,
};
use crate::reason::{ThermalLevel, Thermometer};
use crate::rope::Rope;
use crate::spec::ReasoningSpec;
use crate::tokenizer::{self, Tokenizer};

/// The context of a session that asks for none, where the model allows it. Longer ones are a choice, since the whole context is
/// reserved when a session is created.
const DEFAULT_CONTEXT: usize = 4096;

/// How to open a model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Threads that compute; 0 takes as many as there are fast cores ([`fast_cores`]).
    pub threads: usize,
    /// Hard cap on anonymous memory, sessions included; see [`memory`](crate::memory) for what counts. `None`: no cap.
    pub max_bytes: Option<u64>,
    /// The longest context of any session; `None`: the model's own, at most 4096.
    pub context: Option<usize>,
    /// Read the whole file once and compare checksums (the default). Without it only the header and structure are checked.
    pub verify: bool,
    /// How keys and values are stored; `None`: f32 beside f32 weights, otherwise f16, which takes half the memory and, over a long
    /// context, half the time of reading it.
    pub kv_format: Option<KvFormat>,
    /// Copy the weights into memory of this process, in huge pages where the system has them, instead of mapping the file: slightly
    /// faster decoding for as much anonymous memory as the file is large. See [`OpenOptions::copy`].
    pub copy_weights: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            threads: 0,
            max_bytes: None,
            context: None,
            verify: true,
            kv_format: None,
            copy_weights: false,
        }
    }
}

impl ModelOptions {
    /// The default options.
    pub fn new() -> Self {
        ModelOptions::default()
    }

    /// Sets the number of threads; 0 takes as many as there are fast cores.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the cap on anonymous memory.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = Some(max_bytes);
        self
    }

    /// Sets the longest context of any session.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets how keys and values are stored.
    #[must_use]
    pub fn with_kv_format(mut self, format: KvFormat) -> Self {
        self.kv_format = Some(format);
        self
    }

    /// Sets whether the weights are copied instead of mapped.
    #[must_use]
    pub fn with_copy_weights(mut self, copy: bool) -> Self {
        self.copy_weights = copy;
        self
    }

    /// The longest context of any session of a model of this shape.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a context that the model does not have.
    pub fn context_for(&self, config: &ModelConfig) -> Result<usize> {
        let longest = config.max_position_embeddings;
        match self.context {
            Some(context) if context == 0 || context > longest => {
                let message =
                    format!("a context of {context} positions, the model has 1 to {longest}");
                Err(Error::new(ErrorKind::Argument, message))
            }
            Some(context) => Ok(context),
            None => Ok(longest.min(DEFAULT_CONTEXT)),
        }
    }

    /// Whether checksums are compared when the file is opened.
    #[must_use]
    pub fn with_verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

/// An opened bundle, ready to run. Clones share everything.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    bundle: Arc<Bundle>,
    cpu: Cpu,
    rope: Rope,
    context: usize,
    ledger: Arc<Ledger>,
    pool: Arc<KvPool>,
    tokenizer: OnceLock<Option<(Tokenizer, Charge)>>,
    thermometer: Thermometer,
    _weights: Charge,
}

impl Model {
    /// Opens the bundle at `path`.
    ///
    /// # Errors
    /// Whatever [`Bundle::open`] finds; [`ErrorKind::Memory`] if one session of the context would exceed the cap;
    /// [`ErrorKind::Argument`] for a context that the model does not have.
    pub fn open(path: impl AsRef<Path>, options: ModelOptions) -> Result<Model> {
        let path = path.as_ref();
        // The cap is checked before the weights are read.
        let mut bundle = OpenOptions::new().verify(false).open(path)?;
        if options.copy_weights {
            if let Some(cap) = options.max_bytes {
                let bytes = bundle.file_bytes() as u64;
                if bytes > cap {
                    return Err(
                        over_cap(bytes, cap).with_hint("map the weights instead of copying them")
                    );
                }
            }
            bundle = OpenOptions::new().verify(false).copy(true).open(path)?;
        }
        let verify = options.verify;
        let model = Model::from_bundle(bundle, options)?;
        if verify {
            model
                .bundle()
                .verify()
                .map_err(|error| error.at(path.display()))?;
        }
        Ok(model)
    }

    /// Makes a model from an open bundle, as it is: whether it was verified is up to who opened it.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bundle(bundle: impl Into<Arc<Bundle>>, options: ModelOptions) -> Result<Model> {
        let bundle = bundle.into();
        let config = bundle.config();
        let context = options.context_for(config)?;
        if let Some(cap) = options.max_bytes {
            let estimate = estimate(&bundle, context, 1, options.kv_format);
            if estimate.anonymous > cap {
                return Err(over_cap(estimate.anonymous, cap).with_hint(format!(
                    "one session of {context} positions needs {estimate}"
                )));
            }
        }
        let threads = match options.threads {
            0 => fast_cores(),
            threads => threads,
        };
        memory::check_refusal()?;
        let ledger = Ledger::new(options.max_bytes);
        let weights = ledger.charge(copied_bytes(&bundle))?;
        let pool = Arc::new(KvPool::new(
            kv_format_of(&bundle, options.kv_format),
            config.num_key_value_heads,
            config.head_dim,
            ledger.clone(),
        ));
        Ok(Model(Arc::new(Inner {
            cpu: Cpu::new(threads)?,
            rope: Rope::new(config),
            context,
            ledger,
            pool,
            tokenizer: OnceLock::new(),
            thermometer: Thermometer::default(),
            _weights: weights,
            bundle,
        })))
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.0.bundle
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.0.bundle.config()
    }

    /// What this student was trained to do.
    pub fn reasoning(&self) -> &ReasoningSpec {
        self.0.bundle.reasoning()
    }

    /// The longest context of a session.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// Name of the kernels in use.
    pub fn kernels(&self) -> &'static str {
        self.0.cpu.name()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.0.cpu.threads()
    }

    /// The tokenizer, loaded on first use; `None` if the bundle has none.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if it is malformed, [`ErrorKind::Memory`] if it does not fit under the cap.
    pub fn tokenizer(&self) -> Result<Option<&Tokenizer>> {
        if let Some(tokenizer) = self.0.tokenizer.get() {
            return Ok(tokenizer.as_ref().map(|(tokenizer, _)| tokenizer));
        }
        let bytes = tokenizer_bytes(&self.0.bundle);
        let charge = self.0.ledger.charge(bytes)?;
        memory::probe(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let loaded = self
            .0
            .bundle
            .tokenizer()?
            .map(|tokenizer| (tokenizer, charge));
        memory::check_refusal()?;
        let tokenizer = self.0.tokenizer.get_or_init(|| loaded);
        Ok(tokenizer.as_ref().map(|(tokenizer, _)| tokenizer))
    }

    /// The tokenizer of a model that must have one.
    ///
    /// # Errors
    /// As [`Model::tokenizer`], and [`ErrorKind::Tokenizer`] if the bundle has none.
    pub fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer()?.ok_or_else(|| {
            let (message, hint) = tokenizer::MISSING;
            Error::new(ErrorKind::Tokenizer, message).with_hint(hint)
        })
    }

    /// Tokens that end a text: those of the reasoning specification and of the model's configurations.
    pub fn stop_ids(&self) -> Vec<TokenId> {
        let mut ids = self.reasoning().stop.clone();
        ids.extend(&self.config().eos_token_id);
        ids.extend(&self.bundle().generation().eos_token_id);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Anonymous bytes in use by this model and everything made from it; see [`memory`](crate::memory).
    pub fn memory_used(&self) -> u64 {
        self.0.ledger.used()
    }

    /// What the pool of key/value blocks holds.
    pub fn pool_usage(&self) -> PoolUsage {
        self.0.pool.usage()
    }

    /// Gives the memory of unused key/value blocks back to the system, and with it whatever else the C library keeps of freed memory.
    pub fn trim_memory(&self) {
        self.0.pool.trim();
        crate::memory::return_free_pages();
    }

    /// Says how hot the device is. It holds for all engines of the model from their next step on; see [`ThermalLevel`].
    pub fn set_thermal(&self, level: ThermalLevel) {
        self.0.thermometer.set(level);
    }

    /// How hot the device is, as the app said last.
    pub fn thermal(&self) -> ThermalLevel {
        self.0.thermometer.level()
    }

    pub(crate) fn pool(&self) -> &Arc<KvPool> {
        &self.0.pool
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    pub(crate) fn forward(&self) -> Forward<'_> {
        Forward {
            config: self.config(),
            weights: self.0.bundle.weights(),
            cpu: &self.0.cpu,
            rope: &self.0.rope,
        }
    }

    /// Whether `other` is a clone of this model.
    pub(crate) fn same_as(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Refuses ids outside the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[TokenId]) -> Result<()> {
        let vocab_size = self.config().vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(at) => {
                let message = format!(
                    "token {} is outside the vocabulary of {vocab_size}",
                    ids[at]
                );
                Err(Error::new(ErrorKind::Token, message)
                    .at(format_args!("token {at} of the input")))
            }
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("config", self.config())
            .field("kernels", &self.kernels())
            .field("context", &self.context())
            .finish_non_exhaustive()
    }
}
