//! Which endpoint is called.

use super::findings::Findings;
use super::values::Zero;
use crate::diagnostic::codes;
use crate::rules::{
    ConsistentHashLb, LoadBalancerSettings, LocalityLoadBalancerSetting, Path, SimpleLb, WarmupConfiguration,
};

/// Maglev's table is a prime below this (Envoy).
const MAGLEV_LIMIT: u64 = 5_000_011;
/// Largest ring (Envoy).
const RING_LIMIT: u64 = 8 * 1024 * 1024;

pub(super) fn check(settings: &LoadBalancerSettings, path: &Path, found: &mut Findings) {
    let LoadBalancerSettings { simple, consistent_hash, locality_lb_setting, warmup_duration_secs, warmup } = settings;
    if simple.is_some() && consistent_hash.is_some() {
        let message = "`consistentHash` stands beside `simple`; endpoints are chosen in one way";
        found.add(codes::EXCLUSIVE, &path.key("consistentHash"), message).on_key().help("remove one of the two");
    }
    if let Some(hash) = consistent_hash {
        check_hash(hash, &path.key("consistentHash"), found);
    }
    if let Some(locality) = locality_lb_setting {
        check_locality(locality, &path.key("localityLbSetting"), found);
    }
    if warmup_duration_secs.is_some() {
        let path = path.key("warmupDurationSecs");
        found.duration(&path, warmup_duration_secs.as_ref(), Zero::Refused);
        let help = "use `warmup: {duration: …}`";
        found.add(codes::DEPRECATED, &path, "`warmupDurationSecs` is going away").on_key().help(help);
    }
    if let Some(warmup) = warmup {
        check_warmup(warmup, &path.key("warmup"), found);
    }
    if warmup.is_some() || warmup_duration_secs.is_some() {
        let can_warm_up = match simple.unwrap_or_default() {
            SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::RoundRobin => true,
            SimpleLb::Random | SimpleLb::Passthrough => false,
        };
        if !can_warm_up || consistent_hash.is_some() {
            let field = if warmup.is_some() { "warmup" } else { "warmupDurationSecs" };
            let message = "only ROUND_ROBIN and LEAST_REQUEST warm endpoints up";
            found.add(codes::NO_EFFECT, &path.key(field), message).on_key();
        }
    }
}

fn check_hash(hash: &ConsistentHashLb, path: &Path, found: &mut Findings) {
    let keys: Vec<&str> = [
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip.is_some()),
        ("httpQueryParameterName", hash.http_query_parameter_name.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(name, _)| name)
    .collect();
    match keys.as_slice() {
        [] => {
            let help = "add one of `httpHeaderName`, `httpCookie`, `useSourceIp` and `httpQueryParameterName`";
            found.add(codes::REQUIRED, path, "nothing says what is hashed").help(help);
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                let message = format!("`{other}` stands beside `{first}`; one thing is hashed");
                found.add(codes::EXCLUSIVE, &path.key(other), message).on_key();
            }
        }
    }
    if let Some(name) = hash.http_header_name.as_deref().filter(|name| name.parse::<http::HeaderName>().is_err()) {
        let message = format!("`{name}` is not a header name (RFC 9110 §5.1)");
        found.add(codes::HEADER, &path.key("httpHeaderName"), message);
    }
    if let Some(cookie) = &hash.http_cookie {
        let path = path.key("httpCookie");
        if cookie.name.is_empty() {
            found.add(codes::REQUIRED, &path, "the cookie has no name").help("add `name`");
        }
        found.duration(&path.key("ttl"), cookie.ttl.as_ref(), Zero::Allowed);
    }
    check_table(hash, path, found);
}

