//! The body in the two forms in which it travels, each without its end.

/// For DATA: dots doubled at the beginning of lines, without the last line end: it belongs to the final dot.
pub(super) fn stuff_dots(data: &[u8]) -> Vec<u8> {
    let data = without_last_line_end(data);
    let mut stuffed = Vec::with_capacity(data.len() + 16);
    if data.starts_with(b".") {
        stuffed.push(b'.');
    }
    let mut from = 0;
    for at in memchr::memmem::find_iter(data, b"\n.") {
        stuffed.extend_from_slice(data.get(from..=at).unwrap_or_default());
        stuffed.push(b'.');
        from = at + 1;
    }
    stuffed.extend_from_slice(data.get(from..).unwrap_or_default());
    stuffed
}

/// For BDAT: as it is, without the last line end: that is the last chunk.
pub(super) fn first_chunk(data: &[u8]) -> Vec<u8> {
    let data = without_last_line_end(data);
    let mut chunk = format!("BDAT {}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk
}

fn without_last_line_end(data: &[u8]) -> &[u8] {
    data.strip_suffix(b"\r\n").unwrap_or(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_stuffed_and_the_last_line_end_is_held_back() {
        assert_eq!(stuff_dots(b".a\r\n..b\r\nc.\r\n"), b"..a\r\n...b\r\nc.");
        assert_eq!(stuff_dots(b"no end"), b"no end");
        assert_eq!(stuff_dots(b""), b"");
    }

    #[test]
    fn chunks_are_as_they_are() {
        assert_eq!(first_chunk(b".a\r\nb\r\n"), b"BDAT 5\r\n.a\r\nb");
        assert_eq!(first_chunk(b"no end"), b"BDAT 6\r\nno end");
        assert_eq!(first_chunk(b""), b"BDAT 0\r\n");
    }
}
