//! Reads little-endian numbers, texts and values, and never beyond the end.

use super::{GgufError, Value};

/// The longest text of metadata, in bytes: chat templates have some tens of thousands.
const MAX_TEXT: u64 = 1 << 20;

/// The longest array of metadata, in elements: vocabularies of the largest models have a quarter
/// of a million.
const MAX_ARRAY: u64 = 4 << 20;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    pub(super) fn bytes(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], GgufError> {
        let end = self.position.checked_add(length).ok_or(GgufError::Truncated(what))?;
        let slice = self.bytes.get(self.position..end).ok_or(GgufError::Truncated(what))?;
        self.position = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let bytes = self.bytes(N, what)?;
        bytes.try_into().map_err(|_| GgufError::Truncated(what))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(GgufError::TooMany { what, count, limit });
        }
        Ok(count)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<String, GgufError> {
        let length = self.count("bytes in a text", MAX_TEXT)?;
        let bytes = self.bytes(length as usize, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| GgufError::Text(what))
    }

    pub(super) fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let ty = self.u32("a metadata value")?;
        if ty == 9 {
            return self.values(key);
        }
        self.scalar(key, ty)
    }

    fn scalar(&mut self, key: &str, ty: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match ty {
            0 => Value::Unsigned(u64::from(self.array::<1>(WHAT)?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(WHAT)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(WHAT)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(WHAT)?))),
            4 => Value::Unsigned(u64::from(self.u32(WHAT)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(WHAT)?))),
            6 => Value::Float(f32::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(self.array::<1>(WHAT)?[0] != 0),
            8 => Value::Text(self.text(WHAT)?),
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?) as f32),
            _ => return Err(GgufError::ValueType { key: key.to_owned(), ty }),
        })
    }

    fn values(&mut self, key: &str) -> Result<Value, GgufError> {
        let ty = self.u32("an array's type")?;
        let count = self.count("array elements", MAX_ARRAY)?;
        // Memory grows with what has been read: the claimed count allocates nothing.
        match ty {
            8 => {
                let mut texts = Vec::new();
                for _ in 0..count {
                    texts.push(self.text("an array's text")?);
                }
                Ok(Value::Texts(texts))
            }
            6 | 12 => {
                let mut floats = Vec::new();
                for _ in 0..count {
                    if let Value::Float(float) = self.scalar(key, ty)? {
                        floats.push(float);
                    }
                }
                Ok(Value::Floats(floats))
            }
            7 => {
                let mut truths = Vec::new();
                for _ in 0..count {
                    truths.push(self.array::<1>("an array's truth value")?[0] != 0);
                }
                Ok(Value::Bools(truths))
            }
            0..=5 | 10 | 11 => {
                let mut integers = Vec::new();
                for _ in 0..count {
                    integers.push(match self.scalar(key, ty)? {
                        Value::Signed(number) => number,
                        Value::Unsigned(number) => i64::try_from(number).unwrap_or(i64::MAX),
                        _ => 0,
                    });
                }
                Ok(Value::Integers(integers))
            }
            _ => Err(GgufError::ValueType { key: key.to_owned(), ty }),
        }
    }
}
