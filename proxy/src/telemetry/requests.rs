//! The series of requests.

use http::{Method, Version};
use leno_config::ir::Direction;

use crate::error::Flags;

use super::labels::{Labels, LinkName, RouteName, TargetName};
use super::names::OTHER;
use super::series::{Block, Book, Key, Table, Total};

/// Upper bounds of durations in microseconds: those of [`super::figures::DURATION_BOUNDS_MS`].
pub const DURATIONS: [u64; 23] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    75_000,
    100_000,
    250_000,
    500_000,
    750_000,
    1_000_000,
    2_500_000,
    5_000_000,
    7_500_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// Upper bounds of sizes in bytes: Istio has the same for all histograms, and 0.5 is 0.
pub const SIZES: [u64; 19] = [
    0, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
    3_600_000,
];

const DURATION: usize = 0;
const MICROS: usize = DURATION + DURATIONS.len() + 1;
const REQUEST_SIZE: usize = MICROS + 1;
const REQUEST_BYTES: usize = REQUEST_SIZE + SIZES.len() + 1;
const RESPONSE_SIZE: usize = REQUEST_BYTES + 1;
const RESPONSE_BYTES: usize = RESPONSE_SIZE + SIZES.len() + 1;
const REQUEST_MESSAGES: usize = RESPONSE_BYTES + 1;
const RESPONSE_MESSAGES: usize = REQUEST_MESSAGES + 1;
/// Figures of one series.
pub const FIGURES: usize = RESPONSE_MESSAGES + 1;

/// All series of requests.
pub type RequestBook = Book<RequestKey, FIGURES>;
/// One worker's.
pub type RequestTable = Table<RequestKey, FIGURES>;
/// One series, summed.
pub type RequestTotal = Total<RequestKey, FIGURES>;

/// What a caller speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spoken {
    /// HTTP, whatever is in it.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

impl Spoken {
    /// Istio's `request_protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// A method that semantic conventions know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Verb {
    #[default]
    Other,
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
}

impl Verb {
    /// A request's.
    pub fn of(method: &Method) -> Self {
        match method.as_str() {
            "CONNECT" => Self::Connect,
            "DELETE" => Self::Delete,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// OTel's `http.request.method`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "_OTHER",
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

/// What only OTel's names tell apart; the default where they are not wanted, which saves series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form {
    /// The method.
    pub verb: Verb,
    /// It came over HTTP/2.
    pub is_http2: bool,
}

impl Form {
    /// A request's.
    pub fn of(method: &Method, version: Version) -> Self {
        Self { verb: Verb::of(method), is_http2: version == Version::HTTP_2 }
    }
}

/// What a series of requests is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Which way.
    pub direction: Direction,
    /// Number of the other side.
    pub link: u32,
    /// Number of what is called.
    pub target: u32,
    /// Number of the route.
    pub route: u32,
    /// The status; 0: there was none.
    pub code: u16,
    /// What went wrong.
    pub flags: Flags,
    /// gRPC's status.
    pub grpc: Option<u8>,
    /// What was spoken.
    pub spoken: Spoken,
    /// For OTel.
    pub form: Form,
}

/// The texts of that.
#[derive(Debug, Clone)]
pub struct RequestNames {
    /// The other side.
    pub link: LinkName,
    /// What is called.
    pub target: TargetName,
    /// The route.
    pub route: RouteName,
}

impl Key for RequestKey {
    type Names = RequestNames;

    fn names(&self, labels: &Labels) -> RequestNames {
        RequestNames {
            link: labels.links.of(self.link),
            target: labels.targets.of(self.target),
            route: labels.routes.of(self.route),
        }
    }

    fn folded(self) -> Self {
        Self { link: OTHER, target: OTHER, route: OTHER, ..self }
    }

    fn last(self) -> Self {
        Self { code: 0, flags: Flags::default(), grpc: None, form: Form::default(), ..self.folded() }
    }
}

/// One request, at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// From its head to the last byte of its answer.
    pub micros: u64,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the body of its answer.
    pub response_bytes: u64,
    /// Its messages, in gRPC.
    pub request_messages: u64,
    /// Those of its answer.
    pub response_messages: u64,
}

impl Request {
    /// Adds itself to a series.
    pub fn count(&self, block: &Block<FIGURES>) {
        block.add(DURATION + DURATIONS.partition_point(|bound| *bound < self.micros), 1);
        block.add(MICROS, self.micros);
        block.add(REQUEST_SIZE + SIZES.partition_point(|bound| *bound < self.request_bytes), 1);
        block.add(RESPONSE_SIZE + SIZES.partition_point(|bound| *bound < self.response_bytes), 1);
        for (at, amount) in [
            (REQUEST_BYTES, self.request_bytes),
            (RESPONSE_BYTES, self.response_bytes),
            (REQUEST_MESSAGES, self.request_messages),
            (RESPONSE_MESSAGES, self.response_messages),
        ] {
            if amount > 0 {
                block.add(at, amount);
            }
        }
    }
}

