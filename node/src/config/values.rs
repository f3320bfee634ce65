//! What a setting may be. The same reading for a flag, a variable and a line of the file, so that
//! a value that cannot be is refused in the same words everywhere.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use taimatsu_network::Multiaddr;
use taimatsu_protocol::PeerId;

use crate::engine::Privacy;

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounded<const LEAST: u32, const MOST: u32>(u32);

/// Threads that compute.
pub(crate) type Threads = Bounded<1, 1024>;
/// Positions of KV.
pub(crate) type Positions = Bounded<16, 16_777_216>;
/// Sessions at a time.
pub(crate) type Sessions = Bounded<1, 1024>;
/// Kibibytes a second. Below the least, a chain's heartbeats would be late behind its frames.
pub(crate) type Kibibytes = Bounded<16, 16_777_216>;
/// Mebibytes of memory.
pub(crate) type Mebibytes = Bounded<1, 1_073_741_824>;
/// Seconds of a drain, or of patience.
pub(crate) type Seconds = Bounded<0, 3_600>;

/// Where an API listens: `127.0.0.1:4810`, a port, or an URL of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiAddress(pub(crate) SocketAddr);

/// Where nodes are dialled, or listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) Multiaddr);

/// A peer's full id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) PeerId);

/// A swarm's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwarmName(pub(crate) String);

/// Yes or no, as a variable says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truth(pub(crate) bool);

/// Who may see questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PrivacyArg {
    /// Nobody but the node itself
    Local,
    /// Hosts named as trusted
    Trusted,
    /// Whoever hosts it
    Anyone,
}

impl PrivacyArg {
    /// As it is written.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Trusted => "trusted",
            Self::Anyone => "anyone",
        }
    }
}

impl From<PrivacyArg> for Privacy {
    fn from(privacy: PrivacyArg) -> Self {
        match privacy {
            PrivacyArg::Local => Self::Local,
            PrivacyArg::Trusted => Self::Trusted,
            PrivacyArg::Anyone => Self::Anyone,
        }
    }
}

impl FromStr for PrivacyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Local, Self::Trusted, Self::Anyone];
        let found = all.into_iter().find(|privacy| privacy.word() == text);
        found.ok_or_else(|| "must be local, trusted or anyone".into())
    }
}

impl<const LEAST: u32, const MOST: u32> Bounded<LEAST, MOST> {
    /// A number that is known to be within the bounds when this is compiled.
    pub(crate) const fn fixed<const NUMBER: u32>() -> Self {
        const { assert!(LEAST <= NUMBER && NUMBER <= MOST) }
        Self(NUMBER)
    }

    /// The number.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    fn of(number: i64) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        (LEAST..=MOST).contains(&number).then_some(Self(number))
    }

    fn expected() -> String {
        format!("a whole number from {LEAST} to {MOST}")
    }
}

impl<const LEAST: u32, const MOST: u32> FromStr for Bounded<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().parse().ok().and_then(Self::of);
        number.ok_or_else(|| format!("must be {}", Self::expected()))
    }
}

impl<'de, const LEAST: u32, const MOST: u32> de::Deserialize<'de> for Bounded<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const LEAST: u32, const MOST: u32>;
        impl<const LEAST: u32, const MOST: u32> Visitor<'_> for Number<LEAST, MOST> {
            type Value = Bounded<LEAST, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&Self::Value::expected())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                let unexpected = de::Unexpected::Signed(number);
                Bounded::of(number).ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }
        deserializer.deserialize_i64(Number)
    }
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address like 127.0.0.1:4810");
        let text = text.trim_start_matches("http://").trim_end_matches('/');
        let text = text.trim_end_matches("/v1");
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        text.replace("localhost", "127.0.0.1").parse().map(Self).map_err(|_| wrong())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error| {
            format!(
                "`{text}` is not an address ({error}); one is /ip4/203.0.113.7/tcp/4801, with \
                 /p2p/12D3Koo… behind it to dial"
            )
        })
    }
}

impl FromStr for SwarmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = !text.trim().is_empty() && !text.chars().any(char::is_control);
        match shown && text.len() <= MAX_SWARM {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("must be a name: 1 to {MAX_SWARM} bytes that can be shown")),
        }
    }
}

impl FromStr for Truth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Self(true)),
            "false" | "no" | "off" | "0" => Ok(Self(false)),
            _ => Err("must be true, false, yes, no, on, off, 1 or 0".into()),
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: taimatsu_protocol::ids::ParseIdError| error.to_string())
    }
}

/// Reads a text as what it means.
macro_rules! read_from_text {
    ($($kind:ty),*) => {$(
        impl<'de> de::Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as de::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

read_from_text!(ApiAddress, Address, Peer, SwarmName);

/// The longest name of a swarm, in bytes.
const MAX_SWARM: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_address_is_read_in_every_form() {
        for text in ["4811", "127.0.0.1:4811", "localhost:4811", "http://127.0.0.1:4811/v1"] {
            let address: ApiAddress = text.parse().unwrap();
            assert_eq!(address.0.to_string(), "127.0.0.1:4811", "{text}");
        }
        assert!("nowhere".parse::<ApiAddress>().unwrap_err().contains("127.0.0.1:4810"));
    }

    #[test]
    fn a_number_has_bounds() {
        assert_eq!("1024".parse::<Threads>().unwrap().get(), 1024);
        for text in ["0", "1025", "-1", "x", "", "99999999999"] {
            let told = text.parse::<Threads>().unwrap_err();
            assert!(told.contains("1 to 1024"), "{text}: {told}");
        }
    }

    #[test]
    fn peers_and_addresses_are_read_or_named() {
        let id = PeerId::from_public_key([7; 32]);
        assert_eq!(id.to_string().parse::<Peer>().unwrap().0, id);
        assert!("somebody".parse::<Peer>().unwrap_err().contains("somebody"));
        assert!("/ip4/1.2.3.4/tcp/1".parse::<Address>().is_ok());
        assert!("nowhere".parse::<Address>().unwrap_err().contains("/ip4/"));
    }
}
