//! Telephone numbers.

/// Whether a number is in E.164 form: a plus, then 7 to 15 digits, the first of them not 0.
pub fn is_e164(number: &str) -> bool {
    let digits = number.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A number as people write it, in E.164 form: without spaces and punctuation, `00` in front is a plus. `None`: it has no
/// country code, or is no number. What a national number means depends on a country that nobody has said.
pub fn normalize(number: &str) -> Option<String> {
    let is_ornament = |c: &char| c.is_whitespace() || matches!(c, '(' | ')' | '-' | '.' | '/' | '\u{a0}');
    // "+44 (0)20 …": the zero is for those who call from inside.
    let number = number.trim().replace("(0)", "");
    let bare: String = number.chars().filter(|c| !is_ornament(c)).collect();
    let full = bare.strip_prefix("00").map_or(bare.clone(), |rest| format!("+{rest}"));
    is_e164(&full).then_some(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_a_country_code_are_brought_into_one_form() {
        for (written, expected) in [
            ("+49 30 1234-567", Some("+49301234567")),
            ("0049 (30) 123 45 67", Some("+49301234567")),
            ("+44 (0)20 7946 0018", Some("+442079460018")),
            ("+1.202.555.0123", Some("+12025550123")),
            ("030 1234567", None),
            ("+0301234567", None),
            ("+49", None),
            ("+49301234567890123", None),
            ("call me", None),
            ("", None),
        ] {
            assert_eq!(normalize(written).as_deref(), expected, "{written:?}");
        }
        assert!(is_e164("+49301234567") && !is_e164("49301234567") && !is_e164("+49 301234567"));
    }
}
