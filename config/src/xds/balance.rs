//! How an endpoint is chosen. Envoy has two forms: `lb_policy` with its options, which Istio writes and every Envoy
//! reads, and `load_balancing_policy`, a list of which the first known entry counts. Leno writes the first and reads both.

use super::any::unpack_if as unpack;
use super::pb;
use super::refusal::{Problem, Result, Within, unsupported};
use super::scalar::{
    duration_from_xds, duration_to_xds, percent_from_xds, percent_to_xds, u32_or, u64_or, wrap_u32, wrap_u64,
};
use crate::defaults;
use crate::ir::{Balance, Fraction, SlowStart};
use pb::balance as policies;
use pb::cluster::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
    ring_hash_lb_config::HashFunction,
};
use pb::core::RuntimeDouble;
use pb::protobuf::{Any, UInt64Value};

/// Envoy: how many are compared where nobody says anything.
const ENVOY_CHOICES: u32 = 2;
/// Envoy: the largest table of Maglev.
const LARGEST_MAGLEV: u64 = 5_000_011;

/// What a cluster says about the choice of its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) balance: Balance,
    pub(super) slow_start: Option<SlowStart>,
    /// Whether localities have weights; `None` where this form leaves it to the cluster.
    pub(super) locality_weighted: Option<bool>,
}

impl Choice {
    fn of(balance: Balance) -> Self {
        Self { balance, slow_start: None, locality_weighted: None }
    }
}

/// A new endpoint ramps up under LEAST_REQUEST and ROUND_ROBIN only, in Envoy as in Istio.
pub(super) fn to_xds(balance: &Balance, slow_start: Option<&SlowStart>) -> (LbPolicy, Option<LbConfig>) {
    let slow_start_config = slow_start.map(slow_start_to_xds);
    match balance {
        Balance::LeastRequest { choices } => (
            LbPolicy::LeastRequest,
            Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: wrap_u32(*choices),
                active_request_bias: None,
                slow_start_config,
            })),
        ),
        Balance::RoundRobin => (
            LbPolicy::RoundRobin,
            slow_start_config.map(|slow_start_config| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow_start_config) })
            }),
        ),
        Balance::Random => (LbPolicy::Random, None),
        // The cluster's metadata has the rest: to Envoy, this is the nearest.
        Balance::PeakEwma => to_xds(&Balance::LeastRequest { choices: ENVOY_CHOICES }, None),
        Balance::RingHash { min, max } => (
            LbPolicy::RingHash,
            Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                minimum_ring_size: wrap_u64(*min),
                maximum_ring_size: wrap_u64(*max),
                hash_function: HashFunction::XxHash.into(),
            })),
        ),
        Balance::Maglev { table } => {
            (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: wrap_u64(*table) })))
        }
    }
}

/// From `lb_policy` and `lb_config`. `provided`: the cluster finds its endpoint itself, so there is nothing to choose.
pub(super) fn from_xds(policy: i32, config: Option<LbConfig>, provided: bool) -> Result<Choice> {
    let policy = LbPolicy::try_from(policy)
        .map_err(|_| Problem::new("lb_policy", format!("Leno does not know load balancing policy {policy}")))?;
    Ok(match (policy, config) {
        // Envoy asks for CLUSTER_PROVIDED here and takes nothing else.
        (_, None) if provided => Choice::of(Balance::LeastRequest { choices: ENVOY_CHOICES }),
        (LbPolicy::LeastRequest, config) => match config {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                let LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = config;
                least_request(choice_count, active_request_bias, slow_start_config).within("least_request_lb_config")?
            }
            _ => Choice::of(Balance::LeastRequest { choices: ENVOY_CHOICES }),
        },
        (LbPolicy::RoundRobin, config) => match config {
            Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => {
                round_robin(slow_start_config).within("round_robin_lb_config")?
            }
            _ => Choice::of(Balance::RoundRobin),
        },
        (LbPolicy::Random, _) => Choice::of(Balance::Random),
        (LbPolicy::RingHash, config) => match config {
            Some(LbConfig::RingHashLbConfig(config)) => {
                let RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = config;
                let hashed = hash_function == i32::from(HashFunction::XxHash);
                ring_hash(minimum_ring_size, maximum_ring_size, hashed).within("ring_hash_lb_config")?
            }
            _ => ring_hash(None, None, true)?,
        },
        (LbPolicy::Maglev, config) => match config {
            Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size })) => {
                maglev(table_size).within("maglev_lb_config")?
            }
            _ => maglev(None)?,
        },
        (LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(_))) => {
            return Err(Problem::unsupported("original_dst_lb_config"));
        }
        (LbPolicy::ClusterProvided, _) => {
            return Err(Problem::new(
                "lb_policy",
                "CLUSTER_PROVIDED is for clusters that find their endpoint themselves",
            ));
        }
        (LbPolicy::LoadBalancingPolicyConfig, _) => return Err(Problem::missing("load_balancing_policy")),
    })
}

