//! An answer's events to the wire and back. Both sides are built field by field: a new field of
//! the engine does not compile before it travels.

use super::control::{
    Reason, RunEvent, RunFinished, RunHop, RunHost, RunReport, RunRoute, RunStarted, RunToken,
    WireSpan,
};
use crate::engine::{
    EngineError, Event, FinishReason, Finished, HopReport, Route, RouteHost, RouteReport, Started,
    TokenEvent,
};

impl From<Event> for RunEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Started(Started { model, fingerprint, prompt_tokens, privacy, route }) => {
                let route = route.into();
                Self::Started(RunStarted { model, fingerprint, prompt_tokens, privacy, route })
            }
            Event::Rerouted(route) => Self::Rerouted(route.into()),
            Event::Token(TokenEvent { id, text, logprob, top }) => {
                Self::Token(RunToken { id, text, logprob, top })
            }
            Event::Finished(finished) => Self::Finished(RunFinished {
                reason: match finished.reason {
                    FinishReason::Stop => Reason::Stop,
                    FinishReason::Length => Reason::Length,
                },
                text: finished.text,
                completion_tokens: finished.completion_tokens,
                report: finished.report.into(),
            }),
            Event::Failed(error) => Self::Failed(error.into()),
        }
    }
}

impl From<RunEvent> for Event {
    fn from(event: RunEvent) -> Self {
        match event {
            RunEvent::Started(RunStarted { model, fingerprint, prompt_tokens, privacy, route }) => {
                let route = route.into();
                Self::Started(Started { model, fingerprint, prompt_tokens, privacy, route })
            }
            RunEvent::Rerouted(route) => Self::Rerouted(route.into()),
            RunEvent::Token(RunToken { id, text, logprob, top }) => {
                Self::Token(TokenEvent { id, text, logprob, top })
            }
            RunEvent::Finished(finished) => Self::Finished(Finished {
                reason: match finished.reason {
                    Reason::Stop => FinishReason::Stop,
                    Reason::Length => FinishReason::Length,
                },
                text: finished.text,
                completion_tokens: finished.completion_tokens,
                report: finished.report.into(),
            }),
            RunEvent::Failed(failure) => Self::Failed(EngineError::from(failure)),
        }
    }
}

impl From<Route> for RunRoute {
    fn from(Route { hosts }: Route) -> Self {
        let host = |RouteHost { peer, span }| RunHost { peer, span: WireSpan(span) };
        Self { hosts: hosts.into_iter().map(host).collect() }
    }
}

impl From<RunRoute> for Route {
    fn from(RunRoute { hosts }: RunRoute) -> Self {
        let host = |RunHost { peer, span: WireSpan(span) }| RouteHost { peer, span };
        Self { hosts: hosts.into_iter().map(host).collect() }
    }
}

impl From<RouteReport> for RunReport {
    fn from(report: RouteReport) -> Self {
        let hop = |hop: HopReport| RunHop {
            peer: hop.peer,
            span: WireSpan(hop.span),
            ms_per_token: hop.ms_per_token,
            direct_frames: hop.direct_frames,
            relayed_frames: hop.relayed_frames,
        };
        Self {
            hops: report.hops.into_iter().map(hop).collect(),
            lost: report.lost.into_iter().map(hop).collect(),
            ttft_ms: report.ttft_ms,
            tokens_per_second: report.tokens_per_second,
            forwarded_frames: report.forwarded_frames,
            session: report.session,
            receipts: report.receipts,
        }
    }
}

impl From<RunReport> for RouteReport {
    fn from(report: RunReport) -> Self {
        let hop = |hop: RunHop| HopReport {
            peer: hop.peer,
            span: hop.span.0,
            ms_per_token: hop.ms_per_token,
            direct_frames: hop.direct_frames,
            relayed_frames: hop.relayed_frames,
        };
        Self {
            hops: report.hops.into_iter().map(hop).collect(),
            lost: report.lost.into_iter().map(hop).collect(),
            ttft_ms: report.ttft_ms,
            tokens_per_second: report.tokens_per_second,
            forwarded_frames: report.forwarded_frames,
            session: report.session,
            receipts: report.receipts,
        }
    }
}
