//! Sessions as bytes: written whole, checked whole before anything of them is used.
//!
//! ```text
//! "skimsess"  version  fingerprint of the bundle  layout of keys and values  layers
//! prompt: count, tokens          note: count, bytes          position  which outputs are fresh  where a latent step resumes  hidden state, normed, logits
//! per layer: entries, positions, visibility, blocks          crc32 of everything before
//! ```
//!
//! Numbers are little-endian. The fingerprint covers every tensor, since the bundle's header has their checksums: keys and values of
//! other weights would give wrong answers in silence. The note is the engine's: the question that was being answered, if there was one.

use std::io::Write;

use super::{Fresh, Session, Snapshot};
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::kv_cache::KvSnapshot;
use crate::memory;

const MAGIC: &[u8; 8] = b"skimsess";
const VERSION: u32 = 3;
const CRC_BYTES: usize = 4;

/// A session that was saved, checked.
pub(crate) struct Saved {
    /// The tokens that it began with.
    pub(crate) prompt: Vec<TokenId>,
    /// Whatever the engine noted.
    pub(crate) note: Vec<u8>,
    pub(crate) snapshot: Snapshot,
}

/// Takes numbers off the front of bytes; too few of them are an error.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count).ok_or_else(|| {
            let message = format!("{count} more bytes are needed, {} are left", self.0.len());
            Error::new(ErrorKind::Truncated, message)
        })?;
        self.0 = rest;
        Ok(front)
    }

    /// `count` numbers of `N` bytes.
    pub(crate) fn array<const N: usize, T>(
        &mut self,
        count: usize,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        // The bytes are there before any memory is taken for what they say.
        let bytes = self.take(count.saturating_mul(N))?;
        let mut numbers = Vec::new();
        memory::reserve(&mut numbers, count)?;
        numbers.extend(bytes.as_chunks().0.iter().map(|bytes| number(*bytes)));
        Ok(numbers)
    }

    fn number<const N: usize, T>(&mut self, number: fn([u8; N]) -> T) -> Result<T> {
        let numbers = self.array(1, number)?.into_iter().next();
        numbers.ok_or_else(|| Error::new(ErrorKind::Truncated, "a number is missing"))
    }

    /// A number of things that are in memory.
    pub(crate) fn count(&mut self) -> Result<usize> {
        let count = self.number(u64::from_le_bytes)?;
        usize::try_from(count)
            .map_err(|_| Error::new(ErrorKind::Format, format!("a count of {count}")))
    }
}

