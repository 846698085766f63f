//! What may travel as a PDF. Pure.

use memchr::memmem;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Names of what acts by itself when it is opened, or cannot be looked into. All are too long to be found by chance in what is
/// compressed: `/JS`, which stands beside the first or in a rendition, is not.
const ACTIVE: [(&[u8], &str); 6] = [
    (b"/JavaScript", "contains scripts"),
    (b"/Launch", "starts programs"),
    (b"/RichMedia", "contains media"),
    (b"/Rendition", "contains media"),
    (b"/XFA", "contains a form that acts by itself"),
    (b"/Encrypt", "is encrypted"),
];

/// The files that electronic invoices carry within (Factur-X, ZUGFeRD, XRechnung): data, which nothing starts.
const E_INVOICES: [&[u8]; 3] = [b"factur-x.xml", b"zugferd-invoice.xml", b"xrechnung.xml"];

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
    active(&names)?;
    names.extend(plain(&compressed_objects(bytes, &names)?));
    active(&names)?;
    let lower = names.to_ascii_lowercase();
    let is_e_invoice = E_INVOICES.iter().any(|name| memmem::find(&lower, name).is_some());
    if !is_e_invoice && contains_name(&names, b"/EmbeddedFile") {
        return Err("contains other files");
    }
    Ok(())
}

/// What must not be in it, if there is something.
fn active(names: &[u8]) -> Result<(), &'static str> {
    ACTIVE.iter().find(|(name, _)| contains_name(names, name)).map_or(Ok(()), |(_, reason)| Err(*reason))
}

const UNREADABLE: &str = "has compressed objects that cannot be looked into";

/// What the object streams of a file hold (ISO 32000-1, 7.5.7). Errors: one is in another form than everybody makes them, or
/// does not stand where it should.
fn compressed_objects(bytes: &[u8], names: &[u8]) -> Result<Vec<u8>, &'static str> {
    /// Of all together; an invoice has some kilobytes.
    const MOST: usize = 8 * 1_024 * 1_024;
    let (mut objects, mut rest, mut labels) = (Vec::new(), bytes, 0);
    // What lies between streams, with the dictionary of the next one at its end; and that one.
    while let Some(at) = memmem::find(rest, b"stream") {
        let (between, stream) = rest.split_at(at);
        let length = memmem::find(stream, b"endstream").unwrap_or(stream.len());
        let (stream, after) = stream.split_at(length);
        rest = after.get(b"endstream".len()..).unwrap_or_default();
        let dictionary = plain(between);
        let count = memmem::find_iter(&dictionary, b"/ObjStm").count();
        if count == 0 {
            continue;
        }
        labels += count;
        let stream = stream.strip_prefix(b"stream").unwrap_or(stream);
        let data = stream.strip_prefix(b"\r\n").or_else(|| stream.strip_prefix(b"\n")).ok_or(UNREADABLE)?;
        let is_plain = !contains_name(&dictionary, b"/Filter");
        if is_plain && begins_with_numbers(data) {
            continue; // It stands open in the file.
        }
        if OBSCURE.iter().any(|filter| contains_name(&dictionary, filter)) {
            return Err(UNREADABLE);
        }
        let inflated = decompress_to_vec_zlib_with_limit(data, MOST - objects.len()).map_err(|_| UNREADABLE)?;
        if !begins_with_numbers(&inflated) {
            return Err(UNREADABLE);
        }
        objects.extend(inflated);
        objects.push(b'\n');
        if objects.len() >= MOST {
            return Err(UNREADABLE);
        }
    }
    // None is hidden in what only looks like another stream.
    if memmem::find_iter(names, b"/ObjStm").count() > labels { Err(UNREADABLE) } else { Ok(objects) }
}

/// Filters that nobody needs for compressed objects, except to hide them.
const OBSCURE: [&[u8]; 8] =
    [b"/LZWDecode", b"/LZW", b"/ASCIIHexDecode", b"/AHx", b"/ASCII85Decode", b"/A85", b"/RunLengthDecode", b"/RL"];

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

/// Whether a name stands there whole: `/XFA` is not the beginning of `/XFAcade`.
fn contains_name(bytes: &[u8], name: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = memmem::find(rest, name) {
        let after = rest.get(at + name.len()..).unwrap_or_default();
        if !after.first().is_some_and(u8::is_ascii_alphanumeric) {
            return true;
        }
        rest = after;
    }
    false
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
        assert_eq!(of(OBJECTS, b"12 0 << /S /JavaScript >>"), Err("contains scripts"), "not compressed after all");
        assert_eq!(of(OBJECTS, b"\x01\x02"), Err(UNREADABLE), "in a form that is not known");
        assert_eq!(of("/Type /ObjStm /Filter [/LZW]", &harmless), Err(UNREADABLE), "one that hides, maybe");
        let twice = compress_to_vec_zlib(&packed("12 0\n<< /S /JavaScript >>"), 6);
        let page = with_stream("/Filter /FlateDecode", &packed("1 0 0 -1 0 792 cm"));
        let hidden = [page, with_stream(OBJECTS, &twice)].concat();
        assert_eq!(check("application/pdf", &hidden), Err(UNREADABLE), "a page is none of them");
        let outside = [b"%PDF-1.7 stream\n".to_vec(), with_stream(OBJECTS, &harmless)].concat();
        assert_eq!(check("application/pdf", &outside), Err(UNREADABLE), "in what looks like another stream");
        let image = with_stream("/Subtype /Image /Filter [/ASCII85Decode /DCTDecode]", b"s8W-!");
        let pictured = [image, with_stream(OBJECTS, &harmless)].concat();
        assert_eq!(check("application/pdf", &pictured), Ok(()), "how an image is packed does not matter");
        assert_eq!(of("/Encrypt 7 0 R /Type /ObjStm", b"\x01"), Err("is encrypted"));
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
        assert_eq!(of("1 0 obj << /Type /Catalog /OpenAction [3 0 R /Fit] >> /XFAcade"), Ok(()));
        for (body, reason) in [
            ("<< /S /JavaScript /JS (app.alert(1)) >>", "contains scripts"),
            ("<< /S /J#61vaScript >>", "contains scripts"),
            ("<< /S /Rendition /JS(app.alert(1)) >>", "contains media"),
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
