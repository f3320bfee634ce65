//! The sampling parameters of a request, by the names that clients use.

use taimatsu_protocol::Sampling;

use super::error::ApiError;
use super::fields::Fields;

/// Above it the OpenAI API refuses; so do we, lest a request work in one place only.
const MAX_TEMPERATURE: f64 = 2.0;

/// Where the request says nothing, the OpenAI API samples from the whole distribution.
pub(super) const DEFAULT_TEMPERATURE: f32 = 1.0;

/// How tokens are to be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    /// For the engine.
    pub(super) sampling: Sampling,
    /// The request left the seed open.
    pub(super) drawn: bool,
}

/// Reads them. `draw` gives the seed where the request has none.
pub(super) fn read(fields: &Fields<'_>, draw: fn() -> u64) -> Result<Chosen, ApiError> {
    let temperature = fields
        .number("temperature", "from 0 to 2", |value| (0.0..=MAX_TEMPERATURE).contains(&value))?;
    let top_p =
        fields.number("top_p", "above 0 and at most 1", |value| value > 0.0 && value <= 1.0)?;
    let min_p = fields.number("min_p", "from 0 to 1", |value| (0.0..=1.0).contains(&value))?;
    let repeat_penalty = fields
        .number("repeat_penalty", "above 0 and at most 10", |value| value > 0.0 && value <= 10.0)?;
    let penalty = |key| fields.number(key, "from -2 to 2", |value| (-2.0..=2.0).contains(&value));
    let seed = seed(fields)?;
    let sampling = Sampling {
        repeat_penalty: repeat_penalty.map_or(1.0, |value| value as f32),
        frequency_penalty: penalty("frequency_penalty")?.map_or(0.0, |value| value as f32),
        presence_penalty: penalty("presence_penalty")?.map_or(0.0, |value| value as f32),
        temperature: temperature.map_or(DEFAULT_TEMPERATURE, |value| value as f32),
        top_k: top_k(fields)?,
        top_p: top_p.map_or(1.0, |value| value as f32),
        min_p: min_p.map_or(0.0, |value| value as f32),
        seed: seed.unwrap_or_else(draw),
        choice: 0,
    };
    check(&sampling)?;
    Ok(Chosen { sampling, drawn: seed.is_none() })
}

/// Whether the chain's tail would take them: in 32 bits, a tiny number may have become 0.
pub(super) fn check(sampling: &Sampling) -> Result<(), ApiError> {
    match sampling.out_of_range() {
        None => Ok(()),
        Some((name, range)) => Err(ApiError::invalid(name, format!("`{name}` must be {range}"))),
    }
}

/// Some clients write "off" as -1 instead of 0.
fn top_k(fields: &Fields<'_>) -> Result<u32, ApiError> {
    match fields.integer("top_k")? {
        None | Some(-1) => Ok(0),
        Some(k) if k < 0 => Err(fields.outside("top_k", "0 or more")),
        Some(k) => Ok(u32::try_from(k).unwrap_or(u32::MAX)),
    }
}

/// Any 64 bits, signed or not: a seed has no size, so its bits are taken as they are.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(seed) = fields.integer("seed")? else { return Ok(None) };
    let bits = i64::try_from(seed).map(i64::cast_unsigned).or_else(|_| u64::try_from(seed));
    bits.map(Some).map_err(|_| fields.outside("seed", "a whole number of 64 bits"))
}
