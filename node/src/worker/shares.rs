//! Whose turn it is where not all can go at once: the client's that was served least.

use std::collections::BTreeMap;

use taimatsu_protocol::PeerId;

/// Who asks; `None` for the owner of the node.
pub(crate) type Client = Option<PeerId>;

/// Positions computed for each client with a session. Start-time fair queueing (Goyal, Vin and
/// Cheng, 1996): who was away is not owed for the time.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Of clients with sessions, and how many those are.
    clients: BTreeMap<Client, (u64, u32)>,
    /// What the client had that was served last.
    now: u64,
}

impl Shares {
    /// A session of a client begins.
    pub(super) fn enter(&mut self, client: Client) {
        self.clients.entry(client).or_insert((self.now, 0)).1 += 1;
    }

    /// A session of a client has ended.
    pub(super) fn leave(&mut self, client: Client) {
        if let Some((_, sessions)) = self.clients.get_mut(&client) {
            *sessions -= 1;
            if *sessions == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// A client asks for something.
    pub(super) fn ask(&mut self, client: Client) {
        if let Some((served, _)) = self.clients.get_mut(&client) {
            *served = (*served).max(self.now);
        }
    }

    /// The smaller, the sooner.
    pub(super) fn of(&self, client: Client) -> u64 {
        self.clients.get(&client).map_or(self.now, |(served, _)| *served)
    }

    /// So many positions were computed for a client.
    pub(super) fn serve(&mut self, client: Client, positions: u32) {
        if let Some((served, _)) = self.clients.get_mut(&client) {
            self.now = self.now.max(*served);
            *served += u64::from(positions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = Some(PeerId::from_public_key([1; 32]));
    const B: Client = None;

    #[test]
    fn two_clients_get_the_same_however_many_sessions_they_have() {
        let mut shares = Shares::default();
        (0..9).for_each(|_| shares.enter(A));
        shares.enter(B);
        let mut given = [0, 0];
        for _ in 0..100 {
            let (client, index) = if shares.of(B) < shares.of(A) { (B, 1) } else { (A, 0) };
            shares.serve(client, 16);
            shares.ask(client);
            given[index] += 1;
        }
        assert_eq!(given, [50, 50]);
    }

    #[test]
    fn who_was_away_is_not_owed_for_it() {
        let mut shares = Shares::default();
        shares.enter(A);
        shares.enter(B);
        (0..100).for_each(|_| shares.serve(A, 16));
        shares.ask(B);
        assert_eq!(shares.of(A) - shares.of(B), 16);
        // Nor who leaves and comes back.
        shares.leave(A);
        shares.enter(A);
        assert!(shares.of(A) >= shares.of(B));
    }
}
