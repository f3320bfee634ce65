//! GGUF files (versions 2 and 3), memory-mapped and read as a stranger's bytes.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length that the file
//! claims is checked against what is left of it before anything is allocated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use taimatsu_protocol::Digest;

use crate::ggml::GgmlType;
use crate::mapped::Mapped;

mod reader;

use reader::Reader;

/// Most metadata keys of a file.
const MAX_KEYS: u64 = 4_096;

/// Most tensors of a file.
const MAX_TENSORS: u64 = 65_536;

/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("cannot open the file")]
    Io(#[from] io::Error),
    /// It does not begin as a GGUF file does.
    #[error("not a GGUF file")]
    Magic,
    /// A version that is not read (or a big-endian file).
    #[error("GGUF version {0} is not supported, only 2 and 3")]
    Version(u32),
    /// An alignment that is no power of two up to 4096.
    #[error("`general.alignment` is not a power of two up to 4096")]
    Alignment,
    /// The file ends in the middle of what it announces.
    #[error("file is cut short: {0} runs beyond its end; is the download complete?")]
    Truncated(&'static str),
    /// A number beyond what any real file has.
    #[error("file claims {count} {what}, more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// A metadata value of an unknown kind.
    #[error("metadata `{key}` has the unknown type {ty}")]
    ValueType {
        /// Which key.
        key: String,
        /// Its type's number.
        ty: u32,
    },
    /// A tensor of an unknown type.
    #[error("tensor `{name}` has the unknown type {ty}")]
    TensorType {
        /// Which tensor.
        name: String,
        /// Its type's number.
        ty: u32,
    },
    /// A tensor whose shape or place is impossible.
    #[error("tensor `{name}`: {why}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A key or tensor that stands twice.
    #[error("`{0}` stands twice")]
    Duplicate(String),
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A float; f64 is narrowed.
    Float(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Integers.
    Integers(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
}

/// A GGUF file: its metadata, and its tensors in the mapped file.
#[derive(Debug)]
pub struct GgufFile {
    data: Data,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// One tensor's bytes where they lie in the file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// The type of its elements.
    pub ty: GgmlType,
    /// Dimensions, the innermost (a row's width) first.
    pub shape: Vec<u64>,
    /// Its bytes, row by row.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
struct TensorInfo {
    ty: GgmlType,
    shape: Vec<u64>,
    start: usize,
    length: usize,
}

#[derive(Debug)]
enum Data {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl GgufFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::parse(Data::Mapped(Mapped::new(File::open(path)?)?))
    }

    /// Whether nobody has written to the file since.
    #[must_use]
    pub fn is_as_opened(&self) -> bool {
        match &self.data {
            Data::Mapped(mapped) => mapped.is_as_opened(),
            Data::Owned(_) => true,
        }
    }

    /// Reads a file from memory.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Data::Owned(bytes))
    }

    /// A metadata value.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The size of the file, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.data.bytes().len() as u64
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// All metadata, in the order of the keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An unsigned number that fits 32 bits.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u32> {
        match self.value(key)? {
            Value::Unsigned(number) => u32::try_from(*number).ok(),
            Value::Signed(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A float.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f32> {
        match self.value(key)? {
            Value::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn truth(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// A tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.tensors.get(name)?;
        let bytes = self.data.bytes().get(info.start..info.start + info.length)?;
        Some(TensorView { ty: info.ty, shape: info.shape.clone(), bytes })
    }

    /// The digest of a tensor's bytes as they are on the disk now. They are read beside the mapping,
    /// so that a large tensor of which little is used takes no memory.
    ///
    /// # Errors
    /// There is no such tensor, or the disk does not give it.
    pub fn digest_of(&self, name: &str) -> io::Result<Digest> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "there is no such tensor");
        let TensorInfo { start, length, .. } = *self.tensors.get(name).ok_or_else(none)?;
        match &self.data {
            Data::Mapped(mapped) => mapped.digest_of(start..start + length),
            Data::Owned(bytes) => Ok(Digest::of(&bytes[start..start + length])),
        }
    }

    /// The names of all tensors, in order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn parse(data: Data) -> Result<Self, GgufError> {
        let mut reader = Reader::new(data.bytes());
        if reader.bytes(4, "magic")? != b"GGUF" {
            return Err(GgufError::Magic);
        }
        let version = reader.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.count("tensors", MAX_TENSORS)?;
        let key_count = reader.count("metadata keys", MAX_KEYS)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = reader.text("a metadata key")?;
            let value = reader.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::Duplicate(key));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 4096 => *n as usize,
            Some(_) => return Err(GgufError::Alignment),
        };
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(read_info(&mut reader)?);
        }
        let base = reader.position().next_multiple_of(alignment);
        let size = data.bytes().len();
        let mut tensors = BTreeMap::new();
        for (name, ty, shape, offset) in infos {
            if !offset.is_multiple_of(alignment as u64) {
                return Err(GgufError::Tensor { name, why: "its offset is not aligned" });
            }
            let info = place(&name, ty, shape, offset, base, size)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(GgufError::Duplicate(name));
            }
        }
        check_apart(&tensors)?;
        Ok(Self { data, metadata, tensors })
    }
}

