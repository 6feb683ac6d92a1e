//! The model inside a tokenizer: byte pairs are ours, the rest is the `tokenizers` crate's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model as _, Result, Token};

use super::byte_pairs::BytePairs;

/// What turns a word into tokens.
pub(super) enum Model {
    BytePairs(BytePairs),
    Other(ModelWrapper),
}

impl Model {
    /// The highest id of the vocabulary + 1.
    pub(super) fn id_limit(&self) -> usize {
        match self {
            Model::BytePairs(model) => model.table().tokens(),
            Model::Other(model) => {
                let highest = model.get_vocab().into_values().max();
                highest.map_or(0, |id| id as usize + 1)
            }
        }
    }
}

impl tokenizers::Model for Model {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match self {
            Model::BytePairs(model) => model.tokenize(word),
            Model::Other(model) => model.tokenize(word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Model::BytePairs(model) => model.table().id(token),
            Model::Other(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Model::BytePairs(model) => model.table().token(id).map(str::to_owned),
            Model::Other(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Model::BytePairs(model) => {
                let vocabulary = model.table().vocabulary();
                vocabulary
                    .map(|(token, id)| (token.to_owned(), id))
                    .collect()
            }
            Model::Other(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Model::BytePairs(model) => model.table().named(),
            Model::Other(model) => model.get_vocab_size(),
        }
    }

    // The trait demands both; a runtime neither saves nor trains.

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer of the runtime cannot be saved".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Model::BytePairs(_) => TrainerWrapper::BpeTrainer(BpeTrainer::default()),
            Model::Other(model) => model.get_trainer(),
        }
    }
}
