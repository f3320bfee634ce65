//! What the asker thinks of hosts, beside what they say of themselves. Routing does not know why.

use std::collections::{BTreeMap, BTreeSet};

use taimatsu_protocol::PeerId;

/// Odds of hosts to hold, and hosts that are used only where there is nobody else. About a host
/// that is not in it nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    odds: BTreeMap<PeerId, u16>,
    distrusted: BTreeSet<PeerId>,
    /// Nobody else may compute; none: anybody may.
    only: Option<BTreeSet<PeerId>>,
}

/// The odds of a host of which nothing is known, in permille.
const UNKNOWN_ODDS: u16 = 1_000;

impl Outlook {
    /// A host will hold with these odds, in permille; at least 1.
    pub fn expect(&mut self, host: PeerId, permille: u16) {
        self.odds.insert(host, permille.clamp(1, 1_000));
    }

    /// A host is used only where there is nobody else.
    pub fn distrust(&mut self, host: PeerId) {
        self.distrusted.insert(host);
    }

    /// Only these hosts may see the request, whatever the others offer.
    pub fn restrict(&mut self, hosts: BTreeSet<PeerId>) {
        self.only = Some(hosts);
    }

    /// Whether a host may see the request.
    #[must_use]
    pub fn allows(&self, host: &PeerId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(host))
    }

    /// A host's odds, in permille, 1 to 1000.
    #[must_use]
    pub fn odds(&self, host: &PeerId) -> u16 {
        self.odds.get(host).copied().unwrap_or(UNKNOWN_ODDS)
    }

    /// Whether a host is distrusted.
    #[must_use]
    pub fn is_distrusted(&self, host: &PeerId) -> bool {
        self.distrusted.contains(host)
    }
}
