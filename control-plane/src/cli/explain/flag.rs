//! `leno explain flag UC`: what a response flag means, where it comes from, and what to do about it.
//!
//! The flags are Envoy's, and so are their letters and long names. The texts are Leno's: they say what this data plane has
//! seen when it sets the flag, and which of its figures moves with it. Flags that only Envoy sets are known too, for
//! whoever reads the log of a mixed mesh.

use std::fmt::Write as _;

use anyhow::bail;
use clap::builder::styling::Style;
use leno_proxy::error::Flag;
use serde::Serialize;

use crate::cli::table::{Room, wrapped};

const STRONG: Style = Style::new().bold();

/// What there is to say of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Explanation {
    /// Envoy's letters.
    pub(super) flag: &'static str,
    /// Envoy's long name.
    pub(super) name: &'static str,
    /// What has happened.
    pub(super) cause: &'static str,
    /// What to do about it.
    pub(super) remedy: &'static str,
    /// Figures that move with it, beside the `response_flags` of the log and of `istio_requests_total`.
    pub(super) metrics: &'static [&'static str],
}

/// The flags of `UC`, `urx,ut` or several such words, each once, in the order in which they are asked for.
pub(super) fn find(words: &[String]) -> anyhow::Result<Vec<Explanation>> {
    let mut found: Vec<Explanation> = Vec::new();
    let asked = words.iter().flat_map(|word| word.split([',', ' '])).map(str::trim).filter(|word| !word.is_empty());
    for word in asked {
        let Some(explanation) = known().find(|known| known.flag.eq_ignore_ascii_case(word)) else {
            return unknown(word);
        };
        if !found.contains(&explanation) {
            found.push(explanation);
        }
    }
    if found.is_empty() {
        bail!("name a flag, as in `leno explain flag UC`; there are: {}", letters());
    }
    Ok(found)
}

fn unknown<T>(word: &str) -> anyhow::Result<T> {
    const CLOSE: f64 = 0.5;
    let upper = word.to_ascii_uppercase();
    let likeness = |known: &Explanation| {
        let names = [known.flag.to_owned(), known.name.to_ascii_uppercase()];
        names.iter().map(|name| strsim::normalized_damerau_levenshtein(&upper, name)).fold(0.0, f64::max)
    };
    let best = known().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let guess = best.filter(|best| likeness(best) >= CLOSE).map(|best| format!(" (did you mean {}?)", best.flag));
    bail!("`{word}` is no response flag{}; there are: {}", guess.unwrap_or_default(), letters())
}

fn known() -> impl Iterator<Item = Explanation> {
    Flag::ALL.iter().map(|flag| explanation(*flag)).chain(ENVOYS.iter().copied())
}

fn letters() -> String {
    known().map(|known| known.flag).collect::<Vec<_>>().join(", ")
}

/// Every line begins with its subject, in a column of this width.
const SUBJECT: usize = 10;

/// For people.
pub(super) fn render(explanations: &[Explanation], room: Room) -> String {
    let mut text = String::new();
    for (index, Explanation { flag, name, cause, remedy, metrics }) in explanations.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{gap}{STRONG}{flag}{STRONG:#}  {name}\n");
        let seen = format!("response_flags in the access log, istio_requests_total{{response_flags=\"{flag}\"}}");
        let said = [("cause", (*cause).to_owned()), ("remedy", (*remedy).to_owned()), ("seen", seen)];
        let more = metrics.iter().map(|metric| ("", (*metric).to_owned()));
        for (subject, sentence) in said.into_iter().chain(more) {
            for (at, line) in wrapped(&sentence, room.beside(SUBJECT)).iter().enumerate() {
                let subject = if at == 0 { format!("  {subject}") } else { String::new() };
                let _ = writeln!(text, "{subject:SUBJECT$}{line}");
            }
        }
    }
    text
}

