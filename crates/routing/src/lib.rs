//! Who hosts what becomes the best chain.
//!
//! A [`HostTable`] holds what hosts have said of themselves, signed, and forgets it in time. From
//! it [`plan()`] makes a [`Chain`]: hosts in order whose spans are the whole model, exactly. Few
//! hops are worth more than fast hosts, because each hop is one more leg of every lap; and a chain
//! that does not fit together cannot be made, by [`Chain::new`] or otherwise.
//!
//! Nothing here waits, dials or reads a clock, and equal tables give equal plans.
//!
//! ```
//! use ed25519_dalek::SigningKey;
//! use taimatsu_protocol::codec::BoundedVec;
//! use taimatsu_protocol::opening::Prekey;
//! use taimatsu_protocol::signed::Verified;
//! use taimatsu_protocol::{
//!     Announcement, ModelId, Moment, Numerics, PeerId, Span, SwarmId, UnixSeconds,
//! };
//! use taimatsu_routing::{HostTable, Outlook, PlanError, Request, Wish, plan};
//!
//! let (model, wall) = (ModelId::of(b"manifest"), UnixSeconds(1_000));
//! let host = |seed: u8, span: &str| {
//!     let key = SigningKey::from_bytes(&[seed; 32]);
//!     let announcement = Announcement {
//!         host: PeerId::from_public_key(key.verifying_key().to_bytes()),
//!         swarm: SwarmId::public(),
//!         model,
//!         blocks: 30,
//!         span: Span::parse_inclusive(span, 30).expect("a span of the model"),
//!         prekey: Prekey { id: [seed; 8], public: [seed; 32], not_after: wall.plus(3_600) },
//!         numerics: Numerics::Echo,
//!         decode_micros: 9_000,
//!         prefill_rate: 500,
//!         free_positions: 4_096,
//!         sessions: 0,
//!         leaving: false,
//!         rtts: BoundedVec::new(),
//!         sequence: 1,
//!         expires: wall.plus(300),
//!     };
//!     Verified::sign(announcement, &key).expect("signed by its host")
//! };
//! let request = Request {
//!     model,
//!     blocks: 30,
//!     wish: Wish::Any,
//!     positions: 256,
//!     me: PeerId::from_public_key([0; 32]),
//!     seed: 0,
//! };
//! let mut table = HostTable::new();
//! table.insert(host(1, "0-9"), wall);
//! table.insert(host(3, "20-29"), wall);
//! let missing = plan(&table, &request, &Outlook::default(), Moment::default());
//! assert_eq!(missing, Err(PlanError::Uncovered { missing: vec![[10, 19]] }));
//!
//! table.insert(host(2, "10-19"), wall);
//! let chain = plan(&table, &request, &Outlook::default(), Moment::default()).expect("all blocks have a host");
//! assert_eq!(chain.hops().len(), 3);
//! ```

pub mod chain;
mod observed;
pub mod outlook;
pub mod plan;
pub mod policy;
mod search;
pub mod table;

pub use chain::{Chain, ChainError, Hop};
pub use observed::HopSpeed;
pub use outlook::Outlook;
pub use plan::{Part, PlanError, Request, Wish, plan, plan_part};
pub use table::{HostTable, Inserted, missing};
