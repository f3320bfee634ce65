//! A running node, as commands talk to it: over its API on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::control::{RunEvent, RunRequest};
use crate::api::failures::ErrorReply;
use crate::api::scoring::{ScoreReply, ScoreRequest};
use crate::api_keys::ApiKeys;
use crate::config;
use crate::engine::{EngineError, Event, Question, Scores, Scoring};
use crate::failure::{Code, Failure};

/// How long a node may take to say that it is there.
const THERE: Duration = Duration::from_secs(2);

/// The longest line of an answer, in bytes: a started event with a prompt of 32,768 ids.
const MAX_LINE: usize = 1 << 20;

/// A node's API.
#[derive(Debug, Clone)]
pub(crate) struct NodeClient {
    http: reqwest::Client,
    address: SocketAddr,
}

/// An answer's events as they come. Dropping it cancels the answer.
pub(crate) struct Events {
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    pending: Vec<u8>,
}

impl NodeClient {
    /// The node whose API is at `address`; none where no HTTP client can be made. Of the keys, it
    /// is given the first.
    pub(crate) fn new(address: SocketAddr, keys: &ApiKeys) -> Option<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = keys.iter().next() {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let http = builder().default_headers(headers).build().ok()?;
        Some(Self { http, address })
    }

    /// Where its API is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether a node of ours answers there.
    pub(crate) async fn answers(&self) -> bool {
        let asked = self.http.get(self.url("/version")).timeout(THERE).send().await;
        let Ok(reply) = asked else { return false };
        // One that wants a key is a node, too; it says so when it is asked for more.
        reply.status() == StatusCode::UNAUTHORIZED
            || reply.json::<Value>().await.is_ok_and(|said| said["name"] == "taimatsu")
    }

    /// What it is doing.
    pub(crate) async fn status(&self) -> Result<Value, Failure> {
        self.read(self.http.get(self.url("/taimatsu/v1/status")).send().await).await
    }

    /// What it has seen of others.
    pub(crate) async fn reputation(&self, peer: Option<&str>) -> Result<Value, Failure> {
        let query = peer.map(|peer| ("peer", peer));
        let sent = self.http.get(self.url("/taimatsu/v1/reputation")).query(query.as_slice());
        self.read(sent.send().await).await
    }

    /// Who hosts which blocks of a model.
    pub(crate) async fn map(&self, model: &str) -> Result<Value, Failure> {
        let sent = self.http.get(self.url("/taimatsu/v1/map")).query(&[("model", model)]);
        self.read(sent.send().await).await
    }

    /// Has it announce something in the DHT, to be looked up from elsewhere.
    pub(crate) async fn try_dht(&self) -> Result<Value, Failure> {
        self.read(self.http.post(self.url("/taimatsu/v1/try-dht")).send().await).await
    }

    /// Receipts of the answers that it asked for.
    pub(crate) async fn receipts(&self, id: Option<&str>) -> Result<Value, Failure> {
        let query = id.map(|id| ("id", id));
        let sent = self.http.get(self.url("/taimatsu/v1/receipts")).query(query.as_slice());
        let sent = sent.send().await;
        if sent.as_ref().is_ok_and(|reply| reply.status() == StatusCode::NOT_FOUND) {
            return Err(Failure::new(Code::NotFound, "nothing of the kind is kept here")
                .try_this("taimatsu receipts"));
        }
        self.read(sent).await
    }

    /// Asks.
    pub(crate) async fn run(&self, question: Question) -> Result<Events, Failure> {
        let request = RunRequest::of(&question);
        let sent = self.http.post(self.url("/taimatsu/v1/run")).json(&request).send().await;
        let reply = self.checked(sent).await?;
        Ok(Events { chunks: reply.bytes_stream().boxed(), pending: Vec::new() })
    }

    /// Scores.
    pub(crate) async fn score(&self, scoring: &Scoring) -> Result<Scores, Failure> {
        let request = ScoreRequest::from(scoring);
        let sent = self.http.post(self.url("/taimatsu/v1/score")).json(&request).send().await;
        Ok(self.read::<ScoreReply>(sent).await?.into())
    }

    async fn read<T: DeserializeOwned>(
        &self,
        sent: reqwest::Result<reqwest::Response>,
    ) -> Result<T, Failure> {
        self.checked(sent).await?.json().await.map_err(|error| self.broken(&error))
    }

    async fn checked(
        &self,
        sent: reqwest::Result<reqwest::Response>,
    ) -> Result<reqwest::Response, Failure> {
        let reply = sent.map_err(|error| self.broken(&error))?;
        if reply.status().is_success() {
            return Ok(reply);
        }
        if reply.status() == StatusCode::UNAUTHORIZED {
            let what = format!("the node at {} wants an API key", self.address);
            return Err(Failure::new(Code::Usage, what)
                .because("none was given, or another")
                .try_this(format!("--api-key FILE, or {}", config::API_KEY)));
        }
        let error: ErrorReply = reply.json().await.map_err(|error| self.broken(&error))?;
        Err(EngineError::from(error).into())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        Failure::of(Code::NoNode, format!("the node at {} does not answer", self.address), error)
            .try_this("taimatsu status")
    }
}

impl Events {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let event = serde_json::from_slice::<RunEvent>(&line);
                return event.map(Event::from).map_err(|error| broken_off(&error));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) if self.pending.len() + chunk.len() <= MAX_LINE => {
                    self.pending.extend_from_slice(&chunk);
                }
                Some(Ok(_)) => {
                    let what = "the node's answer has a line that is too long";
                    return Err(Failure::new(Code::Failure, what));
                }
                Some(Err(error)) => return Err(broken_off(&error)),
                None => {
                    return Err(Failure::new(Code::Failure, "the answer broke off")
                        .because("the node ended it without a last word")
                        .try_this("taimatsu status"));
                }
            }
        }
    }
}

/// An HTTP client for this machine's addresses: no proxy stands between.
///
/// # Errors
/// None can be made here.
pub(crate) fn http() -> Result<reqwest::Client, Failure> {
    builder()
        .build()
        .map_err(|error| Failure::of(Code::Failure, "no HTTP client can be made", &error))
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().connect_timeout(THERE)
}

fn broken_off(error: &dyn std::error::Error) -> Failure {
    Failure::of(Code::Failure, "the answer broke off", error).try_this("taimatsu status")
}
