//! How to create a session.

use crate::cancel::CancelHandle;

/// How to create a session.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Positions to reserve; `None`: the model's [`context`](crate::Model::context), which is also the most.
    pub context: Option<usize>,
    /// Entries of the KV cache to reserve; `None`: one per position of the context. Fewer bound the memory of a session that
    /// [forgets](crate::Session::forget) positions on the way.
    pub kv_entries: Option<usize>,
    /// A flag that stops this session's work; `None`: a new one.
    pub cancel: Option<CancelHandle>,
}

impl SessionOptions {
    /// The default options.
    pub fn new() -> Self {
        SessionOptions::default()
    }

    /// Sets the number of positions to reserve.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets the number of KV cache entries to reserve.
    #[must_use]
    pub fn with_kv_entries(mut self, kv_entries: usize) -> Self {
        self.kv_entries = Some(kv_entries);
        self
    }

    /// Sets the flag that stops this session's work.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelHandle) -> Self {
        self.cancel = Some(cancel);
        self
    }
}