/// From `load_balancing_policy`: the first entry that is known, as Envoy and gRPC do.
pub(super) fn list_from_xds(list: pb::cluster::LoadBalancingPolicy) -> Result<Choice> {
    let pb::cluster::LoadBalancingPolicy { policies } = list;
    for (index, policy) in policies.into_iter().enumerate() {
        let pb::cluster::load_balancing_policy::Policy { typed_extension_config } = policy;
        let Some(pb::core::TypedExtensionConfig { name: _, typed_config: Some(config) }) = typed_extension_config
        else {
            continue;
        };
        if let Some(choice) = entry_from_xds(&config).within("typed_extension_config").within_item("policies", index)? {
            return Ok(choice);
        }
    }
    Err(Problem::new("policies", "holds no policy that Leno knows"))
}

/// One entry; nothing where it is not known.
fn entry_from_xds(config: &Any) -> Result<Option<Choice>> {
    if let Some(policy) = unpack::<policies::least_request::v3::LeastRequest>(config)? {
        return least_request_entry(policy).map(Some);
    }
    if let Some(policy) = unpack::<policies::round_robin::v3::RoundRobin>(config)? {
        let policies::round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } = policy;
        let choice = round_robin(slow_start_config.map(older))?;
        return weighted(choice, locality_lb_config).map(Some);
    }
    if let Some(policies::random::v3::Random { locality_lb_config }) = unpack(config)? {
        return weighted(Choice::of(Balance::Random), locality_lb_config).map(Some);
    }
    if let Some(policy) = unpack::<policies::ring_hash::v3::RingHash>(config)? {
        return ring_hash_entry(policy).map(Some);
    }
    if let Some(policy) = unpack::<policies::maglev::v3::Maglev>(config)? {
        let policies::maglev::v3::Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } =
            policy;
        unsupported(&[("consistent_hashing_lb_config", &consistent_hashing_lb_config)])?;
        let locality_weighted = Some(locality_weighted_lb_config.is_some());
        return Ok(Some(Choice { locality_weighted, ..maglev(table_size)? }));
    }
    if let Some(policies::wrr_locality::v3::WrrLocality { endpoint_picking_policy }) = unpack(config)? {
        let inner = endpoint_picking_policy.ok_or_else(|| Problem::missing("endpoint_picking_policy"))?;
        let choice = list_from_xds(inner).within("endpoint_picking_policy")?;
        return Ok(Some(Choice { locality_weighted: Some(true), ..choice }));
    }
    Ok(None)
}

fn least_request_entry(policy: policies::least_request::v3::LeastRequest) -> Result<Choice> {
    #[allow(deprecated)]
    let policies::least_request::v3::LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = policy;
    unsupported(&[
        ("enable_full_scan", &super::refusal::is_true(&enable_full_scan)),
        ("selection_method", &selection_method),
    ])?;
    weighted(least_request(choice_count, active_request_bias, slow_start_config.map(older))?, locality_lb_config)
}

fn ring_hash_entry(policy: policies::ring_hash::v3::RingHash) -> Result<Choice> {
    use policies::ring_hash::v3::{RingHash, ring_hash::HashFunction};
    #[allow(deprecated)]
    let RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = policy;
    unsupported(&[
        ("use_hostname_for_hashing", &use_hostname_for_hashing),
        ("hash_balance_factor", &hash_balance_factor),
        ("consistent_hashing_lb_config", &consistent_hashing_lb_config),
    ])?;
    let hashed = matches!(HashFunction::try_from(hash_function), Ok(HashFunction::DefaultHash | HashFunction::XxHash));
    let locality_weighted = Some(locality_weighted_lb_config.is_some());
    Ok(Choice { locality_weighted, ..ring_hash(minimum_ring_size, maximum_ring_size, hashed)? })
}

