//! The structs that kernels take, field by field as `device.cuh` and its like declare them.

use std::marker::PhantomData;

use super::Argument;

/// An address in the memory of the device, of values like `T`. 0 is null.
#[derive(Debug)]
pub struct Ptr<T>(u64, PhantomData<fn() -> T>);

impl<T> Ptr<T> {
    /// No address.
    pub const NULL: Self = Self::new(0);

    /// The address as the driver gave it.
    pub const fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// The address as a number.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The same address, of values of another type.
    pub const fn cast<U>(self) -> Ptr<U> {
        Ptr::new(self.0)
    }

    /// The address `count` values on.
    #[must_use]
    pub const fn add(self, count: usize) -> Self {
        Self::new(self.0 + (count * size_of::<T>()) as u64)
    }
}

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

impl<T> Default for Ptr<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> Argument for Ptr<T> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }
}

/// Declares structs of the device: the fields follow each other without gaps, as the declarations in the source do.
macro_rules! device_structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Argument for $name {
                fn write(&self, out: &mut Vec<u8>) {
                    $(self.$field.write(out);)*
                }
            }
        )*
        /// Every struct with its fields and their types.
        #[cfg(test)]
        pub(super) const STRUCTS: &[(&str, &[(&str, &str)])] =
            &[$((stringify!($name), &[$((stringify!($field), stringify!($type))),*])),*];
    };
}

device_structs! {
    /// A weight matrix and its bias.
    Matrix {
        /// The bytes of the bundle.
        data: Ptr<u8>,
        /// `[rows]`, or null.
        bias: Ptr<f32>,
        /// Outputs.
        rows: u32,
        /// Inputs.
        cols: u32,
        /// Number of the [`Format`](crate::Format), see [`format_number`](super::format_number).
        format: u32,
        /// 0
        reserved: u32,
    }

    /// A product and where it goes.
    Product {
        /// The weights; without rows there is no product.
        w: Matrix,
        /// `[T, rows]`
        y: Ptr<f32>,
        /// Whether the product is added to what `y` holds.
        add: u32,
        /// 0
        reserved: u32,
    }

    /// Up to three products of the same activations.
    Products {
        /// The ones without rows are not there.
        of: [Product; 3],
    }

    /// The sizes of attention.
    AttentionShape {
        /// Query heads `H`.
        heads: u32,
        /// Key and value heads `G`.
        kv_heads: u32,
        /// Width of one head `D`, even.
        head_dim: u32,
        /// Number of the [`KvFormat`](crate::KvFormat), see [`kv_format_number`](super::kv_format_number).
        kv_format: u32,
        /// Factor on the scores.
        scale: f32,
        /// Of the norms of queries and keys.
        eps: f32,
    }

    /// A block of positions in the cache, laid out as [`KvBlock`](crate::KvBlock) says. Where entries are of 8 bits, `D` times the
    /// stride must be a multiple of four: the device reads the scales behind the codes as whole floats.
    KvBlock {
        /// Keys.
        k: Ptr<u8>,
        /// Values.
        v: Ptr<u8>,
        /// `[stride]`, absolute.
        positions: Ptr<u32>,
        /// Bit `i` tells whether entry `i` may be seen at all.
        visible: u64,
        /// Entries in use.
        len: u32,
        /// Entries that fit, at most 64.
        stride: u32,
    }

    /// The blocks of one layer.
    KvLayer {
        /// `[capacity]`
        blocks: Ptr<KvBlock>,
        /// Blocks that have entries: they come first.
        count: u32,
        /// All blocks.
        capacity: u32,
    }

    /// Where the entry of one position goes.
    KvSlot {
        /// Keys of the block.
        k: Ptr<u8>,
        /// Values of the block.
        v: Ptr<u8>,
        /// Number of the entry.
        slot: u32,
        /// Entries of the block.
        stride: u32,
    }

    /// One layer for the persistent kernel.
    LayerWeights {
        /// `[H·D, E]`
        q: Matrix,
        /// `[G·D, E]`
        k: Matrix,
        /// `[G·D, E]`
        v: Matrix,
        /// `[E, H·D]`
        o: Matrix,
        /// `[F, E]`
        gate: Matrix,
        /// `[F, E]`
        up: Matrix,
        /// `[E, F]`
        down: Matrix,
        /// `[E]`
        input_norm: Ptr<f32>,
        /// `[E]`
        post_norm: Ptr<f32>,
        /// `[D]`, or null.
        q_norm: Ptr<f32>,
        /// `[D]`, or null.
        k_norm: Ptr<f32>,
        /// The gate after this layer: `[E]`, or null.
        router: Ptr<f32>,
        /// Its bias.
        router_bias: f32,
        /// From this value on the step ends here.
        threshold: f32,
    }

    /// From a state to the next input; without rows the state itself.
    LatentMap {
        /// `[I, E]`
        up: Matrix,
        /// `[E, I]`
        down: Matrix,
        /// `[E]`
        norm: Ptr<f32>,
        /// `[E]`
        norm_bias: Ptr<f32>,
    }

    /// A model for the persistent kernel.
    DecodeModel {
        /// `[L]`
        layers: Ptr<LayerWeights>,
        /// The latent map.
        latent: LatentMap,
        /// `[V, E]`, quantized.
        embed: Matrix,
        /// `[V, E]`, quantized.
        head: Matrix,
        /// `[E]`
        norm: Ptr<f32>,
        /// Cosines and sines `[positions, D/2]`.
        angles: Ptr<[f32; 2]>,
        /// The sizes of attention.
        shape: AttentionShape,
        /// `E`
        hidden: u32,
        /// `L`
        layer_count: u32,
        /// Of the norms of the residual stream.
        eps: f32,
        /// 0
        reserved: u32,
    }

    /// What the persistent kernel works in.
    DecodeBuffers {
        /// `[E]`: the input of the first step; of odd numbers of steps the next input is in `other`.
        hidden: Ptr<f32>,
        /// `[E]`
        other: Ptr<f32>,
        /// `[H·D]`
        q: Ptr<f32>,
        /// `[G·D]`
        k: Ptr<f32>,
        /// `[G·D]`
        v: Ptr<f32>,
        /// `[splits, H, D + 2]`, at least `[E]`.
        parts: Ptr<f32>,
        /// `[F]`, whole blocks.
        gated: Ptr<i8>,
        /// A scale and a sum per block.
        gated_scales: Ptr<[u32; 2]>,
        /// `[I]`
        inner: Ptr<f32>,
        /// `[V]`
        logits: Ptr<f32>,
        /// `[steps]`, 0 before.
        best: Ptr<u64>,
        /// `[steps, E]`: states after the final norm.
        states: Ptr<f32>,
        /// `[steps]`: layers that ran.
        layers_run: Ptr<u32>,
        /// `[L]`
        kv: Ptr<KvLayer>,
        /// `[steps]`: 0 latent, 1 token.
        kinds: Ptr<u32>,
        /// Two words of 0.
        barrier: Ptr<[u32; 2]>,
        /// 1 after a cache was full.
        error: Ptr<u32>,
    }
}
