//! How many segments a text message takes. Pure.
//!
//! A text in the characters of GSM 03.38 (3GPP TS 23.038, 6.2.1) takes 7 bits for each, those of its extension table 14: 160 fit
//! into one segment, 153 into each of several. Any other character makes it UCS-2: 70 units of 16 bits, or 67. What takes two
//! units is never parted.

/// The basic alphabet, without the escape.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿\
                     abcdefghijklmnopqrstuvwxyzäöñüà";
/// The extension table: each is an escape and a character.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// How a text is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Some character is not in GSM's alphabet.
    pub ucs2: bool,
    /// How many; each is charged.
    pub count: usize,
}

/// Counts the segments of a text.
pub fn count(text: &str) -> Segments {
    let septets: Option<Vec<usize>> = text.chars().map(septets).collect();
    match septets {
        Some(sizes) => Segments { ucs2: false, count: pack(&sizes, 160, 153) },
        None => {
            let sizes: Vec<usize> = text.chars().map(char::len_utf16).collect();
            Segments { ucs2: true, count: pack(&sizes, 70, 67) }
        }
    }
}

fn septets(c: char) -> Option<usize> {
    if BASIC.contains(c) { Some(1) } else { EXTENSION.contains(c).then_some(2) }
}

/// How many segments characters of these sizes take: one alone, or several with less room each.
fn pack(sizes: &[usize], alone: usize, of_several: usize) -> usize {
    if sizes.iter().sum::<usize>() <= alone {
        return 1;
    }
    let (mut segments, mut used) = (1, 0);
    for size in sizes {
        if used + size > of_several {
            (segments, used) = (segments + 1, 0);
        }
        used += size;
    }
    segments
}

/// A text with the ornaments of typesetting as plain characters: one curly quote would more than halve a segment.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '‘' | '’' | '‚' | '`' | '´' => plain.push('\''),
            '“' | '”' | '„' | '«' | '»' => plain.push('"'),
            '–' | '—' | '‑' | '−' => plain.push('-'),
            '…' => plain.push_str("..."),
            '\u{a0}' | '\u{202f}' | '\u{2009}' | '\t' => plain.push(' '),
            '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{ad}' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (bool, usize) {
        let Segments { ucs2, count } = count(text);
        (ucs2, count)
    }

    #[test]
    fn gsm_holds_160_alone_and_153_of_several() {
        assert_eq!(BASIC.chars().count(), 127, "128 without the escape");
        assert_eq!(of(""), (false, 1));
        assert_eq!(of(&"a".repeat(160)), (false, 1));
        assert_eq!(of(&"ä".repeat(160)), (false, 1));
        assert_eq!(of(&"a".repeat(161)), (false, 2));
        assert_eq!(of(&"a".repeat(306)), (false, 2));
        assert_eq!(of(&"a".repeat(307)), (false, 3));
    }

    #[test]
    fn the_extension_takes_two_and_is_not_parted() {
        assert_eq!(of(&"€".repeat(80)), (false, 1));
        assert_eq!(of(&"€".repeat(81)), (false, 2));
        // 152 and a euro: the euro begins the next one, so one fits less.
        let parted = format!("{}€{}", "a".repeat(152), "a".repeat(151));
        assert_eq!(of(&parted), (false, 2));
        assert_eq!(of(&format!("{parted}a")), (false, 3), "306 septets, but one is lost at the border");
    }

    #[test]
    fn anything_else_is_ucs2() {
        assert_eq!(of("ł"), (true, 1));
        assert_eq!(of(&"ł".repeat(70)), (true, 1));
        assert_eq!(of(&"ł".repeat(71)), (true, 2));
        assert_eq!(of(&"ł".repeat(134)), (true, 2));
        assert_eq!(of(&"ł".repeat(135)), (true, 3));
        assert_eq!(of(&"😀".repeat(35)), (true, 1));
        assert_eq!(of(&"😀".repeat(66)), (true, 2), "33 pairs in each");
        assert_eq!(of(&"😀".repeat(67)), (true, 3));
    }

    #[test]
    fn ornaments_cost_nothing() {
        assert_eq!(plain("“Acme” – 1\u{202f}000\u{a0}€…"), "\"Acme\" - 1 000 €...");
        assert!(!count(&plain("l’été")).ucs2);
    }
}
