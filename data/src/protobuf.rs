//! The wire format of Protocol Buffers (protobuf.dev/programming-guides/encoding): a message is a run of numbered
//! fields. Reading only, and without a schema: the caller picks the numbers it knows.

/// What a field holds. A nested message is `Bytes`.
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    /// No message that is read here has one that matters.
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers, in order. The first that is damaged ends it.
pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), String>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = field(&mut message);
        if field.is_none() {
            message = &[];
        }
        Some(field.ok_or_else(|| "damaged or cut short; copy the file again".to_owned()))
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => rest.split_off(..8).map(|_| Value::Fixed64)?,
        2 => {
            let len = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(rest.split_off(..len)?)
        }
        5 => Value::Fixed32(rest.split_off(..4)?.try_into().expect("four bytes were split off")),
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_to_their_end() {
        for (bytes, value, left) in [
            (&[0x00, 9][..], Some(0), 1),
            (&[0xac, 0x02], Some(300), 0),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Some(u64::MAX), 0),
            (&[0x80], None, 0),
            (&[0x80; 11], None, 1),
        ] {
            let mut rest = bytes;
            assert_eq!((varint(&mut rest), rest.len()), (value, left), "{bytes:x?}");
        }
    }

    #[test]
    fn damage_ends_the_message() {
        // A length beyond the end, fixed values cut short, a group (retired), a tag without a value.
        for bytes in [&[0x0a, 5, b'x'][..], &[0x15, 0, 0, 0], &[0x11, 0], &[0x0b], &[0x08]] {
            let read: Vec<_> = fields(bytes).map(|field| field.is_ok()).collect();
            assert_eq!(read, [false], "{bytes:x?}");
        }
        let read: Vec<_> = fields(&[0x08, 1, 0x12, 1, b'x', 0x0a]).map(|field| field.is_ok()).collect();
        assert_eq!(read, [true, true, false]);
    }
}