fn weighted(choice: Choice, locality: Option<policies::common::v3::LocalityLbConfig>) -> Result<Choice> {
    use policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
    match locality.and_then(|locality| locality.locality_config_specifier) {
        None => Ok(Choice { locality_weighted: Some(false), ..choice }),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            Ok(Choice { locality_weighted: Some(true), ..choice })
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            Err(Problem::unsupported("locality_lb_config.zone_aware_lb_config"))
        }
    }
}

fn least_request(
    choices: Option<pb::protobuf::UInt32Value>,
    bias: Option<RuntimeDouble>,
    slow_start: Option<SlowStartConfig>,
) -> Result<Choice> {
    if bias.is_some_and(|RuntimeDouble { default_value, runtime_key: _ }| default_value != 1.0) {
        return Err(Problem::new("active_request_bias", "only 1, the default, is supported"));
    }
    let choices = u32_or(choices, ENVOY_CHOICES);
    if choices < 2 {
        return Err(Problem::new("choice_count", format!("is at least 2, this is {choices}")));
    }
    let slow_start = slow_start.map(slow_start_from_xds).transpose().within("slow_start_config")?;
    Ok(Choice { slow_start, ..Choice::of(Balance::LeastRequest { choices }) })
}

fn round_robin(slow_start: Option<SlowStartConfig>) -> Result<Choice> {
    let slow_start = slow_start.map(slow_start_from_xds).transpose().within("slow_start_config")?;
    Ok(Choice { slow_start, ..Choice::of(Balance::RoundRobin) })
}

fn ring_hash(min: Option<UInt64Value>, max: Option<UInt64Value>, hashed: bool) -> Result<Choice> {
    unsupported(&[("hash_function", &!hashed)])?;
    let (min, max) = (u64_or(min, defaults::RING_MIN), u64_or(max, defaults::RING_MAX));
    if min == 0 || max > defaults::RING_MAX || min > max {
        let reason = format!("a ring from {min} to {max} does not fit into 1 to {}", defaults::RING_MAX);
        return Err(Problem::new("minimum_ring_size", reason));
    }
    Ok(Choice::of(Balance::RingHash { min, max }))
}

fn maglev(table: Option<UInt64Value>) -> Result<Choice> {
    let table = u64_or(table, defaults::MAGLEV_TABLE);
    if table > LARGEST_MAGLEV || !is_prime(table) {
        let reason = format!("is a prime up to {LARGEST_MAGLEV}, which {table} is not");
        return Err(Problem::new("table_size", reason));
    }
    Ok(Choice::of(Balance::Maglev { table }))
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2_u64..).take_while(|divisor| divisor.saturating_mul(*divisor) <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

fn slow_start_to_xds(slow_start: &SlowStart) -> SlowStartConfig {
    let SlowStart { window, aggression, min_share } = slow_start;
    SlowStartConfig {
        slow_start_window: Some(duration_to_xds(*window)),
        aggression: Some(RuntimeDouble {
            default_value: *aggression,
            runtime_key: "leno.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: Some(percent_to_xds(*min_share)),
    }
}

fn slow_start_from_xds(slow_start: SlowStartConfig) -> Result<SlowStart> {
    let SlowStartConfig { slow_start_window, aggression, min_weight_percent } = slow_start;
    let window = slow_start_window.ok_or_else(|| Problem::missing("slow_start_window"))?;
    let aggression = aggression.map_or(1.0, |RuntimeDouble { default_value, runtime_key: _ }| default_value);
    if !(aggression.is_finite() && aggression > 0.0) {
        return Err(Problem::new("aggression", format!("is greater than 0, this is {aggression}")));
    }
    let default = || Fraction::from_percent(defaults::WARMUP_MIN_PERCENT).map_err(Problem::from);
    Ok(SlowStart {
        window: duration_from_xds(window).within("slow_start_window")?,
        aggression,
        min_share: min_weight_percent.map_or_else(default, percent_from_xds).within("min_weight_percent")?,
    })
}

/// The newer form's message in the older form; they hold the same.
fn older(slow_start: policies::common::v3::SlowStartConfig) -> SlowStartConfig {
    let policies::common::v3::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = slow_start;
    SlowStartConfig { slow_start_window, aggression, min_weight_percent }
}