/// What this data plane has to say of each of its flags.
#[allow(clippy::too_many_lines)] // A table: one entry for each flag.
fn explanation(flag: Flag) -> Explanation {
    let (name, cause, remedy, metrics): (_, _, _, &[&str]) = match flag {
        Flag::None => ("None", "Nothing went wrong on the way.", "There is nothing to remedy.", &[]),
        Flag::NR => (
            "NoRouteFound",
            "No virtual host has the requested host, or none of its routes takes the request.",
            "`leno explain METHOD URL --of PROXY` says which rules were asked and why each did not match; add a last route without `match`, or fix the host.",
            &[],
        ),
        Flag::NC => (
            "NoClusterFound",
            "The route leads to a cluster that the proxy does not have: its subset or port does not exist, or the proxy refused it.",
            "`leno validate` names unknown subsets and ports, and `leno status` what was refused (LAST NACK).",
            &["leno_config_rejected_total"],
        ),
        Flag::UH => (
            "NoHealthyUpstream",
            "The cluster has no endpoint that may be used: there is none, or all are ejected or fail their health checks.",
            "`leno config endpoints PROXY --fqdn HOST` shows each with its state; start instances, or look at what they answer to the checks.",
            &["leno_cluster_unhealthy_endpoints", "leno_cluster_ejections_active"],
        ),
        Flag::UF => (
            "UpstreamConnectionFailure",
            "No connection to the endpoint came about: refused, unreachable, too slow (connectTimeout), or its certificate was not the expected one.",
            "x-leno-error and the log have the system's words; see that the instance listens on the port of its Service, and for TLS that both sides agree (`leno config secrets PROXY`).",
            &["leno_tls_handshakes_failed_total"],
        ),
        Flag::UC => (
            "UpstreamConnectionTermination",
            "The endpoint closed the connection before its answer was complete: it crashed, was stopped, or closed a kept-alive connection at the moment of the request.",
            "Let the app keep idle connections longer than the caller's proxy (idleTimeout of the DestinationRule), and end on SIGTERM only after open requests; retries on `reset-before-request` or `connect-failure` hide the rest.",
            &["leno_cluster_retries_total"],
        ),
        Flag::UR => (
            "UpstreamRemoteReset",
            "The endpoint reset the HTTP/2 stream, or refused it.",
            "The log has the error code: REFUSED_STREAM means that it has too many streams or is going away, CANCEL and INTERNAL_ERROR are the app's doing.",
            &["leno_cluster_retries_total"],
        ),
        Flag::UT => (
            "UpstreamRequestTimeout",
            "No complete answer came within the timeout of the route, or of the one attempt there was (perTryTimeout).",
            "`leno explain METHOD URL --of PROXY` shows the timeout and the rule that sets it; raise it, or find out why the endpoint is slow (`leno stat`).",
            &["leno_cluster_timeouts_total"],
        ),
        Flag::UPE => (
            "UpstreamProtocolError",
            "What the endpoint answered is not valid HTTP, or its body broke off against its own length.",
            "See that the protocol of the Service's port is the one the app speaks (http, http2, grpc, tcp), and that the app sends no broken headers.",
            &[],
        ),
        Flag::DC => (
            "DownstreamConnectionTermination",
            "The caller went away before its answer was complete: it gave up waiting, or ended.",
            "Compare the duration in the log with the caller's own timeout; when many callers do so at the same duration, the timeout is too short or the answer too slow.",
            &[],
        ),
        Flag::DPE => (
            "DownstreamProtocolError",
            "The request is not acceptable HTTP: a missing or second Host, a broken target, headers that are too large.",
            "x-leno-error says what is wrong with it; fix the client.",
            &[],
        ),
        Flag::DF => (
            "DnsResolutionFailed",
            "The host is not a service of the mesh, and its name does not resolve.",
            "Check the spelling of the host and what the proxy's resolver says (`getent hosts HOST`); for a service of the mesh, see that a Service or ServiceEntry is in force.",
            &[],
        ),
        Flag::LR => (
            "LocalReset",
            "The proxy refused to connect: the address is its own (the request would go round in a circle) or a link-local one that no rule names.",
            "Call the service by its name; for an address that is really meant, write a ServiceEntry.",
            &[],
        ),
        Flag::UAEX => (
            "UnauthorizedExternalService",
            "An AuthorizationPolicy or the verification of a token said no (401 or 403).",
            "The proxy's own log names the policy; `leno explain METHOD URL --from CALLER -f RULES` shows which one decides, and what would let the request in.",
            &["leno_authorization_denied_total", "leno_jwt_refused_total"],
        ),
        Flag::UO => (
            "UpstreamOverflow",
            "A limit of the cluster is reached: connections, pending requests, requests under way, or retries (connectionPool of its DestinationRule).",
            "`leno status --proxy URL` shows what is in use of each limit; raise it, or add instances. Such refusals never count against an endpoint.",
            &["leno_cluster_overflows_total", "leno_cluster_in_use"],
        ),
        Flag::URX => (
            "UpstreamRetryLimitExceeded",
            "All the retries that the rule allows were made, and the last attempt failed as well.",
            "The flag beside it says how the last attempt failed; look at the endpoints rather than at the number of attempts.",
            &["leno_cluster_retries_total", "leno_cluster_retries_ended_total"],
        ),
        Flag::DI => (
            "DelayInjected",
            "The request was held back on purpose, by `fault.delay` of its rule.",
            "Nothing is broken; take the fault out of the rule when the experiment is over.",
            &["leno_faults_total"],
        ),
        Flag::FI => (
            "FaultInjected",
            "The request was failed on purpose, by `fault.abort` of its rule.",
            "Nothing is broken; take the fault out of the rule when the experiment is over.",
            &["leno_faults_total"],
        ),
        Flag::RL => (
            "RateLimited",
            "A RateLimit of the called workload had no room for the request (429).",
            "The answer's x-ratelimit-* headers and retry-after say when there is room again; raise the limit, or let the caller slow down.",
            &["leno_rate_limited_total"],
        ),
        Flag::SI => (
            "StreamIdleTimeout",
            "Nothing moved in either direction for as long as a stream or connection may be idle.",
            "Raise the idle timeout for streams that are quiet for long, or let the app send something now and then.",
            &[],
        ),
        Flag::DT => (
            "DurationTimeout",
            "The request or connection lasted as long as one may (maxStreamDuration, maxConnectionDuration).",
            "Raise the limit for long transfers, or let the client resume.",
            &[],
        ),
        Flag::OM => (
            "OverloadManager",
            "This proxy has more to do than it can and sheds load: too many connections or requests, or the concurrency limit is reached.",
            "Give the sidecar more CPU, add instances, or raise its limits; answers have a retry-after.",
            &["leno_shed_total", "leno_concurrency_limit"],
        ),
    };
    Explanation { flag: flag.as_str(), name, cause, remedy, metrics }
}

