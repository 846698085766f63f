//! Which of several languages a payer is addressed in. Pure.

/// The first wanted locale that there is: each is looked for as it is, then by its language alone. An empty one wants
/// nothing.
pub fn choose<'a, T>(wanted: &[&str], there: &'a [T], locale_of: impl Fn(&T) -> &str) -> Option<&'a T> {
    let exact = |wanted: &str| there.iter().find(|t| same(locale_of(t), wanted));
    wanted.iter().filter(|w| !w.is_empty()).find_map(|w| exact(w).or_else(|| exact(language(w))))
}

/// Whether two names mean the same locale: `de-AT`, `de_at`.
pub fn same(a: &str, b: &str) -> bool {
    let letter = |l: u8| if l == b'_' { b'-' } else { l.to_ascii_lowercase() };
    a.bytes().map(letter).eq(b.bytes().map(letter))
}

/// The language of a locale: `de` of `de-AT`.
pub fn language(locale: &str) -> &str {
    locale.split(['-', '_']).next().unwrap_or(locale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_locale_is_chosen() {
        let there = ["", "pt-BR", "de", "de-AT"];
        let choose = |wanted: &[&str]| choose(wanted, &there, |l| l).copied();
        assert_eq!(choose(&["de_at", "pt-BR"]), Some("de-AT"), "as it is");
        assert_eq!(choose(&["de-CH", "pt-BR"]), Some("de"), "by its language");
        assert_eq!(choose(&["pt", "de"]), Some("de"), "another country's is not its language");
        assert_eq!(choose(&["", "pt-br"]), Some("pt-BR"), "not known: the next");
        assert_eq!(choose(&["", "fr"]), None);
    }
}
