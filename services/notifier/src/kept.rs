//! Messages as they are kept: compressed here, since not every Postgres can do it at a bearable price, and as what differs from
//! the template that they were made from, since most of a message is that.

use kernel::Masked;
use std::sync::Arc;
use uuid::Uuid;

/// What messages have in common, and nobody's data: the template around them, as it is on its way.
#[derive(Debug)]
pub struct Pattern {
    id: Uuid,
    text: String,
}

impl Pattern {
    /// The pattern of a text. The same text is the same pattern, whichever process made it.
    pub fn new(text: String) -> Self {
        Self { id: kernel::id::derive("dunlin", "notifier", &text, "pattern"), text }
    }

    /// Made of the text.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A message, compressed: an LZ4 block after its size, with a pattern as its dictionary. Personal: it has no `Debug`.
#[derive(Clone)]
pub struct Kept {
    stored: Vec<u8>,
    pattern: Option<Arc<Pattern>>,
}

impl Kept {
    /// Compresses a message without a pattern.
    pub fn of(raw: &[u8]) -> Self {
        Self { stored: lz4_flex::compress_prepend_size(raw), pattern: None }
    }

    /// Compresses a message that was made from a template. It can only be read with the pattern.
    pub fn with(raw: &[u8], pattern: Arc<Pattern>) -> Self {
        let stored = lz4_flex::block::compress_prepend_size_with_dict(raw, pattern.text.as_bytes());
        Self { stored, pattern: Some(pattern) }
    }

    /// What is stored.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// What has to be stored before.
    pub fn pattern(&self) -> Option<&Arc<Pattern>> {
        self.pattern.as_ref()
    }

    /// The message that was stored, with the text of its pattern, if it has one. `None`: what is stored is none.
    pub fn open(stored: &[u8], pattern: Option<&[u8]>) -> Option<Masked<Vec<u8>>> {
        let dictionary = pattern.unwrap_or_default();
        lz4_flex::block::decompress_size_prepended_with_dict(stored, dictionary).ok().map(Masked::new)
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
        assert_eq!(Kept::open(kept.stored(), None).map(Masked::into_inner), Some(raw));
        assert_eq!(Kept::open(Kept::of(b"").stored(), None).map(Masked::into_inner), Some(Vec::new()));
        assert!(Kept::open(b"", None).is_none() && Kept::open(b"Dear Ada", None).is_none());
    }

    #[test]
    fn only_what_differs_from_the_pattern_is_kept() {
        let text = |name: &str, amount: &str| {
            let words: String = (0..200).map(|n| format!("word {n} of a template; ")).collect();
            format!("Dear {name}, {words} you owe {amount}. {words}")
        };
        let pattern = Arc::new(Pattern::new(text("{{ name }}", "{{ amount }}")));
        let raw = text("Ada", "12.00");
        let kept = Kept::with(raw.as_bytes(), pattern.clone());
        assert!(kept.stored().len() < 150, "{} bytes", kept.stored().len());
        assert_eq!(
            Kept::open(kept.stored(), Some(pattern.text().as_bytes())).map(Masked::into_inner),
            Some(raw.into_bytes())
        );
        assert_eq!(Pattern::new(pattern.text().to_owned()).id(), pattern.id());
        assert_ne!(Pattern::new(String::new()).id(), pattern.id());
    }
}
