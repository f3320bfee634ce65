//! stub
use crate::engine::*;
use crate::failure::*;
use std::net::SocketAddr;
pub(crate) struct NodeClient {
    address: SocketAddr,
}
pub(crate) struct Events;
impl Events {
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        unimplemented!()
    }
}
impl NodeClient {
    pub(crate) fn new(address: SocketAddr) -> Option<Self> {
        Some(Self { address })
    }
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
    pub(crate) async fn answers(&self) -> bool {
        false
    }
    pub(crate) async fn status(&self) -> Result<serde_json::Value, Failure> {
        unimplemented!()
    }
    pub(crate) async fn run(&self, _q: Question) -> Result<Events, Failure> {
        unimplemented!()
    }
    pub(crate) async fn score(
        &self,
        _m: &str,
        _ids: &[u32],
        _top: usize,
        _r: RouteWish,
    ) -> Result<Scores, Failure> {
        unimplemented!()
    }
}
