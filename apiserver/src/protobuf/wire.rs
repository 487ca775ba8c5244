//! The wire format: tags, lengths, numbers.

/// One field as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// Reads fields one after the other.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and content; `None` at the end, `Some(None)` if the bytes are damaged.
    pub(super) fn next(&mut self) -> Option<Option<(u32, Item<'a>)>> {
        (!self.0.is_empty()).then(|| self.field())
    }

    fn field(&mut self) -> Option<(u32, Item<'a>)> {
        let tag = self.number()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let item = match tag & 7 {
            0 => Item::Number(self.number()?),
            1 => Item::Double(f64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Item::Bytes(self.take(length)?)
            }
            5 => Item::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((number, item))
    }

    /// A number in base 128, least significant part first.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Writes a number in base 128.
pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Writes a number field.
pub(super) fn put_number_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_number(out, u64::from(number) << 3);
    put_number(out, value);
}

/// Writes a field of bytes: text, a message, or bytes.
pub(super) fn put_bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_number(out, u64::from(number) << 3 | 2);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a double field.
pub(super) fn put_double_field(out: &mut Vec<u8>, number: u32, value: f64) {
    put_number(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// What stands around every object: its kind, and its bytes.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads an envelope; `None` if the bytes are damaged.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut envelope = Self::default();
        let mut fields = Reader(bytes);
        while let Some(field) = fields.next() {
            match field? {
                (1, Item::Bytes(meta)) => {
                    let mut parts = Reader(meta);
                    while let Some(part) = parts.next() {
                        match part? {
                            (1, Item::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Item::Bytes(text)) => envelope.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Item::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Some(envelope)
    }

    /// Writes the envelope.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut meta = Vec::new();
        put_bytes_field(&mut meta, 1, self.api_version.as_bytes());
        put_bytes_field(&mut meta, 2, self.kind.as_bytes());
        put_bytes_field(out, 1, &meta);
        put_bytes_field(out, 2, self.raw);
        put_bytes_field(out, 3, b"");
        put_bytes_field(out, 4, b"");
    }
}

/// Bytes as text; `None` if they are none.
pub(super) fn utf8(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
