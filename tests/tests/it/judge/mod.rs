//! The real Envoy as the judge: the same rules, the same control plane, the same requests and the same faults, and two
//! data planes that have to come to the same end.
//!
//! A [`case`](case::case) is a service with rules and requests; the scripts of the requests say what the upstream does.
//! Compared are status, flags, body, headers and trailers of the answer, who saw how many attempts, and what the last of
//! them looked like: with 1 and with 4 workers, in clear text and with mTLS.
//!
//! The tables also say what Envoy does (measured on 1.40.0), so that a mistake in the set-up does not pass for
//! agreement. Where Leno is meant to differ stands in [`differences`], and nowhere else.

mod case;
mod cases;
mod differences;
mod envoy;
mod generated;
mod outcome;
mod run;
mod tap;
mod world;

use crate::real_envoy;

/// All cases in one world: starting its programs takes longer than most of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leno_and_envoy_come_to_the_same_end() {
    let Some(envoy) = real_envoy::program("a real Envoy as the judge of the data plane") else { return };
    let cases = cases::all();
    let world = world::World::start(&envoy, &cases).await;
    run::judge(&world, &cases).await;
}

/// `LENO_JUDGE_SEED` makes other rules and requests; the seed is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leno_and_envoy_agree_on_generated_rules() {
    let Some(envoy) = real_envoy::program("a real Envoy as the judge of generated rules") else { return };
    let seed = std::env::var("LENO_JUDGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    eprintln!("LENO_JUDGE_SEED={seed}");
    let cases = generated::cases(seed);
    let world = world::World::start(&envoy, &cases).await;
    run::judge(&world, &cases).await;
}
