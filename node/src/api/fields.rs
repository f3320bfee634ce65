//! Reading a JSON object that strangers wrote: null is absent, an unknown key is nothing
//! (but among our own settings), and a wrong type is an error that names the key.

use serde_json::{Map, Value};

use super::error::ApiError;

/// Integers up to here are exact in every JSON library, also in those that write 1 as 1.0.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// From here on, a wrong word is taken for a right one misspelt.
const ALIKE: f64 = 0.8;

/// Letters of an unknown key that are shown.
const SHOWN: usize = 60;

/// A JSON object, and where it stands in the request.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The key path before each key, with its dot; empty at the top.
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The keys of an object that stands at `prefix`.
    pub(super) fn new(map: &'a Map<String, Value>, prefix: impl Into<String>) -> Self {
        Self { map, prefix: prefix.into() }
    }

    /// The key's full path, as `param` names it.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The keys that have a value.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    /// Refuses every key but these, whatever its value.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        let Some(key) = self.map.keys().find(|key| !known.contains(&key.as_str())) else {
            return Ok(());
        };
        let alike = |known: &&&str| strsim::jaro_winkler(&key.to_lowercase(), known);
        let nearest = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
        let hint = match nearest.filter(|known| alike(known) >= ALIKE) {
            Some(known) => format!("did you mean `{}`?", self.path(known)),
            None if known.is_empty() => "settings stand in `taimatsu`, at the top".to_owned(),
            None => format!("known are {}", known.join(" and ")),
        };
        Err(self.unknown(key, &hint))
    }

    /// A key that nobody heeds.
    pub(super) fn unknown(&self, key: &str, hint: &str) -> ApiError {
        let shown: String = key.chars().take(SHOWN).collect();
        let path = self.path(&shown);
        let message = format!("`{path}` is no setting; {hint}");
        ApiError::invalid(path, message)
    }

    /// The key's value; none for null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ApiError> {
        self.read(key, "a string", Value::as_str)
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ApiError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A list.
    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.read(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object.
    pub(super) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        self.read(key, "an object", Value::as_object)
    }

    /// A number, and one that `fits`; `range` says which do.
    pub(super) fn number(
        &self,
        key: &str,
        range: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ApiError> {
        let Some(number) = self.read(key, "a number", Value::as_f64)? else { return Ok(None) };
        if fits(number) { Ok(Some(number)) } else { Err(self.outside(key, range)) }
    }

    /// A whole number.
    pub(super) fn integer(&self, key: &str) -> Result<Option<i128>, ApiError> {
        self.read(key, "a whole number", whole)
    }

    /// A whole number from 0 on; more than 32 bits hold is as much as they hold.
    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, ApiError> {
        let Some(number) = self.integer(key)? else { return Ok(None) };
        if number < 0 {
            return Err(self.outside(key, "0 or more"));
        }
        Ok(Some(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    /// A value that is not in its range.
    pub(super) fn outside(&self, key: &str, range: &str) -> ApiError {
        let path = self.path(key);
        let message = format!("`{path}` must be {range}");
        ApiError::invalid(path, message)
    }

    fn read<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.outside(key, &format!("{wanted}, not {}", kind(value)))),
        }
    }
}

/// What a value is, in words.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "this number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn whole(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    let number = value.as_f64()?;
    // Exact: a whole number of at most 53 bits.
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i128)
}
