//! `/stats/prometheus` of the pod: the app's metrics and the proxy's in one answer.
//!
//! A scraper has no certificate of the mesh, so under STRICT mTLS the app's own port refuses it. The injector rewrites the
//! pod's `prometheus.io/*` annotations to this endpoint and tells the proxy where they pointed: `LENO_APP_METRICS`.
//!
//! The scrape never fails because of the app: one that is down, slow, or answers nonsense leaves the proxy's own metrics,
//! `leno_app_metrics_up` 0 and a count of why, and a line in the log when that begins.
//!
//! Which of the two formats is spoken follows the app: it is asked for OpenMetrics if the scraper takes that, and the
//! proxy's own are written in whatever it answers with. So an app's exemplars survive, and a series is not renamed on its
//! way. The app is asked one scrape at a time, since an answer may hold [`LONGEST`] bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::Semaphore;

use crate::admin::{Answer, Shared, own_metrics, text_answer};

use super::ask::{AskError, Asker, Reply, Wanted};
use super::exposition::{Exposition, Format, Malformed};
use super::merge::merge;
use super::port;
use super::probes::HttpGet;

/// Bytes of the app's answer.
const LONGEST: usize = 16 << 20;
/// For the app's answer, where the scraper does not say how long it waits.
const USUAL: Duration = Duration::from_secs(5);
/// The longest that is waited, whatever a scraper says.
const MOST: Duration = Duration::from_secs(10);
/// What is left of the scraper's patience for the proxy's own metrics, in percent.
const RESERVE: u32 = 20;
/// In which a Prometheus says how long it waits, in seconds.
const PATIENCE: &str = "x-prometheus-scrape-timeout-seconds";

/// Where the app's metrics are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMetrics(HttpGet);

impl AppMetrics {
    /// Reads `http://127.0.0.1:8080/metrics`. The host is the pod's own: an IP address or `localhost`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is not a URL like http://127.0.0.1:8080/metrics"))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{url}` has to begin with http:// or https://")),
        };
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare != "localhost" && bare.parse::<IpAddr>().is_err() {
            return Err(format!("`{url}`: the app is in this pod: its host is an IP address or `localhost`"));
        }
        let port =
            port(&uri, if encrypted { 443 } else { 80 }).ok_or_else(|| format!("`{url}`: the port is not one"))?;
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/metrics"));
        Ok(Self(HttpGet { host: Some(bare.to_owned()), port, encrypted, path, headers: HeaderMap::new() }))
    }

    /// Where the app listens for that.
    pub(super) fn address(&self) -> SocketAddr {
        let named = self.0.host.as_deref().and_then(|host| host.parse().ok());
        SocketAddr::new(named.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), self.0.port)
    }
}

/// Why the app's metrics are not in an answer.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("the app cannot be asked")]
    Unreachable(#[source] AskError),
    #[error("the app's answer is longer than {} MiB", LONGEST >> 20)]
    TooLong,
    #[error("the app did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the app answered {0}")]
    Status(StatusCode),
    #[error("the app answered with `{0}`, which is neither Prometheus' text nor OpenMetrics")]
    Format(String),
    #[error("the app's metrics cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("the app's metrics are not UTF-8")]
    Encoding,
}

impl Missing {
    /// As a label's value.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TooLong => "too_long",
            Self::TimedOut(_) => "timeout",
            Self::Status(_) => "status",
            Self::Format(_) => "format",
            Self::Malformed(_) | Self::Encoding => "malformed",
        }
    }
}

/// What is counted of it.
#[derive(Debug, Clone)]
struct Figures {
    up: IntGauge,
    failures: IntCounterVec,
    left_out: IntCounter,
}