/// Ring or table.
fn check_table(hash: &ConsistentHashLb, path: &Path, found: &mut Findings) {
    if hash.minimum_ring_size.is_some() {
        let path = path.key("minimumRingSize");
        found.add(codes::DEPRECATED, &path, "`minimumRingSize` is going away").on_key().help("use `ringHash`");
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        found.add(codes::EXCLUSIVE, &path.key("maglev"), "`maglev` stands beside `ringHash`").on_key();
    }
    let ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    if let Some(size) = ring.filter(|size| *size > RING_LIMIT) {
        let path = path.key("ringHash").key("minimumRingSize");
        found.add(codes::NUMBER, &path, format!("a ring of {size} is too large")).help(format!("at most {RING_LIMIT}"));
    }
    let table = hash.maglev.as_ref().and_then(|maglev| maglev.table_size);
    if let Some(size) = table.filter(|size| *size >= MAGLEV_LIMIT || !is_prime(*size)) {
        let path = path.key("maglev").key("tableSize");
        let message = format!("{size} is not a prime below {MAGLEV_LIMIT}");
        found.add(codes::NUMBER, &path, message).help("for example 65537");
    }
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2_u64..).take_while(|divisor| divisor.saturating_mul(*divisor) <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

fn check_warmup(warmup: &WarmupConfiguration, path: &Path, found: &mut Findings) {
    if warmup.duration.is_none() {
        found.add(codes::REQUIRED, path, "the warm-up has no length").help("add `duration`");
    }
    found.duration(&path.key("duration"), warmup.duration.as_ref(), Zero::Refused);
    if let Some(percent) = warmup.minimum_percent {
        found.percentage(&path.key("minimumPercent"), percent);
    }
    if let Some(aggression) = warmup.aggression.filter(|aggression| !(*aggression >= 1.0 && aggression.is_finite())) {
        found
            .add(codes::NUMBER, &path.key("aggression"), format!("an aggression of {aggression} is too small"))
            .help("it is 1 or more");
    }
}

pub(super) fn check_locality(setting: &LocalityLoadBalancerSetting, path: &Path, found: &mut Findings) {
    if !setting.distribute.is_empty() {
        for (field, is_set) in
            [("failover", !setting.failover.is_empty()), ("failoverPriority", !setting.failover_priority.is_empty())]
        {
            if is_set {
                let message = format!("`{field}` stands beside `distribute`");
                found.add(codes::EXCLUSIVE, &path.key(field), message).on_key().help("remove one of the two");
            }
        }
    }
    check_distribute(setting, &path.key("distribute"), found);
    for (index, failover) in setting.failover.iter().enumerate() {
        let path = path.key("failover").index(index);
        for (field, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.is_empty() || region.contains(['/', '*']) {
                let message = format!("`{region}` is not a region");
                found.add(codes::LOCALITY, &path.key(field), message).help("failover goes from region to region");
            }
        }
        if !failover.from.is_empty() && failover.from == failover.to {
            found.add(codes::LOCALITY, &path.key("to"), "a region cannot stand in for itself");
        }
    }
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if label.is_empty() || label.starts_with('=') {
            found.add(codes::LABEL, &path.key("failoverPriority").index(index), "this is no label");
        }
    }
}

fn check_distribute(setting: &LocalityLoadBalancerSetting, path: &Path, found: &mut Findings) {
    let froms = setting.distribute.iter().enumerate();
    found.unique(froms.map(|(index, share)| (path.index(index).key("from"), share.from.as_str())));
    for (index, share) in setting.distribute.iter().enumerate() {
        let path = path.index(index);
        if !is_locality(&share.from) {
            locality_fault(&share.from, &path.key("from"), found);
        }
        let path = path.key("to");
        for (place, percent) in &share.to {
            if !is_locality(place) {
                locality_fault(place, &path.key(place), found);
            }
            if !(1..=100).contains(percent) {
                found.add(codes::PERCENTAGE, &path.key(place), format!("{percent} is not a share")).help("1 to 100");
            }
        }
        let total: u64 = share.to.values().map(|percent| u64::from(*percent)).sum();
        if total != 100 {
            found.add(codes::LOCALITY, &path, format!("the shares add up to {total}")).help("they add up to 100");
        }
    }
}

fn locality_fault(written: &str, path: &Path, found: &mut Findings) {
    let help = "write `region/zone/subzone`; a `*` may stand at the end";
    found.add(codes::LOCALITY, path, format!("`{written}` is not a locality")).help(help);
}

/// `region`, `region/zone`, `region/zone/subzone`; the last part may be `*`.
pub(super) fn is_locality(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let (last, before) = parts.split_last().unwrap_or((&"", &[]));
    parts.len() <= 3
        && !parts.contains(&"")
        && before.iter().all(|part| !part.contains('*'))
        && (*last == "*" || !last.contains('*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_have_up_to_three_parts() {
        for text in ["r1", "r1/z1", "r1/z1/s1", "r1/*", "r1/z1/*", "*"] {
            assert!(is_locality(text), "{text}");
        }
        for text in ["", "/", "r1/", "r1//s1", "a/b/c/d", "*/z", "r*"] {
            assert!(!is_locality(text), "{text}");
        }
    }

    #[test]
    fn primes_are_told_from_other_numbers() {
        assert!([2, 3, 65_537, 5_000_011].into_iter().all(is_prime));
        assert!(![0, 1, 4, 65_536, 25].into_iter().any(is_prime));
    }
}
