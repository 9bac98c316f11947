//! Which requests and connections a tap shows.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::Method;
use leno_config::ir::Direction;

use crate::error::{Flag, Flags};

/// All that is said has to hold; what is not said holds always.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Of the answer.
    pub status: Option<StatusRange>,
    /// Of the request.
    pub method: Option<Method>,
    /// How the path begins, without its query.
    pub path: Option<String>,
    /// The host that was asked for; without a port, any port.
    pub authority: Option<String>,
    /// What went wrong.
    pub flag: Option<FlagWish>,
    /// It took at least so long.
    pub min_duration: Option<Duration>,
    /// From the mesh or from the app.
    pub direction: Option<Direction>,
}

/// What a filter looks at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    direction: Direction,
    flags: Flags,
    duration: Duration,
    /// `None`: it is a TCP connection.
    request: Option<RequestFacts<'a>>,
}

/// What a filter looks at in a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// As the caller wrote it.
    pub method: &'a Method,
    /// Without its query.
    pub path: &'a str,
    /// The host that was asked for.
    pub authority: &'a str,
    /// 0: no answer.
    pub code: u16,
}

impl<'a> Facts<'a> {
    /// Of a request, or of a TCP connection.
    pub fn new(direction: Direction, (flags, duration): (Flags, Duration), request: Option<RequestFacts<'a>>) -> Self {
        Self { direction, flags, duration, request }
    }
}

impl Filter {
    /// Whether it is one of those.
    pub fn takes(&self, facts: &Facts<'_>) -> bool {
        self.direction.is_none_or(|direction| direction == facts.direction)
            && self.min_duration.is_none_or(|least| facts.duration >= least)
            && self.flag.as_ref().is_none_or(|flag| flag.takes(facts.flags))
            && match &facts.request {
                Some(request) => self.takes_request(request),
                None => !self.is_for_requests(),
            }
    }

    /// A connection has neither of these.
    fn is_for_requests(&self) -> bool {
        self.status.is_some() || self.method.is_some() || self.path.is_some() || self.authority.is_some()
    }

    fn takes_request(&self, request: &RequestFacts<'_>) -> bool {
        self.status.as_ref().is_none_or(|status| status.takes(request.code))
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self.path.as_deref().is_none_or(|path| request.path.starts_with(path))
            && self.authority.as_deref().is_none_or(|wanted| is_host(wanted, request.authority))
    }
}

/// Whether a host is the one that is wanted, with its port or any.
fn is_host(wanted: &str, host: &str) -> bool {
    let without_port = host.rsplit_once(':').filter(|(name, _)| !name.ends_with(':')).map_or(host, |(name, _)| name);
    host.eq_ignore_ascii_case(wanted) || without_port.eq_ignore_ascii_case(wanted)
}

/// `5xx`, `404`, `>=500`, `>499`, `<400`, `<=399` or `400-499`. No answer at all counts as 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRange(RangeInclusive<u16>);

impl StatusRange {
    /// Whether a status is one of those.
    pub fn takes(&self, code: u16) -> bool {
        self.0.contains(&code)
    }
}

impl FromStr for StatusRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        const LAST: u16 = 999;
        let number = |text: &str| text.parse::<u16>().ok().filter(|code| *code <= LAST);
        let first = |least: u16| Some(least..=LAST);
        let range = if let Some(least) = text.strip_prefix(">=") {
            number(least).and_then(first)
        } else if let Some(below) = text.strip_prefix('>') {
            number(below).and_then(|below| first(below + 1))
        } else if let Some(most) = text.strip_prefix("<=") {
            number(most).map(|most| 0..=most)
        } else if let Some(above) = text.strip_prefix('<') {
            number(above).and_then(|above| Some(0..=above.checked_sub(1)?))
        } else if let Some(class) = text.strip_suffix("xx") {
            class
                .parse::<u16>()
                .ok()
                .filter(|class| (1..=5).contains(class))
                .map(|class| class * 100..=class * 100 + 99)
        } else if let Some((least, most)) = text.split_once('-') {
            number(least).zip(number(most)).map(|(least, most)| least..=most)
        } else {
            number(text).map(|code| code..=code)
        };
        range.filter(|range| !range.is_empty()).map(Self).ok_or(())
    }
}

/// `UF`: this flag; `any`: some flag; `-`: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagWish {
    /// Something is said.
    Any,
    /// Nothing is said.
    None,
    /// This is said, perhaps beside something else.
    This(&'static str),
}

