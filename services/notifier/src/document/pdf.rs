//! What may travel as a PDF. Pure.

/// Names of what acts by itself when it is opened, or cannot be looked into.
const ACTIVE: [(&[u8], &str); 6] = [
    (b"/JavaScript", "contains scripts"),
    (b"/JS", "contains scripts"),
    (b"/Launch", "starts programs"),
    (b"/RichMedia", "contains media"),
    (b"/XFA", "contains a form that acts by itself"),
    (b"/Encrypt", "is encrypted"),
];

/// The files that electronic invoices carry within (Factur-X, ZUGFeRD, XRechnung): data, which nothing starts.
const E_INVOICES: [&[u8]; 3] = [b"factur-x.xml", b"zugferd-invoice.xml", b"xrechnung.xml"];

/// Why bytes are not attached. This looks at names that stand open in the file: one who hides them within compressed
/// objects gets past it, and has the payer's own programs still before him.
pub fn check(kind: &str, bytes: &[u8]) -> Result<(), &'static str> {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !["application/pdf", "application/octet-stream", "binary/octet-stream"].contains(&kind.as_str()) {
        return Err("is not served as a PDF");
    }
    if !bytes.starts_with(b"%PDF-") {
        return Err("is no PDF");
    }
    let names = plain(bytes);
    if let Some((_, reason)) = ACTIVE.iter().find(|(name, _)| contains_name(&names, name)) {
        return Err(reason);
    }
    let lower = names.to_ascii_lowercase();
    let is_e_invoice = E_INVOICES.iter().any(|name| find(&lower, name).is_some());
    if !is_e_invoice && contains_name(&names, b"/EmbeddedFile") {
        return Err("contains other files");
    }
    Ok(())
}

/// The same with names as they are meant: ISO 32000-1, 7.3.5 lets any character be written as `#` and two hex digits.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'#').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// Whether a name stands there whole: `/JS` is not the beginning of `/JSomething`.
fn contains_name(bytes: &[u8], name: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = find(rest, name) {
        let after = rest.get(at + name.len()..).unwrap_or_default();
        if !after.first().is_some_and(u8::is_ascii_alphanumeric) {
            return true;
        }
        rest = after;
    }
    false
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_pdfs_are_attached() {
        let of = |body: &str| check("application/pdf; charset=binary", format!("%PDF-1.7\n{body}").as_bytes());
        assert_eq!(of("1 0 obj << /Type /Catalog /OpenAction [3 0 R /Fit] >> /JSomething"), Ok(()));
        for (body, reason) in [
            ("<< /S /JavaScript /JS (app.alert(1)) >>", "contains scripts"),
            ("<< /S /J#61vaScript >>", "contains scripts"),
            ("<< /JS(app.alert(1)) >>", "contains scripts"),
            ("<< /S /Launch >>", "starts programs"),
            ("<< /Encrypt 7 0 R >>", "is encrypted"),
            ("<< /Type /EmbeddedFile >>", "contains other files"),
        ] {
            assert_eq!(of(body), Err(reason), "{body}");
        }
        assert_eq!(of("<< /Type /EmbeddedFile >> (factur-x.xml)"), Ok(()), "an electronic invoice");
        assert_eq!(check("text/html", b"%PDF-1.7"), Err("is not served as a PDF"));
        assert_eq!(check("application/pdf", b"<html>%PDF-1.7"), Err("is no PDF"));
    }
}