const fn envoys(flag: &'static str, name: &'static str, cause: &'static str) -> Explanation {
    Explanation {
        flag,
        name,
        cause,
        remedy: "Only Envoy sets it; look at the Envoy that wrote the line.",
        metrics: &[],
    }
}

/// Flags that Leno has no occasion to set.
const ENVOYS: &[Explanation] = &[
    envoys("LH", "FailedLocalHealthCheck", "The own service failed the health check that Envoy answers for it."),
    envoys("RLSE", "RateLimitServiceError", "The external rate limit service could not be asked."),
    envoys("IH", "InvalidEnvoyRequestHeaders", "A header of Envoy's own had a value that is not allowed."),
    envoys("UMSDR", "UpstreamMaxStreamDurationReached", "The upstream stream lasted as long as one may; Leno says DT."),
    envoys("RFCF", "ResponseFromCacheFilter", "The answer came out of Envoy's cache."),
    envoys("NFCF", "NoFilterConfigFound", "The configuration of a filter did not come in time (ECDS)."),
    envoys("OMT", "OverloadManagerTerminated", "Envoy's overload manager ended the request; Leno says OM."),
    envoys("DO", "DropOverload", "The control plane told Envoy to drop a share of the load (drop_overload)."),
    envoys("DR", "DownstreamRemoteReset", "The caller reset its HTTP/2 stream; Leno says DC."),
    envoys("UDO", "UnconditionalDropOverload", "The control plane told Envoy to drop all of the load."),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[&str]) -> Vec<&'static str> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        find(&words).unwrap().iter().map(|found| found.flag).collect()
    }

    #[test]
    fn flags_are_found_in_any_case_and_several_at_once() {
        assert_eq!(found(&["UC"]), ["UC"]);
        assert_eq!(found(&["urx,ut"]), ["URX", "UT"]);
        assert_eq!(found(&["DI", "fi,di", "-"]), ["DI", "FI", "-"]);
        assert_eq!(found(&["UMSDR"]), ["UMSDR"]);
    }

    #[test]
    fn an_unknown_flag_gets_a_guess_and_the_list() {
        let error = find(&["UXR".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`UXR` is no response flag (did you mean URX?)") && error.contains("UAEX"), "{error}");
        let error = find(&["UpstreamOverflw".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("did you mean UO?"), "{error}");
        assert!(!find(&["zzzzzz".to_owned()]).unwrap_err().to_string().contains("did you mean"));
        assert!(find(&[",".to_owned()]).unwrap_err().to_string().contains("leno explain flag UC"));
    }

    #[test]
    fn every_flag_has_cause_and_remedy_in_whole_sentences() {
        let all: Vec<Explanation> = known().collect();
        for Explanation { flag, name, cause, remedy, .. } in &all {
            for sentence in [cause, remedy] {
                assert!(sentence.ends_with('.') && sentence.len() > 15, "{flag}: {sentence}");
            }
            assert!(!name.is_empty(), "{flag}");
        }
        let mut letters: Vec<_> = all.iter().map(|known| known.flag).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), all.len(), "each stands there once");
    }

    #[test]
    fn the_text_names_cause_remedy_and_where_it_is_seen() {
        let text =
            anstream::adapter::strip_str(&render(&find(&["UO".to_owned()]).unwrap(), Room::Unbounded)).to_string();
        for part in [
            "UO  UpstreamOverflow\n",
            "  cause   A limit of the cluster",
            "  remedy  `leno status",
            "response_flags=\"UO\"",
            "leno_cluster_overflows_total",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn sentences_are_no_wider_than_the_terminal() {
        let all: Vec<Explanation> = known().collect();
        let text = anstream::adapter::strip_str(&render(&all, Room::Columns(80))).to_string();
        let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }
}
