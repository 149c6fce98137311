//! The header of a NumPy `.npy` file of integers.

use crate::ids::Width;

/// Where the integers of a file lie. Those that the shape promises are there.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    /// Bytes before the first.
    pub offset: usize,
    pub width: Width,
    /// The first dimension runs fastest, instead of the last.
    pub fortran_order: bool,
    pub shape: Vec<usize>,
}

impl Layout {
    /// Read the header (numpy.lib.format, versions 1 to 3): a magic string, the version, the length of what
    /// follows, and that, a Python dict of `descr`, `fortran_order`, `shape`. An error says what is wrong.
    pub fn of(bytes: &[u8]) -> Result<Layout, String> {
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file")?;
        let (start, len) = match *rest {
            [1, _, a, b, ..] => (10, u16::from_le_bytes([a, b]) as usize),
            [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
            _ => return Err("unknown .npy version".into()),
        };
        let offset = start + len;
        let header = bytes.get(start..offset).and_then(|header| str::from_utf8(header).ok());
        let header = header.ok_or("the header is damaged")?;

        let descr = field(header, "descr", ',')?;
        let width = match descr.trim_matches(['\'', '"']) {
            "|u1" => Width::U8,
            "<u2" => Width::U16,
            "<i2" => Width::I16,
            "<u4" => Width::U32,
            "<i4" => Width::I32,
            "<i8" => Width::I64,
            other if other.starts_with('[') => return Err("a structured type, not integers".into()),
            other => return Err(format!("numbers of type {other}, not |u1, <u2, <i2, <u4, <i4 or <i8")),
        };
        let fortran_order = field(header, "fortran_order", ',')? == "True";
        let shape = field(header, "shape", ')')?;
        let sizes = shape.trim_start_matches('(').split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| "'shape' is damaged")?;

        let layout = Layout { offset, width, fortran_order, shape };
        let promised = layout.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let promised = promised.ok_or("'shape' is damaged")?;
        let stored = (bytes.len() - offset) / width.bytes();
        if stored < promised {
            return Err(format!("the header promises {promised} numbers and {stored} are there"));
        }
        Ok(layout)
    }

    /// As Python prints it.
    pub fn shape_text(&self) -> String {
        match self.shape[..] {
            [one] => format!("({one},)"),
            _ => format!("({})", self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// The text of a field, up to `end`.
fn field<'a>(header: &'a str, name: &str, end: char) -> Result<&'a str, String> {
    let (_, value) = header.split_once(&format!("'{name}':")).ok_or(format!("no '{name}' in the header"))?;
    let (value, _) = value.split_once(end).ok_or(format!("'{name}' is damaged"))?;
    Ok(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        [&bytes, header.as_bytes(), data].concat()
    }

    #[test]
    fn types_versions_and_shapes() {
        for (version, descr, width, fortran, shape) in [
            (1, "|u1", Width::U8, "False", vec![2]),
            (1, "<u2", Width::U16, "False", vec![2]),
            (2, "<i2", Width::I16, "False", vec![2, 3]),
            (1, "<u4", Width::U32, "True", vec![3, 2]),
            (3, "<i4", Width::I32, "False", vec![]),
            (1, "<i8", Width::I64, "True", vec![0, 2]),
        ] {
            let mut layout = Layout { offset: 0, width, fortran_order: fortran == "True", shape };
            let text = layout.shape_text();
            let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {text}, }}   \n");
            layout.offset = if version == 1 { 10 } else { 12 } + header.len();
            let bytes = npy(version, &header, &vec![0; 6 * width.bytes()]);
            assert_eq!(Layout::of(&bytes), Ok(layout), "{descr}");
        }
    }

    #[test]
    fn problems() {
        let of = |descr: &str, shape: &str| {
            npy(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"), &[0; 8])
        };
        for (bytes, problem) in [
            (b"hello".to_vec(), "not a .npy file"),
            (npy(9, "", b""), "unknown .npy version"),
            (npy(1, "{}", b"")[..11].to_vec(), "the header is damaged"),
            (npy(1, "{'shape': (2,)}", b""), "no 'descr' in the header"),
            (npy(1, "{'descr': '<u2', 'shape': (2,)}", b""), "no 'fortran_order' in the header"),
            (npy(1, "{'descr': '<u2', 'fortran_order': False, }", b""), "no 'shape' in the header"),
            (of("'<f4'", "(2,)"), "numbers of type <f4, not |u1"),
            (of("'>u2'", "(2,)"), "numbers of type >u2, not |u1"),
            (of("[('a', '<i4')]", "(2,)"), "a structured type, not integers"),
            (of("'<u2'", "(2, x)"), "'shape' is damaged"),
            (of("'<u2'", "(99999999999, 99999999999)"), "'shape' is damaged"),
            (of("'<u2'", "(5,)"), "the header promises 5 numbers and 4 are there"),
            (of("'<u2'", "(3, 2)"), "the header promises 6 numbers and 4 are there"),
        ] {
            let error = Layout::of(&bytes).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
