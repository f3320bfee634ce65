//! Swarms of real processes, and the rules of the house as tests.
