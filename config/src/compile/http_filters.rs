//! What a VirtualService does to requests besides sending them on: headers, CORS, faults.

use std::collections::BTreeMap;

use http::StatusCode;

use crate::ir::{
    AbortStatus, Cors, Fault, FaultAbort, FaultDelay, Fraction, HeaderField, HeaderOps, Invalid, StringMatch,
};
use crate::rules::{self, CorsPolicy, HttpFaultInjection, Percent, UnmatchedPreflights};

use super::clusters::duration;
use super::http_match::string;

/// Header operations of a route or a destination.
#[derive(Debug, Default)]
pub(super) struct Headers {
    pub(super) request: HeaderOps,
    pub(super) response: HeaderOps,
    /// What `Host` or `:authority` becomes: written among the request's headers, done by the router.
    pub(super) authority: Option<String>,
}

impl Headers {
    /// Reads them; a name or value that HTTP does not allow is refused.
    pub(super) fn new(written: Option<&rules::Headers>) -> Result<Self, Invalid> {
        let Some(written) = written else { return Ok(Self::default()) };
        let request = written.request.as_ref();
        let authority = |map: &BTreeMap<String, String>| {
            map.iter().find(|(name, _)| is_authority(name)).map(|(_, value)| value.clone())
        };
        Ok(Self {
            request: request.map(operations).transpose()?.unwrap_or_default(),
            response: written.response.as_ref().map(operations).transpose()?.unwrap_or_default(),
            authority: request.and_then(|request| authority(&request.set).or_else(|| authority(&request.add))),
        })
    }

    /// These, and then the others, each kind by itself: what these add stands beside what the others set, since Envoy sets
    /// all before it adds any. Only where these leave the host alone do the others say what it becomes.
    pub(super) fn then(mut self, others: Self) -> Self {
        for (mine, next) in [(&mut self.request, others.request), (&mut self.response, others.response)] {
            mine.remove.extend(next.remove);
            mine.set.extend(next.set);
            mine.add.extend(next.add);
        }
        self.authority = self.authority.or(others.authority);
        self
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Pseudo headers and the host are not for header operations: they are left out.
fn operations(written: &rules::HeaderOperations) -> Result<HeaderOps, Invalid> {
    let plain = |name: &str| !name.starts_with(':') && !is_authority(name);
    let fields = |map: &BTreeMap<String, String>| -> Result<Vec<_>, Invalid> {
        map.iter().filter(|(name, _)| plain(name)).map(|(name, value)| HeaderField::new(name, value)).collect()
    };
    let removed = written
        .remove
        .iter()
        .filter(|name| plain(name))
        .map(|name| name.parse().map_err(|_| Invalid(format!("`{name}` is not a header name (RFC 9110 §5.1)"))));
    Ok(HeaderOps { remove: removed.collect::<Result<_, _>>()?, set: fields(&written.set)?, add: fields(&written.add)? })
}

/// Cross-origin policy. Unmatched preflights are passed on unless the rule says otherwise (Istio).
pub(super) fn cors(written: &CorsPolicy) -> Result<Cors, Invalid> {
    let mut allow_origins = Vec::new();
    for origin in &written.allow_origins {
        allow_origins.extend(string(origin)?);
    }
    if written.allow_origins.is_empty() {
        allow_origins.extend(written.allow_origin.iter().map(StringMatch::exact));
    }
    Ok(Cors {
        allow_origins,
        allow_methods: written.allow_methods.join(","),
        allow_headers: written.allow_headers.join(","),
        expose_headers: written.expose_headers.join(","),
        max_age: duration(written.max_age.as_ref()),
        allow_credentials: written.allow_credentials.unwrap_or(false),
        forward_unmatched_preflights: written.unmatched_preflights != Some(UnmatchedPreflights::Ignore),
    })
}

/// Faults; `None`: nothing would ever happen. Without a percentage nothing does (Istio).
pub(super) fn fault(written: &HttpFaultInjection) -> Result<Option<Fault>, Invalid> {
    let delay = match &written.delay {
        Some(delay) => {
            let whole = delay.percent.map(f64::from);
            let share = percent(delay.percentage.as_ref().and_then(|share| share.value).or(whole).unwrap_or(0.0))?;
            duration(delay.fixed_delay.as_ref()).map(|duration| FaultDelay { duration, share })
        }
        None => None,
    };
    let abort = match &written.abort {
        Some(abort) => {
            let share = percent(abort.percentage.as_ref().and_then(|share| share.value).unwrap_or(0.0))?;
            abort_status(abort)?.map(|with| FaultAbort { with, share })
        }
        None => None,
    };
    let delay = delay.filter(|delay| delay.share > Fraction::NONE);
    let abort = abort.filter(|abort| abort.share > Fraction::NONE);
    Ok((delay.is_some() || abort.is_some()).then_some(Fault { delay, abort }))
}

fn abort_status(abort: &rules::FaultAbort) -> Result<Option<AbortStatus>, Invalid> {
    if let Some(written) = abort.http_status {
        let code = u16::try_from(written).ok().filter(|code| (200..600).contains(code));
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        return code
            .map(|code| Some(AbortStatus::Http(code)))
            .ok_or_else(|| Invalid(format!("an HTTP status of a fault is between 200 and 599, not {written}")));
    }
    abort.grpc_status.as_deref().map(AbortStatus::grpc).transpose()
}

/// What a percentage says; absent: `default`.
pub(super) fn share_or(written: Option<&Percent>, default: Fraction) -> Result<Fraction, Invalid> {
    // Present without a value is protobuf's zero.
    written.map_or(Ok(default), |written| percent(written.value.unwrap_or(0.0)))
}

fn percent(value: f64) -> Result<Fraction, Invalid> {
    Fraction::from_percent(value)
}
