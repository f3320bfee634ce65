//! What our own command line asks when it wants a prompt scored, and what it hears: see
//! [`super::control`].

use serde::{Deserialize, Serialize};

use super::control::{Route, RunRoute};
use crate::engine::{Privacy, Score, Scores, Scoring};

/// `POST /taimatsu/v1/score`: answered by a [`ScoreReply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreRequest {
    /// As in [`crate::engine::Question::model`].
    pub(crate) model: String,
    /// The tokens.
    pub(crate) ids: Vec<u32>,
    /// Continuations wanted after each.
    pub(crate) top: u8,
    /// None: whatever is best.
    #[serde(default)]
    pub(crate) route: Option<Route>,
    /// Who may see it.
    #[serde(default)]
    pub(crate) privacy: Privacy,
}

impl From<&Scoring> for ScoreRequest {
    fn from(scoring: &Scoring) -> Self {
        Self {
            model: scoring.model.clone(),
            ids: scoring.ids.clone(),
            top: u8::try_from(scoring.top).unwrap_or(u8::MAX),
            route: Route::of(scoring.route),
            privacy: scoring.privacy,
        }
    }
}

impl From<ScoreRequest> for Scoring {
    fn from(request: ScoreRequest) -> Self {
        let ScoreRequest { model, ids, top, route, privacy } = request;
        Self { model, ids, top: top.into(), route: Route::wish(route), privacy }
    }
}

/// What may follow each token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScoreReply {
    /// One entry per token.
    pub(crate) positions: Vec<ScoredPosition>,
    /// Who computed it.
    pub(crate) route: RunRoute,
}

/// What may follow one token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScoredPosition {
    /// The natural log probability of the token that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<f32>,
    /// Id and natural log probability, best first. 32 bits each, and JSON keeps every one.
    pub(crate) top: Vec<(u32, f32)>,
}

impl From<Scores> for ScoreReply {
    fn from(Scores { rows, route }: Scores) -> Self {
        let row = |Score { next, top }| ScoredPosition { next, top };
        Self { positions: rows.into_iter().map(row).collect(), route: route.into() }
    }
}

impl From<ScoreReply> for Scores {
    fn from(ScoreReply { positions, route }: ScoreReply) -> Self {
        let row = |ScoredPosition { next, top }| Score { next, top };
        Self { rows: positions.into_iter().map(row).collect(), route: route.into() }
    }
}