/// Tensors that share bytes would make a small file as much work as a huge one.
fn check_apart(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), GgufError> {
    let mut places: Vec<(usize, usize, &String)> =
        tensors.iter().map(|(name, info)| (info.start, info.start + info.length, name)).collect();
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => {
            let why = "its data overlaps another tensor's";
            Err(GgufError::Tensor { name: pair[1].2.clone(), why })
        }
        None => Ok(()),
    }
}

type RawInfo = (String, GgmlType, Vec<u64>, u64);

fn read_info(reader: &mut Reader<'_>) -> Result<RawInfo, GgufError> {
    let name = reader.text("a tensor's name")?;
    let dims = reader.u32("a tensor's shape")?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(GgufError::Tensor { name, why: "it has no dimension, or more than four" });
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(reader.u64("a tensor's shape")?);
    }
    let number = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's offset")?;
    let Some(ty) = GgmlType::from_number(number) else {
        return Err(GgufError::TensorType { name, ty: number });
    };
    Ok((name, ty, shape, offset))
}

fn place(
    name: &str,
    ty: GgmlType,
    shape: Vec<u64>,
    offset: u64,
    base: usize,
    size: usize,
) -> Result<TensorInfo, GgufError> {
    let wrong = |why| GgufError::Tensor { name: name.to_owned(), why };
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, dim| product.checked_mul(*dim))
        .filter(|elements| *elements > 0)
        .ok_or_else(|| wrong("its shape is empty or overflows"))?;
    if !shape[0].is_multiple_of(ty.block_elements()) {
        return Err(wrong("its rows are not whole blocks of its type"));
    }
    let length = (elements / ty.block_elements())
        .checked_mul(ty.block_bytes())
        .and_then(|length| usize::try_from(length).ok())
        .ok_or_else(|| wrong("its size overflows"))?;
    let start = usize::try_from(offset)
        .ok()
        .and_then(|offset| base.checked_add(offset))
        .ok_or_else(|| wrong("its offset overflows"))?;
    if start.checked_add(length).is_none_or(|end| end > size) {
        return Err(wrong("its data runs beyond the end of the file; is the download complete?"));
    }
    Ok(TensorInfo { ty, shape, start, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        with_tensors(&[("w", 0)])
    }

    /// A tiny file: three keys, and tensors of 36 bytes at these offsets.
    fn with_tensors(tensors: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        text(&mut bytes, "general.architecture");
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, "llama");
        text(&mut bytes, "llama.block_count");
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        text(&mut bytes, "names");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        text(&mut bytes, "a");
        text(&mut bytes, "b");
        for (name, offset) in tensors {
            text(&mut bytes, name);
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(32_u64.to_le_bytes());
            bytes.extend(2_u64.to_le_bytes());
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        let last = tensors.iter().map(|(_, offset)| *offset as usize).max().unwrap_or(0);
        bytes.resize(bytes.len().next_multiple_of(32) + last + 36, 5);
        bytes
    }

    #[test]
    fn a_file_reads_back() {
        let file = GgufFile::from_bytes(sample()).unwrap();
        assert_eq!(file.text("general.architecture"), Some("llama"));
        assert_eq!(file.number("llama.block_count"), Some(7));
        assert_eq!(file.value("names"), Some(&Value::Texts(vec!["a".into(), "b".into()])));
        let tensor = file.tensor("w").unwrap();
        assert_eq!(
            (tensor.ty, tensor.shape, tensor.bytes.len()),
            (GgmlType::Q4_0, vec![32, 2], 36)
        );
    }

    #[test]
    fn tensors_lie_apart_and_aligned() {
        assert!(GgufFile::from_bytes(with_tensors(&[("b", 64), ("a", 0)])).is_ok());
        for (second, words) in [(32, "overlaps"), (0, "overlaps"), (65, "aligned")] {
            let error = GgufFile::from_bytes(with_tensors(&[("a", 0), ("b", second)])).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = sample();
        for length in 0..whole.len() {
            assert!(GgufFile::from_bytes(whole[..length].to_vec()).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_mutation_reads_or_is_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = sample();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(file) = GgufFile::from_bytes(bytes) {
                for name in file.tensor_names() {
                    prop_assert!(file.tensor(name).is_some());
                }
            }
        }

        #[test]
        fn any_bytes_read_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut file = b"GGUF\x03\x00\x00\x00".to_vec();
            file.extend(bytes);
            let _ = GgufFile::from_bytes(file);
        }
    }
}