/// Passes bytes on and computes their checksum.
struct Summed<W> {
    out: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Session {
    /// Writes the state of this moment, and `prompt`, the tokens that it began with.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if `out` refuses; [`ErrorKind::Memory`] if the system has none.
    pub fn save(&self, prompt: &[TokenId], out: impl Write) -> Result<()> {
        self.save_with_note(prompt, &[], out)
    }

    /// [`Session::save`] with bytes that come back as they are.
    pub(crate) fn save_with_note(
        &self,
        prompt: &[TokenId],
        note: &[u8],
        out: impl Write,
    ) -> Result<()> {
        let unwritable =
            |error: std::io::Error| Error::new(ErrorKind::Io, error.to_string()).with_source(error);
        let outputs = [&self.hidden, &self.normed, &self.logits];
        let values = outputs.iter().map(|output| output.len()).sum::<usize>() + prompt.len();
        let mut head = Vec::new();
        memory::reserve(&mut head, 128 + note.len() + values * size_of::<u32>())?;
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend(self.model.bundle().fingerprint().to_le_bytes());
        head.extend(self.layout().iter().flat_map(|number| number.to_le_bytes()));
        head.extend((prompt.len() as u64).to_le_bytes());
        head.extend(prompt.iter().flat_map(|id| id.to_le_bytes()));
        head.extend((note.len() as u64).to_le_bytes());
        head.extend(note);
        head.extend((self.position as u64).to_le_bytes());
        head.extend((self.fresh as u32).to_le_bytes());
        head.extend((self.resume as u32).to_le_bytes());
        head.extend(outputs.into_iter().flatten().flat_map(|x| x.to_le_bytes()));

        let mut out = Summed {
            out,
            crc: crc32fast::Hasher::new(),
        };
        out.write_all(&head).map_err(unwritable)?;
        self.kv
            .write(self.position as u32, &mut out)?
            .map_err(unwritable)?;
        let crc = out.crc.finalize();
        out.out.write_all(&crc.to_le_bytes()).map_err(unwritable)?;
        out.out.flush().map_err(unwritable)
    }

    /// Returns to a state that [`Session::save`] wrote, in this process or another; the prompt that came with it.
    ///
    /// # Errors
    /// Nothing changes then. [`ErrorKind::Format`], [`ErrorKind::Truncated`], [`ErrorKind::Version`], [`ErrorKind::Checksum`] if these
    /// are not the bytes of a session; [`ErrorKind::Argument`] for those of another model or another format of keys and values;
    /// [`ErrorKind::ContextFull`] if they do not fit; [`ErrorKind::Memory`] if the cap does not allow it.
    pub fn restore_saved(&mut self, bytes: &[u8]) -> Result<Vec<TokenId>> {
        let saved = self.read_saved(bytes)?;
        self.restore(&saved.snapshot)?;
        Ok(saved.prompt)
    }

    /// What [`Session::save_with_note`] wrote, checked against this session, which stays as it is.
    pub(crate) fn read_saved(&self, bytes: &[u8]) -> Result<Saved> {
        self.read(bytes).map_err(|error| error.at("saved session"))
    }

    fn layout(&self) -> [u32; 5] {
        let [format, kv_heads, head_dim, block] = self.model.pool().layout();
        let layers = self.model.config().num_hidden_layers as u32;
        [format, kv_heads, head_dim, block, layers]
    }

    fn read(&self, bytes: &[u8]) -> Result<Saved> {
        let mut reader = Reader(bytes);
        if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
            return Err(Error::new(
                ErrorKind::Format,
                "these bytes are no saved session",
            ));
        }
        let version = reader.number(u32::from_le_bytes)?;
        if version != VERSION {
            let message = format!("it has version {version}, this runtime reads {VERSION}");
            return Err(Error::new(ErrorKind::Version, message));
        }
        let Some((whole, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
            return Err(Error::new(ErrorKind::Truncated, "it has no checksum"));
        };
        let (crc, actual) = (u32::from_le_bytes(*crc), crc32fast::hash(whole));
        if crc != actual {
            let message = format!("its checksum is {actual:08x}, recorded is {crc:08x}");
            return Err(Error::new(ErrorKind::Checksum, message)
                .with_hint("it is damaged or was cut short; begin a new session"));
        }
        let mut reader = Reader(&whole[MAGIC.len() + size_of::<u32>()..]);
        let model = &self.model;
        let (fingerprint, own) = (
            reader.number(u64::from_le_bytes)?,
            model.bundle().fingerprint(),
        );
        if fingerprint != own {
            let message =
                format!("it belongs to the model {fingerprint:016x}, this one is {own:016x}");
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let layout = reader.array(self.layout().len(), u32::from_le_bytes)?;
        if layout != self.layout() {
            let message = format!(
                "its keys and values have the layout {layout:?}, this session has {:?}",
                self.layout()
            );
            return Err(Error::new(ErrorKind::Argument, message)
                .with_hint("open the model with the same kv_format"));
        }
        let count = reader.count()?;
        let prompt: Vec<TokenId> = reader.array(count, u32::from_le_bytes)?;
        model.check_ids(&prompt)?;
        let count_of_note = reader.count()?;
        let note = memory::copy(reader.take(count_of_note)?)?;
        let position = reader.count()?;
        if position > self.context {
            return Err(self.context_full(position));
        }
        if count > position {
            let message = format!("a prompt of {count} tokens in {position} positions");
            return Err(Error::new(ErrorKind::Format, message));
        }
        let fresh = match reader.number(u32::from_le_bytes)? {
            0 => Fresh::Nothing,
            1 if position > 0 => Fresh::Hidden,
            2 if position > 0 => Fresh::Logits,
            other => {
                return Err(Error::new(
                    ErrorKind::Format,
                    format!("outputs of kind {other}"),
                ));
            }
        };
        let layers = model.config().num_hidden_layers;
        let resume = reader.number(u32::from_le_bytes)? as usize;
        if resume >= layers || resume > 0 && fresh == Fresh::Nothing {
            let message = format!("a latent step that resumes at layer {resume} of {layers}");
            return Err(Error::new(ErrorKind::Format, message));
        }
        let [hidden, normed, logits] = [&self.hidden, &self.normed, &self.logits]
            .map(|own| reader.array(own.len(), f32::from_le_bytes));
        let snapshot = Snapshot {
            kv: KvSnapshot::read(&mut reader, model.pool(), layers, position)?,
            model: model.clone(),
            position,
            hidden: hidden?,
            normed: normed?,
            logits: logits?,
            fresh,
            resume,
        };
        if !reader.0.is_empty() {
            let message = format!("{} bytes follow its end", reader.0.len());
            return Err(Error::new(ErrorKind::TrailingBytes, message));
        }
        Ok(Saved {
            prompt,
            note,
            snapshot,
        })
    }
}
