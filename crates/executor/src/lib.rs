//! Runs a span of a model: from token ids or hidden states to hidden states or logits, and from
//! logits to a token.
//!
//! A host holds one [`LayerExecutor`] per span that it serves. A session opens a KV in it, feeds
//! consecutive positions, and gets back what the next hop of the chain needs; the tail hands its
//! logits to a [`Sampler`]. Whatever stands behind the trait, a position's bits depend on the
//! model and the ids up to it alone, so that a chain cut anywhere answers as one machine would.
//!
//! ```
//! use taimatsu_executor::{
//!     EchoExecutor, History, Input, LayerExecutor, ModelShape, Output, Sampler, Want, Work,
//! };
//! use taimatsu_protocol::{Sampling, Span};
//!
//! let shape = ModelShape { hidden: 2, vocab: 50, blocks: 4, context_length: 64 };
//! let mut executor = EchoExecutor::new(Span::whole(4)?, shape, 64);
//! let kv = executor.open(16, Span::whole(4)?)?;
//! let work = Work { kv, start: 0, input: Input::Tokens(&[3, 1, 4]), want: Want::LastLogits };
//! let Output::Logits(logits) = executor.step(&[work]).remove(0)? else { unreachable!() };
//! let history = History { prompt: &[3, 1, 4], answer: &[] };
//! let token = Sampler::new(Sampling::greedy()).sample(&logits, history, 3);
//! assert_eq!(token, EchoExecutor::next_token(shape, &[3, 1, 4]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod contract;
mod cpu;
mod echo;
mod sampler;

pub use contract::{ExecutorError, Input, KvId, LayerExecutor, ModelShape, Output, Want, Work};
pub use cpu::{CpuExecutor, ExecutorLimits, Threads};
pub use echo::EchoExecutor;
pub use sampler::{History, Sampler, log_softmax};
