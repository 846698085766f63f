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

/// Filters that nobody needs for compressed objects, except to hide them: with these they are not looked into.
const OBSCURE: [&[u8]; 4] = [b"/LZWDecode", b"/ASCIIHexDecode", b"/ASCII85Decode", b"/RunLengthDecode"];

/// Why bytes are not attached. This looks at the names in the file, in compressed objects, too; the payer's own programs
/// look for more.
pub fn check(kind: &str, bytes: &[u8]) -> Result<(), &'static str> {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !["application/pdf", "application/octet-stream", "binary/octet-stream"].contains(&kind.as_str()) {
        return Err("is not served as a PDF");
    }
    if !bytes.starts_with(b"%PDF-") {
        return Err("is no PDF");
    }
    let mut names = plain(bytes);
    let (objects, count) = compressed_objects(bytes)?;
    // There are as many as the file says, or some are in a form of their own.
    let is_obscure = || OBSCURE.iter().any(|filter| contains_name(&names, filter));
    let said = memchr::memmem::find_iter(&names, b"/ObjStm").count();
    if said > count || said > 0 && is_obscure() {
        return Err(UNREADABLE);
    }
    names.extend(plain(&objects));
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

const UNREADABLE: &str = "has compressed objects that cannot be looked into";

/// What stands in the object streams of a file, and how many there are (ISO 32000-1, 7.5.7). They begin with pairs of numbers,
/// as hardly anything else that is compressed.
fn compressed_objects(bytes: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    const BEGINNING: usize = 32;
    /// Of all together; an invoice has some kilobytes.
    const MOST: usize = 8 * 1_024 * 1_024;
    let (mut objects, mut count) = (Vec::new(), 0);
    for at in memchr::memmem::find_iter(bytes, b"stream") {
        let (before, after) = bytes.split_at(at);
        let data = after.get(b"stream".len()..).unwrap_or_default();
        let data = data.strip_prefix(b"\r").unwrap_or(data);
        let Some(data) = data.strip_prefix(b"\n").filter(|_| !before.ends_with(b"end")) else { continue };
        // What is not compressed stands open in the file.
        let beginning = inflated(data, BEGINNING).unwrap_or_else(|beginning| beginning);
        let beginning = if beginning.is_empty() { data.get(..BEGINNING).unwrap_or(data) } else { &beginning };
        if !begins_with_numbers(beginning) {
            continue;
        }
        count += 1;
        let Ok(more) = inflated(data, MOST - objects.len()) else { return Err(UNREADABLE) };
        objects.extend(more);
        objects.push(b'\n');
        if objects.len() >= MOST {
            return Err(UNREADABLE);
        }
    }
    Ok((objects, count))
}

/// What a zlib stream gives, empty if it is none; the beginning, if it is more than `most` bytes or broken further on.
fn inflated(data: &[u8], most: usize) -> Result<Vec<u8>, Vec<u8>> {
    use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
    decompress_to_vec_zlib_with_limit(data, most).or_else(|error| {
        // Of what is broken it is not said how much there was: the rest is zeros.
        let length = error.output.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let beginning = error.output.get(..length).unwrap_or_default().to_vec();
        if beginning.is_empty() { Ok(beginning) } else { Err(beginning) }
    })
}

/// `12 0 13 57`: numbers and offsets of objects.
fn begins_with_numbers(bytes: &[u8]) -> bool {
    let mut words = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).take(2);
    words.clone().count() == 2 && words.all(|word| word.iter().all(u8::is_ascii_digit))
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

    /// A file with one stream, whose dictionary says this.
    fn with_stream(dictionary: &str, data: &[u8]) -> Vec<u8> {
        let head = format!("%PDF-1.7\n1 0 obj << {dictionary} >>\nstream\r\n");
        [head.as_bytes(), data, b"\nendstream endobj\n"].concat()
    }

    #[test]
    fn compressed_objects_are_looked_into() {
        use miniz_oxide::deflate::compress_to_vec_zlib;
        const OBJECTS: &str = "/Type /ObjStm /Filter /FlateDecode";
        let of = |dictionary, data: &[u8]| check("application/pdf", &with_stream(dictionary, data));
        let packed = |text: &str| compress_to_vec_zlib(text.as_bytes(), 6);
        let harmless = packed("12 0 13 57\n<< /Type /Catalog >> << /Title (factur-x.xml) >>");
        assert_eq!(of(OBJECTS, &harmless), Ok(()));
        assert_eq!(of(OBJECTS, &packed("12 0\n<< /S /J#61vaScript >>")), Err("contains scripts"));
        assert_eq!(of("/Type /Obj#53tm", &packed("12 0\n<< /S /Launch >>")), Err("starts programs"));
        assert_eq!(of(OBJECTS, b"12 0 << /JS (x) >>"), Err("contains scripts"), "not compressed after all");
        assert_eq!(of("", &packed("q 1 0 0 1 72 720 cm /JS Do")), Ok(()), "a page, with a name of its own");

        assert_eq!(of(OBJECTS, b"\x01\x02"), Err(UNREADABLE), "in a form that is not known");
        assert_eq!(of("/Type /ObjStm /Filter [/LZWDecode]", &harmless), Err(UNREADABLE), "one that hides, maybe");
        assert_eq!(of(OBJECTS, &harmless[..harmless.len() - 8]), Err(UNREADABLE), "cut off");
        let bomb = packed(&format!("12 0 {}", " ".repeat(9 * 1_024 * 1_024)));
        assert!(bomb.len() < 20_000);
        assert_eq!(of(OBJECTS, &bomb), Err(UNREADABLE));
        let invoice = [with_stream("/Type /EmbeddedFile", b"<xml>"), with_stream(OBJECTS, &harmless)].concat();
        assert_eq!(check("application/pdf", &invoice), Ok(()), "its name is in a compressed object");
    }

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
