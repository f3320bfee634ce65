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

/// How long it may take to say what it knows.
const SOON: Duration = Duration::from_secs(20);

/// How long it may take to have something looked up in the DHT: longer than each of its queries.
const LOOK_UP: Duration = Duration::from_secs(40);

/// How long an answer may be silent: a long prompt on a slow machine takes its time.
const SILENT: Duration = Duration::from_secs(1_800);

/// The longest reply that is not a stream, in bytes: the scores of a long prompt.
const MAX_REPLY: usize = 64 << 20;

/// The longest line of an answer, in bytes: a started event with a prompt of 32,768 ids.
const MAX_LINE: usize = 1 << 20;

/// A node's API.
#[derive(Debug, Clone)]
pub(crate) struct NodeClient {
    http: reqwest::Client,
    address: SocketAddr,
    soon: Duration,
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
        let http = builder().read_timeout(SILENT).default_headers(headers).build().ok()?;
        Some(Self { http, address, soon: SOON })
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
            || self.json::<Value>(reply).await.is_ok_and(|said| said["name"] == "taimatsu")
    }

    /// What it is doing.
    pub(crate) async fn status(&self) -> Result<Value, Failure> {
        self.get("/taimatsu/v1/status", &[]).await
    }

    /// What it has seen of others.
    pub(crate) async fn reputation(&self, peer: Option<&str>) -> Result<Value, Failure> {
        self.get("/taimatsu/v1/reputation", peer.map(|peer| ("peer", peer)).as_slice()).await
    }

    /// Who hosts which blocks of a model.
    pub(crate) async fn map(&self, model: &str) -> Result<Value, Failure> {
        self.get("/taimatsu/v1/map", &[("model", model)]).await
    }

    /// Has it announce something in the DHT, to be looked up from elsewhere.
    pub(crate) async fn try_dht(&self) -> Result<Value, Failure> {
        let sent = self.http.post(self.url("/taimatsu/v1/try-dht")).timeout(LOOK_UP);
        self.read(sent.send().await).await
    }

    /// Receipts of the answers that it asked for.
    pub(crate) async fn receipts(&self, id: Option<&str>) -> Result<Value, Failure> {
        let query = id.map(|id| ("id", id));
        let sent = self.http.get(self.url("/taimatsu/v1/receipts")).query(query.as_slice());
        let sent = sent.timeout(self.soon).send().await;
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
        let reply = self.checked(sent).await?;
        self.json(reply).await
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.read(self.http.get(self.url(path)).query(query).timeout(self.soon).send().await).await
    }

    async fn json<T: DeserializeOwned>(&self, mut reply: reqwest::Response) -> Result<T, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + chunk.len() > MAX_REPLY {
                let what = format!("the reply of the node at {} has no end", self.address);
                return Err(Failure::new(Code::NoNode, what)
                    .because(format!("it has more than {MAX_REPLY} bytes"))
                    .try_this("--api with the address of a node"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| {
            let what = format!("what answers at {} speaks otherwise than a node", self.address);
            Failure::of(Code::NoNode, what, &error).try_this("--api with the address of a node")
        })
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
        let error: ErrorReply = self.json(reply).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client of a port where each request is answered with this, again and again, and is left
    /// open.
    async fn client(head: &'static str, again: Vec<u8>) -> NodeClient {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while !again.is_empty() && stream.write_all(&again).await.is_ok() {}
                tokio::spawn(async move { stream.read(&mut [0; 1024]).await });
            }
        });
        let soon = Duration::from_millis(200);
        NodeClient { soon, ..NodeClient::new(address, &ApiKeys::default()).unwrap() }
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let client = client(head, Vec::new()).await;
            for asked in [client.status().await, client.map("m").await, client.receipts(None).await]
            {
                assert!(asked.unwrap_err().to_string().contains("does not answer"));
            }
        }
    }

    #[tokio::test]
    async fn a_reply_without_end_is_not_read_to_the_end() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n";
        let mut client = client(head, vec![b' '; 1 << 20]).await;
        client.soon = Duration::from_secs(60);
        assert!(client.status().await.unwrap_err().to_string().contains("no end"));
    }

    #[tokio::test]
    async fn what_is_no_node_is_told() {
        let client = client("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Vec::new()).await;
        assert!(client.status().await.unwrap_err().to_string().contains("otherwise than a node"));
        assert!(!client.answers().await);
    }
}