/// The figures of some series together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSums([u64; FIGURES]);

impl Default for RequestSums {
    fn default() -> Self {
        Self([0; FIGURES])
    }
}

impl RequestSums {
    /// Adds a series.
    pub fn add(&mut self, figures: &[u64; FIGURES]) {
        for (sum, figure) in self.0.iter_mut().zip(figures) {
            *sum = sum.wrapping_add(*figure);
        }
    }

    /// All of it, to be added elsewhere.
    pub fn figures(&self) -> &[u64; FIGURES] {
        &self.0
    }

    fn at(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// How many requests.
    pub fn requests(&self) -> u64 {
        self.durations().iter().sum()
    }

    /// How many up to each of [`DURATIONS`] and above the one before; the last is for the rest.
    pub fn durations(&self) -> &[u64] {
        self.0.get(DURATION..MICROS).unwrap_or_default()
    }

    /// All durations together, in microseconds.
    pub fn micros(&self) -> u64 {
        self.at(MICROS)
    }

    /// How many requests up to each of [`SIZES`] and above the one before.
    pub fn request_sizes(&self) -> &[u64] {
        self.0.get(REQUEST_SIZE..REQUEST_BYTES).unwrap_or_default()
    }

    /// All bytes of their bodies.
    pub fn request_bytes(&self) -> u64 {
        self.at(REQUEST_BYTES)
    }

    /// How many answers up to each of [`SIZES`] and above the one before.
    pub fn response_sizes(&self) -> &[u64] {
        self.0.get(RESPONSE_SIZE..RESPONSE_BYTES).unwrap_or_default()
    }

    /// All bytes of their bodies.
    pub fn response_bytes(&self) -> u64 {
        self.at(RESPONSE_BYTES)
    }

    /// Messages of gRPC that came.
    pub fn request_messages(&self) -> u64 {
        self.at(REQUEST_MESSAGES)
    }

    /// Messages of gRPC that were answered.
    pub fn response_messages(&self) -> u64 {
        self.at(RESPONSE_MESSAGES)
    }
}

/// How many requests up to each of fewer `bounds`, cumulated: each of them has to be one of `all`.
pub fn cumulated(buckets: &[u64], all: &[u64], bounds: &[u64]) -> Vec<u64> {
    let below =
        |bound: &u64| buckets.iter().zip(all).take_while(|(_, up_to)| *up_to <= bound).map(|(count, _)| count).sum();
    bounds.iter().map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::figures::DURATION_BOUNDS_MS;

    #[test]
    fn bounds_are_the_same_in_all_units() {
        for (micros, millis) in DURATIONS.iter().zip(DURATION_BOUNDS_MS) {
            assert!((crate::telemetry::text::to_f64(*micros) / 1e3 - millis).abs() < 1e-9, "{micros} {millis}");
        }
    }

    #[test]
    fn a_request_is_in_one_bucket_of_each_kind() {
        let block = Block::default();
        let rows = [(0, 0), (500, 1), (501, 1), (3_600_000_000, 3_600_000), (u64::MAX / 8, 3_600_001)];
        for (micros, bytes) in rows {
            Request { micros, request_bytes: bytes, response_bytes: 2 * bytes, ..Request::default() }.count(&block);
        }
        let mut sums = RequestSums::default();
        let mut figures = [0; FIGURES];
        block.add_to(&mut figures);
        sums.add(&figures);
        assert_eq!(sums.requests(), 5);
        assert_eq!(sums.durations().first(), Some(&2), "a bound belongs to its bucket");
        assert_eq!((sums.durations().get(22), sums.durations().last()), (Some(&1), Some(&1)));
        assert_eq!(sums.request_sizes().iter().sum::<u64>(), 5);
        assert_eq!((sums.request_sizes().first(), sums.request_sizes().last()), (Some(&1), Some(&1)));
        assert_eq!(sums.response_sizes().last(), Some(&2));
        assert_eq!(sums.request_bytes(), 7_200_003);
    }

    #[test]
    fn fewer_bounds_are_sums_of_more() {
        let (all, buckets) = ([1, 2, 5, 10], [3, 4, 5, 6, 7]);
        assert_eq!(cumulated(&buckets, &all, &[2, 10]), [7, 18]);
        assert_eq!(cumulated(&buckets, &all, &all), [3, 7, 12, 18]);
    }
}