/// Envoy's letters, as far as this proxy sets them.
const FLAGS: [Flag; 21] = [
    Flag::NR,
    Flag::NC,
    Flag::UH,
    Flag::UF,
    Flag::UC,
    Flag::UR,
    Flag::UT,
    Flag::UPE,
    Flag::DC,
    Flag::DPE,
    Flag::DF,
    Flag::LR,
    Flag::UAEX,
    Flag::UO,
    Flag::URX,
    Flag::DI,
    Flag::FI,
    Flag::RL,
    Flag::SI,
    Flag::DT,
    Flag::OM,
];

impl FlagWish {
    fn takes(&self, flags: Flags) -> bool {
        match self {
            Self::Any => flags != Flags::default(),
            Self::None => flags == Flags::default(),
            // In letters, since that is what notes and reasons have in common; only who asks for a flag pays for it.
            Self::This(wanted) => flags.to_string().split(',').any(|flag| flag == *wanted),
        }
    }
}

impl FromStr for FlagWish {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let this = || FLAGS.into_iter().map(Flag::as_str).find(|flag| flag.eq_ignore_ascii_case(text)).map(Self::This);
        match text {
            "any" => Ok(Self::Any),
            "-" | "none" => Ok(Self::None),
            _ => this().ok_or(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u16) -> RequestFacts<'static> {
        RequestFacts { method: &Method::GET, path: "/api/v1/items", authority: "shop:8080", code }
    }

    fn facts(flags: &[Flag], request: Option<RequestFacts<'static>>) -> Facts<'static> {
        let mut all = Flags::default();
        flags.iter().for_each(|flag| all.add(*flag));
        Facts::new(Direction::Outbound, (all, Duration::from_millis(250)), request)
    }

    #[test]
    fn all_that_is_said_has_to_hold() {
        let status = |text: &str| Filter { status: text.parse().ok(), ..Filter::default() };
        let path = |text: &str| Filter { path: Some(text.to_owned()), ..Filter::default() };
        let host = |text: &str| Filter { authority: Some(text.to_owned()), ..Filter::default() };
        let flag = |text: &str| Filter { flag: text.parse().ok(), ..Filter::default() };
        let longer = |millis| Filter { min_duration: Some(Duration::from_millis(millis)), ..Filter::default() };
        let method = |method| Filter { method: Some(method), ..Filter::default() };
        let direction = |direction| Filter { direction: Some(direction), ..Filter::default() };
        // Whether it takes a 503 with URX,UF after 250 ms; whether it takes a TCP connection that ended so.
        let rows = [
            (Filter::default(), true, true),
            (status("5xx"), true, false),
            (status("4xx"), false, false),
            (method(Method::GET), true, false),
            (method(Method::POST), false, false),
            (path("/api"), true, false),
            (path("/web"), false, false),
            (host("shop"), true, false),
            (host("SHOP:8080"), true, false),
            (host("shop:80"), false, false),
            (flag("UF"), true, true),
            (flag("urx"), true, true),
            (flag("UC"), false, false),
            (flag("any"), true, true),
            (flag("-"), false, false),
            (longer(250), true, true),
            (longer(251), false, false),
            (direction(Direction::Outbound), true, true),
            (direction(Direction::Inbound), false, false),
            (Filter { min_duration: Some(Duration::from_secs(1)), ..status("5xx") }, false, false),
        ];
        for (filter, takes_request, takes_connection) in rows {
            let flags = [Flag::UF, Flag::URX];
            assert_eq!(filter.takes(&facts(&flags, Some(request(503)))), takes_request, "{filter:?}");
            assert_eq!(filter.takes(&facts(&flags, None)), takes_connection, "{filter:?}");
        }
        assert!(flag("-").takes(&facts(&[], Some(request(200)))));
    }

    #[test]
    fn statuses_are_written_in_many_ways() {
        let rows: [(&str, &[u16], &[u16]); 8] = [
            ("5xx", &[500, 599], &[499, 600, 0]),
            ("404", &[404], &[403, 405]),
            (">=500", &[500, 999], &[499]),
            (">499", &[500], &[499]),
            ("<400", &[0, 399], &[400]),
            ("<=399", &[399], &[400]),
            ("400-403", &[400, 403], &[399, 404]),
            ("0", &[0], &[200]),
        ];
        for (text, inside, outside) in rows {
            let range: StatusRange = text.parse().expect(text);
            assert!(inside.iter().all(|code| range.takes(*code)), "{text}");
            assert!(!outside.iter().any(|code| range.takes(*code)), "{text}");
        }
        for text in ["", "xx", "9xx", "0xx", "abc", "500-400", "<0", ">999", "1000", "-1", "5xxx"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_flag_is_one_that_there_is() {
        assert_eq!("UF".parse(), Ok(FlagWish::This("UF")));
        assert_eq!("XX".parse::<FlagWish>(), Err(()));
    }
}
