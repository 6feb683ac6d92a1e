//! Side modules: small networks of a bundle beside the model's own layers, which routes use that were trained with them.

pub(crate) mod latent_map;
pub(crate) mod shortcut;

use crate::config::{ModelConfig, TensorShape};

pub use latent_map::LatentMapWeights;
pub use shortcut::{ShortcutSize, ShortcutWeights};

/// Which side modules there are, and their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideModules {
    /// Width of the hidden layer of the latent map, if there is one.
    pub latent_map_size: Option<usize>,
    /// Sizes of the routers and adapters, if there are any.
    pub shortcut: Option<ShortcutSize>,
}

impl SideModules {
    /// Their tensors beside those of [`ModelConfig::tensors`], by name and shape: the latent map's, then those of routers and adapters layer by layer.
    pub fn tensors(&self, config: &ModelConfig) -> Vec<TensorShape> {
        let map = self
            .latent_map_size
            .map(|inner| latent_map::tensors(config.hidden_size, inner));
        let shortcut = self.shortcut.map(|size| {
            let layers = shortcut::layers(config.num_hidden_layers);
            let tensors = layers.flat_map(|layer| size.tensors(config.hidden_size, layer));
            tensors.collect()
        });
        map.into_iter()
            .chain(shortcut)
            .flatten()
            .collect::<Vec<_>>()
    }
}
