//! Swarms of real processes, swarms in virtual time, and the rules of the house as tests.
//!
//! [`swarm`] starts and asks them, [`program`] runs single commands,
//! [`recovery`] takes hosts from answers; [`simulation`] plays whole
//! swarms by seed. [`house`] reads the source tree and says where it breaks a rule;
//! `tests/architecture.rs` applies it to this very tree.

pub mod house;
pub mod program;
pub mod recovery;
pub mod simulation;
pub mod swarm;