impl Figures {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let up = IntGauge::new("leno_app_metrics_up", "Whether the app's own metrics are part of this answer")?;
        let failures = Opts::new("leno_app_metrics_failures_total", "Scrapes without the app's own metrics, by reason");
        let failures = IntCounterVec::new(failures, &["reason"])?;
        let says = "Samples of the app that are left out, because the proxy has the same series or family";
        let left_out = IntCounter::new("leno_app_metrics_left_out_total", says)?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        registry.register(Box::new(left_out.clone()))?;
        up.set(1);
        Ok(Self { up, failures, left_out })
    }

    fn present(&self) {
        if self.up.get() == 0 {
            tracing::info!("the app's metrics are there again");
        }
        self.up.set(1);
    }

    fn missing(&self, missing: &Missing) {
        self.failures.with_label_values(&[missing.reason()]).inc();
        if self.up.get() == 1 {
            let cause = std::error::Error::source(missing).map(ToString::to_string);
            tracing::warn!(cause, "scrapes go without the app's metrics: {missing}");
        }
        self.up.set(0);
    }
}

/// Scrapes the app.
#[derive(Debug)]
pub(super) struct Scraper {
    app: AppMetrics,
    figures: Figures,
    turn: Semaphore,
}

impl Scraper {
    /// Its figures are among the proxy's own.
    pub(super) fn new(app: AppMetrics, registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self { app, figures: Figures::new(registry)?, turn: Semaphore::new(1) })
    }

    /// Both, for a scraper that asks with these headers.
    pub(super) async fn scrape(&self, shared: &Arc<Shared>, asker: &Asker, asked: &HeaderMap) -> Answer {
        let patience = patience(asked);
        let fetch = async {
            // An error would mean that somebody has closed it, and nobody does.
            let turn = self.turn.acquire().await;
            (turn, self.fetch(asker, takes_openmetrics(asked)).await)
        };
        let (_turn, fetched) = match tokio::time::timeout(patience, fetch).await {
            Ok((turn, fetched)) => (turn.ok(), fetched),
            Err(_) => (None, Err(Missing::TimedOut(patience))),
        };
        let (shared, figures) = (Arc::clone(shared), self.figures.clone());
        // Megabytes, perhaps: signals and pushes do not wait for it.
        match tokio::task::spawn_blocking(move || write(&shared, &figures, fetched)).await {
            Ok(answer) => answer,
            Err(error) => {
                text_answer(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be written: {error}\n"))
            }
        }
    }

    async fn fetch(&self, asker: &Asker, openmetrics: bool) -> Result<(Bytes, Format), Missing> {
        let mut get = self.app.0.clone();
        let accept = match openmetrics {
            true => "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            false => "text/plain;version=0.0.4,*/*;q=0.1",
        };
        get.headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        get.headers.insert(header::USER_AGENT, HeaderValue::from_static("leno-proxy"));
        let reply = asker.get(&get, Wanted::All(LONGEST)).await.map_err(|error| match error {
            AskError::TooLong(_) => Missing::TooLong,
            other => Missing::Unreachable(other),
        })?;
        let Reply { status, headers, body } = reply;
        if status != StatusCode::OK {
            return Err(Missing::Status(status));
        }
        let shown = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(coding) = shown(header::CONTENT_ENCODING).filter(|coding| coding != "identity") {
            return Err(Missing::Format(coding));
        }
        let format = Format::of(headers.get(header::CONTENT_TYPE));
        let format = format.ok_or_else(|| Missing::Format(shown(header::CONTENT_TYPE).unwrap_or_default()))?;
        Ok((body, format))
    }
}

/// One answer of what was fetched and the proxy's own, which already tell how that went.
fn write(shared: &Shared, figures: &Figures, fetched: Result<(Bytes, Format), Missing>) -> Answer {
    let read = fetched.as_ref().map(|(body, format)| {
        let text = std::str::from_utf8(body).map_err(|_| Missing::Encoding)?;
        Ok((Exposition::parse(text, *format)?, *format))
    });
    let app = match read {
        Ok(Ok(app)) => app,
        Ok(Err(missing)) => {
            figures.missing(&missing);
            return own_metrics(shared);
        }
        Err(missing) => {
            figures.missing(missing);
            return own_metrics(shared);
        }
    };
    figures.present();
    let own = own_metrics(shared).into_body().into_whole().unwrap_or_default();
    match together(&own, app) {
        Ok((text, left_out, kind)) => {
            figures.left_out.inc_by(left_out);
            let mut answer = text_answer(StatusCode::OK, text);
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            answer
        }
        Err(malformed) => {
            let says = format!("the proxy's own metrics cannot be read: {malformed}; please report that\n");
            text_answer(StatusCode::INTERNAL_SERVER_ERROR, says)
        }
    }
}

fn together(own: &Bytes, (app, format): (Exposition<'_>, Format)) -> Result<(String, u64, &'static str), Malformed> {
    let not_text = Malformed { line: 0, what: "is not UTF-8" };
    let own = Exposition::parse(std::str::from_utf8(own).map_err(|_| not_text)?, Format::Text)?;
    let own = match format {
        Format::Text => own,
        Format::OpenMetrics => own.into_openmetrics(),
    };
    let merged = merge(own, app);
    Ok((merged.exposition.write(format), merged.left_out, format.content_type()))
}

/// How long the app may take.
fn patience(asked: &HeaderMap) -> Duration {
    let seconds = asked.get(PATIENCE).and_then(|value| value.to_str().ok()?.trim().parse::<f64>().ok());
    let scrapers = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    scrapers.map_or(USUAL, |scrapers| (scrapers * (100 - RESERVE) / 100).min(MOST))
}

/// Whether a scraper reads OpenMetrics.
fn takes_openmetrics(asked: &HeaderMap) -> bool {
    let values = asked.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media = values.flat_map(|value| value.split(','));
    media.any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        named && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn the_app_gets_most_of_the_scrapers_patience() {
        let rows = [("10", 8_000), ("1.5", 1_200), ("3600", 10_000), ("-1", 5_000), ("NaN", 5_000), ("soon", 5_000)];
        for (said, milliseconds) in rows {
            assert_eq!(patience(&asked(PATIENCE, said)), Duration::from_millis(milliseconds), "{said}");
        }
        assert_eq!(patience(&HeaderMap::new()), USUAL);
    }

    #[test]
    fn openmetrics_is_asked_for_where_the_scraper_reads_it() {
        let rows = [
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", true),
            ("text/plain;version=0.0.4", false),
            ("text/plain, Application/OpenMetrics-text; version=0.0.1", true),
            ("application/openmetrics-text;q=0", false),
            ("*/*", false),
        ];
        for (accept, expected) in rows {
            assert_eq!(takes_openmetrics(&asked("accept", accept)), expected, "{accept}");
        }
    }

    #[test]
    fn the_apps_metrics_are_in_the_pod() {
        let parsed =
            |url| AppMetrics::parse(url).map(|AppMetrics(get)| (get.port, get.encrypted, get.path.to_string()));
        assert_eq!(parsed("http://127.0.0.1:8080/metrics?a=b"), Ok((8080, false, "/metrics?a=b".to_owned())));
        assert_eq!(parsed("https://localhost/m"), Ok((443, true, "/m".to_owned())));
        assert_eq!(parsed("http://[::1]:9"), Ok((9, false, "/".to_owned())));
        for (url, said) in [
            ("http://example.com/metrics", "IP address or `localhost`"),
            ("ftp://127.0.0.1/", "http://"),
            ("/metrics", "http://"),
            ("http://127.0.0.1:port/", "the port is not one"),
            ("http://127.0.0.1 :1/", "not a URL"),
        ] {
            let error = parsed(url).expect_err(url);
            assert!(error.contains(said), "{url}: {error}");
        }
    }

    #[test]
    fn the_proxys_own_follow_the_apps_format() {
        let own = Bytes::from_static(b"# TYPE own_total counter\nown_total 1\n");
        for (format, app, expected) in [
            (Format::Text, "jobs 1\n", "# TYPE own_total counter\nown_total 1\njobs 1\n"),
            (Format::OpenMetrics, "jobs 1\n# EOF\n", "# TYPE own counter\nown_total 1\njobs 1\n# EOF\n"),
        ] {
            let app = Exposition::parse(app, format).expect("valid");
            let (text, left_out, kind) = together(&own, (app, format)).expect("valid");
            assert_eq!((text.as_str(), left_out, kind), (expected, 0, format.content_type()));
        }
    }
}
