//! Text that is safe in a parameter: xtext (RFC 3461 4), and the forms of an address in UTF-8 (RFC 6533 3).

/// Reads xtext (RFC 3461 4): printable ASCII but `+` and `=`, and `+HH` with upper-case digits for any octet.
pub fn xtext_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => {
                let high = hex_digit(*rest.next()?)?;
                let low = hex_digit(*rest.next()?)?;
                decoded.push(high * 16 + low);
            }
            b'=' => return None,
            33..=126 => decoded.push(*byte),
            _ => return None,
        }
    }
    Some(decoded)
}

/// Writes any octets as xtext (RFC 3461 4).
pub fn xtext_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'+' | b'=' => text.push_str(&format!("+{byte:02X}")),
            33..=126 => text.push(char::from(*byte)),
            _ => text.push_str(&format!("+{byte:02X}")),
        }
    }
    text
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Reads an address of the type `utf-8` (RFC 6533 3, utf-8-addr-xtext and utf-8-addr-unitext): `\x{HEX}` stands for a
/// character, and `+`, `=`, a backslash or a space stand for nothing else.
pub(super) fn unitext_decode(written: &[u8], utf8: bool) -> Option<String> {
    let text = std::str::from_utf8(written).ok()?;
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(escape) = rest.strip_prefix("\\x{") {
            let (digits, behind) = escape.split_once('}')?;
            let is_hex = digits.bytes().all(|byte| hex_digit(byte).is_some());
            if !(2..=6).contains(&digits.len()) || !is_hex {
                return None;
            }
            let value = u32::from_str_radix(digits, 16).ok()?;
            decoded.push(char::from_u32(value).filter(|c| !c.is_control())?);
            rest = behind;
            continue;
        }
        let is_plain = match next {
            '+' | '=' | '\\' => false,
            '!'..='~' => true,
            _ => utf8 && !next.is_ascii() && !next.is_control(),
        };
        if !is_plain {
            return None;
        }
        decoded.push(next);
        rest = &rest[next.len_utf8()..];
    }
    Some(decoded)
}

/// Writes an address of the type `utf-8`: in its 7-bit form, or with `utf8` with the octets above 127 that it has.
pub(super) fn unitext_encode(address: &str, utf8: bool) -> String {
    let mut text = String::with_capacity(address.len());
    for c in address.chars() {
        let is_plain = match c {
            '+' | '=' | '\\' => false,
            '!'..='~' => true,
            _ => utf8 && !c.is_ascii(),
        };
        if is_plain {
            text.push(c);
        } else {
            text.push_str(&format!("\\x{{{:02X}}}", u32::from(c)));
        }
    }
    text
}
