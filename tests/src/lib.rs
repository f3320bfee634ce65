//! Swarms of real processes, and the rules of the house as tests.
//!
//! [`swarm`] starts and asks them. [`house`] reads the source tree and says where it breaks a rule; `tests/architecture.rs`
//! applies it to this very tree.

pub mod house;
pub mod swarm;
