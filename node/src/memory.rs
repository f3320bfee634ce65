//! What hosting a span takes of the machine's memory, known before anything of it is loaded.

use taimatsu_model::Manifest;
use taimatsu_protocol::Span;

use crate::failure::{Code, Failure};

/// Bytes of one value of KV, which is kept in half precision.
const KV_VALUE: u64 = 2;

/// Bytes of a value that went on to the next host.
const OUTPUT_VALUE: u64 = 4;

/// Bytes of a span's tensors, and, when all positions are in use, of its KV and of what came out
/// for the next host, which is kept for whoever may take that host's place.
pub(crate) fn needed(manifest: &Manifest, span: Span, kv_positions: u32) -> u64 {
    let tensors = manifest.tensors_of(span).map(|tensor| {
        let elements = tensor.shape.iter().fold(1_u64, |all, dim| all.saturating_mul(*dim));
        elements.div_ceil(tensor.ty.block_elements()).saturating_mul(tensor.ty.block_bytes())
    });
    let row = u64::from(manifest.kv_heads)
        .saturating_mul(u64::from(manifest.head_dim).saturating_add(manifest.value_dim.into()));
    let blocks = u64::from(span.blocks().end - span.blocks().start);
    // The tail's are ids.
    let output = u64::from(!span.head)
        .saturating_mul(manifest.hidden.into())
        .saturating_mul(OUTPUT_VALUE)
        .saturating_mul(kv_positions.into());
    let kv = [blocks, u64::from(kv_positions), KV_VALUE].into_iter().fold(row, u64::saturating_mul);
    tensors.fold(kv.saturating_add(output), u64::saturating_add)
}

/// Refuses what needs more than the owner allows, the spans that are hosted already included.
///
/// # Errors
/// It does.
pub(crate) fn check(
    what: &str,
    needed: u64,
    hosted: u64,
    allowed: Option<u64>,
) -> Result<(), Failure> {
    let Some(allowed) = allowed else { return Ok(()) };
    let all = hosted.saturating_add(needed);
    if all <= allowed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let beside = match hosted {
        0 => String::new(),
        hosted => format!(" beside the {} MiB of other spans", mib(hosted)),
    };
    Err(Failure::new(Code::Resources, format!("cannot host {what} within {} MiB", mib(allowed)))
        .because(format!("tensors and KV need {} MiB{beside}", mib(needed)))
        .try_this(format!("--memory-mib {}, fewer blocks, or fewer --kv-positions", mib(all))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_model::GgufFile;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tiny/llama.q4_1.gguf");

    #[test]
    fn tensors_and_kv_are_counted_as_they_lie() {
        let file = GgufFile::open(TINY.as_ref()).unwrap();
        let manifest = Manifest::of(&file).unwrap();
        let whole = Span::whole(manifest.blocks).unwrap();
        let size: u64 = manifest
            .tensors_of(whole)
            .filter_map(|entry| Some(file.tensor(&entry.name)?.bytes.len() as u64))
            .sum();
        assert_eq!(needed(&manifest, whole, 0), size);
        let per_position = u64::from(manifest.blocks * manifest.kv_heads * manifest.head_dim) * 4;
        assert_eq!(needed(&manifest, whole, 10) - size, 10 * per_position);
        let halves: u64 = ["0-1", "2-3"]
            .map(|text| needed(&manifest, Span::parse_inclusive(text, 4).unwrap(), 10))
            .iter()
            .sum();
        assert!(halves >= needed(&manifest, whole, 10), "what both need, both have");
        let first = Span::parse_inclusive("0-1", 4).unwrap();
        let retained = u64::from(manifest.hidden) * 4;
        let taken = needed(&manifest, first, 10) - needed(&manifest, first, 0);
        assert_eq!(taken, 10 * (per_position / 2 + retained), "and what came out is kept");
    }

    #[test]
    fn the_owner_s_word_counts_for_all_spans_together() {
        assert!(check("m", u64::MAX, 1, None).is_ok());
        assert!(check("m", 1 << 20, 1 << 20, Some(2 << 20)).is_ok());
        let told = check("m", 1 << 20, (1 << 20) + 1, Some(2 << 20)).unwrap_err();
        assert_eq!(told.code, Code::Resources);
        assert!(told.to_string().contains("--memory-mib 3"), "{told}");
    }
}
