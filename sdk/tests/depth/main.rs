//! Laws of depth, on random models: exits, and guesses that are verified.
//!
//! Of the oracles that any runtime for adaptive reasoning must meet, these are checked, and where:
//!
//! | oracle | test |
//! | --- | --- |
//! | ragged KV without an exit is dense, bit for bit | `exits::without_an_exit_all_is_as_in_a_plain_step` |
//! | a threshold of 1 or more is the full path | the same, `routes::a_threshold_of_one_is_the_full_route`, and of latent steps `shortcut::a_threshold_of_one_is_the_full_path` |
//! | an exit of every token is a model of fewer layers, bit for bit | `exits::an_exit_of_every_token_is_a_model_of_fewer_layers` |
//! | mixed depths agree with a forward pass in f64 within 1e-4 | `exits::mixed_depths_are_those_of_the_naive_forward_pass` |
//! | routers, adapters, halting and resuming agree with f64 within 1e-4 | `shortcut::routed_steps_are_those_of_the_naive_forward_pass` |
//! | guesses change nothing but costs, bit for bit | all of `drafts`, `routes::drafts_change_costs_only`, `student` |
//! | fork and truncate are a fresh prefill | `session.rs: fork_and_truncate_are_as_fresh`; ragged: `exits::sessions_of_ragged_depth_…` |
//! | a one-hot soft input is the token | `session.rs: one_hot_soft_input_and_embedding_are_the_token` |
//! | no latent steps are no thinking | `engine/routes.rs: no_latent_steps_is_direct` |
//! | the training graph is the runtime within 1e-4 | `training/tests/parity.rs`: whole depth and latent steps; exits by the two rows above |
//!
//! Not there, since the runtime has no such routes yet: a loop of one iteration is plain; an empty abstract span hides the rationale; a
//! constrained decode emits nothing outside its codebook.

#[path = "../tiny/mod.rs"]
mod tiny;

mod drafts;
mod exits;
mod routes;
mod shortcut;
#[cfg(feature = "sleep")]
mod student;

use skimstone::kernels::{Format, KvFormat};
use skimstone::{Model, ModelOptions, ModelType, Session, SessionOptions, TokenId};

pub(crate) fn session(model: &Model) -> Session {
    Session::new(model, SessionOptions::new()).unwrap()
}

/// Every family in every format of weights and of keys and values.
pub(crate) fn each_model(mut test: impl FnMut(&Model)) {
    for family in ModelType::ALL {
        for format in Format::ALL {
            for kv in KvFormat::ALL {
                let options = ModelOptions::default().with_threads(1);
                test(&tiny::model_with(
                    family,
                    format,
                    options.with_kv_format(kv),
                ));
            }
        }
    }
}

/// The most likely token.
pub(crate) fn best(logits: &[f32]) -> TokenId {
    let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).reduce(larger).unwrap() as TokenId
}
