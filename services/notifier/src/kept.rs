//! Messages as they are kept: compressed here, since not every Postgres can do it at a bearable price.

use kernel::Masked;

/// A message, compressed: an LZ4 block after its size. Personal: it has no `Debug`.
#[derive(Clone)]
pub struct Kept(Vec<u8>);

impl Kept {
    /// Compresses a message.
    pub fn of(raw: &[u8]) -> Self {
        Self(lz4_flex::compress_prepend_size(raw))
    }

    /// What is stored.
    pub fn stored(&self) -> &[u8] {
        &self.0
    }

    /// The message that was stored. `None`: what is stored is none.
    pub fn open(stored: &[u8]) -> Option<Masked<Vec<u8>>> {
        lz4_flex::decompress_size_prepended(stored).ok().map(Masked::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read_again() {
        let raw = "Dear Ada, ".repeat(400).into_bytes();
        let kept = Kept::of(&raw);
        assert!(kept.stored().len() < raw.len() / 10, "{} bytes", kept.stored().len());
        assert_eq!(Kept::open(kept.stored()).map(Masked::into_inner), Some(raw));
        assert_eq!(Kept::open(Kept::of(b"").stored()).map(Masked::into_inner), Some(Vec::new()));
        assert!(Kept::open(b"").is_none() && Kept::open(b"Dear Ada").is_none());
    }
}
